"""What the literature recommends to all who do not tune: one configuration of every registered optimizer, and who says so.

The paper's recommendation; where a paper names none, the default of its authors' code, or else of the library through which the
optimizer is mostly used. None: learning rates were tuned wherever it was published, or follow the batch size. Only what differs
from optax's defaults stands beside the learning rate; recommended schedules are left to the submission's own.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.optimizers.base import Literature


def _rate(learning_rate: float, source: str, **others: float) -> Literature:
    return Literature({"learning_rate": learning_rate, **others}, source)


_MUON = {"weight_decay": 0.01, "adam_learning_rate": 3e-4, "adam_b2": 0.95}  # vectors are Adam's
_NADAMW = {"b1": 1 - 0.06733926164, "b2": 0.9955159689799007, "weight_decay": 0.08121616522670176}

LITERATURE: Mapping[str, Literature | None] = {
    "acprop": _rate(1e-3, "Zhuang et al. 2021, the authors' runs on CIFAR-10"),
    "adabelief": _rate(1e-3, "Zhuang et al. 2020, section 3 (Adam's default)"),
    "adadelta": _rate(1.0, "Zeiler 2012, algorithm 1 (no learning rate) and section 4.1", rho=0.95),
    "adafactor": _rate(1e-2, "Shazeer & Stern 2018, algorithm 6 (the cap of the relative step size)"),
    "adagrad": _rate(1e-2, "Ruder 2016, section 4.3, and PyTorch's Adagrad"),
    "adam": _rate(1e-3, "Kingma & Ba 2015, algorithm 1"),
    "adamax": _rate(2e-3, "Kingma & Ba 2015, algorithm 2"),
    "adamaxw": None,  # published nowhere
    "adamw": _rate(
        1e-3, "Loshchilov & Hutter 2019, algorithm 2; its weight decay is PyTorch's AdamW's", weight_decay=1e-2
    ),
    "adan": _rate(1e-3, "Xie et al. 2022, the authors' code"),
    "ademamix": _rate(1e-3, "Pagliardini et al. 2024, the authors' code"),
    "adopt": _rate(1e-3, "Taniguchi et al. 2024, the authors' code"),
    "amsgrad": _rate(1e-3, "PyTorch's Adam(amsgrad=True) (Reddi et al. 2018 name none)"),
    "cocob": _rate(1.0, "Orabona & Tommasi 2017, algorithm 2 (no learning rate)"),
    "dadapt_adamw": _rate(1.0, "Defazio & Mishchenko 2023, the authors' code (no learning rate)"),
    "dog": _rate(1.0, "Ivgi et al. 2023 (no learning rate)"),
    "dowg": _rate(1.0, "Khaled et al. 2023, algorithm 1 (no learning rate)"),
    "fromage": _rate(1e-2, "Bernstein et al. 2020, the authors' code: a good initial value"),
    "lamb": _rate(1e-3, "NVIDIA Apex's FusedLAMB (You et al. 2020 scale it with the batch size)", weight_decay=1e-2),
    "lars": None,  # You et al. 2017 scale its rate with the batch size, and say no more
    "lion": _rate(1e-4, "Chen et al. 2023, the authors' code", weight_decay=0.0),
    "madgrad": _rate(1e-2, "Defazio & Jelassi 2021, the authors' code"),
    "momentum": _rate(0.1, "He et al. 2016, section 3.4"),
    "momo": _rate(1.0, "Schaipp et al. 2023, the authors' code"),
    "momo_adam": _rate(1e-2, "Schaipp et al. 2023, the authors' code"),
    "muon": _rate(0.02, "Jordan et al. 2024, the authors' code (there for hidden matrices, here for all)", **_MUON),
    "nadam": _rate(2e-3, "Dozat 2016, as in Keras 2 and PyTorch's NAdam"),
    "nadamw": _rate(0.0017486387539278373, "AlgoPerf's self-tuning baseline (jax_nadamw_full_budget.py)", **_NADAMW),
    "nesterov": _rate(0.1, "Zagoruyko & Komodakis 2016, section 3"),
    "novograd": _rate(1e-3, "Ginsburg et al. 2019, the authors' code", b1=0.95, b2=0.98),
    "optimistic_adam_v2": None,  # for games
    "optimistic_gradient_descent": None,  # for games
    "prodigy": _rate(1.0, "Mishchenko & Defazio 2023 (no learning rate)"),
    "radam": _rate(1e-3, "Liu et al. 2020, the authors' code"),
    "rmsprop": _rate(1e-3, "Ruder 2016, section 4.5, who quotes Hinton"),
    "rprop": _rate(0.1, "Riedmiller & Braun 1993 (the initial update value)"),
    "schedule_free_adamw": _rate(2.5e-3, "Defazio et al. 2024, the authors' code"),
    "schedule_free_sgd": _rate(1.0, "Defazio et al. 2024, the authors' code"),
    "sgd": _rate(1e-2, "Bengio 2012, section 3.1.1"),
    "sign_sgd": None,  # Bernstein et al. 2018 tune it
    "signum": None,  # Bernstein et al. 2018 tune it
    "simplified_ademamix": None,  # Morwani et al. 2025 tune it
    "sm3": None,  # Anil et al. 2019 tune it
    "yogi": _rate(1e-2, "Zaheer et al. 2018, as in TensorFlow Addons' Yogi"),
}
"""Registered name -> its default, or None."""
