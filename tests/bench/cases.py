"""The trials that are benchmarked."""

from __future__ import annotations

from dataclasses import replace

from harness.budget import Budget
from harness.config import WORKLOADS
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.schedules import SCHEDULES
from harness.trial import Trial
from workloads.base import Workload
from workloads.language_model import LanguageModel

# Far from divergence, so that every trial trains every step; the factor, because a noisy first batch of the regression
# can have a fifth of the usual loss.
RATES = {"adamw": 1e-3, "sgd": 1e-3}
_DIVERGENCE = 1e6


def trial(workload: Workload, optimizer: str, steps: int, seed: int = 0, precision: str = "float32") -> Trial:
    """`steps` steps with one evaluation, so that any number of steps up to `steps` is one call of the program."""
    fields = {"b2": 0.98} if optimizer == "adamw" else {}
    return Trial(
        workload=workload,
        optimizer=OPTIMIZERS[optimizer](learning_rate=RATES[optimizer], **fields),  # type: ignore[call-arg]
        schedule=SCHEDULES["cosine"](),
        parametrization=PARAMETRIZATIONS["sp"](),
        budget=Budget(steps=steps),
        seed=seed,
        evaluations=1,
        divergence_factor=_DIVERGENCE,
        precision=precision,
    )


def seeds(one: Trial, count: int) -> list[Trial]:
    """The trial on seeds 0, 1, ..."""
    return [replace(one, seed=seed) for seed in range(count)]


def language_model(width: int) -> LanguageModel:
    """Bytes of the standard library's source, 2 layers, 4 heads, batch 16 x 64 tokens."""
    return LanguageModel(width=width, depth=2, heads=4, batch_size=16, context=64)


def family(name: str, **fields: int) -> Workload:
    """A workload at its defaults, but for `fields`."""
    return WORKLOADS[name](**fields)
