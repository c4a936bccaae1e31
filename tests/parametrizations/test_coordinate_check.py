"""Coordinate check (Yang et al. 2022, appendix D.1): how far activations move in the first steps, against width.

Under muP every activation moves by the same amount at every width; under SP the logits and the outputs of hidden layers
move further the wider the model. The base width lies well below the widths, so that the initial function, which muP
shrinks as width^-1/2, is already small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.budget import Budget
from harness.components import bind
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.schedules import SCHEDULES
from harness.trial import Trial
from workloads.base import Array, Batch, Params, Workload
from workloads.image_mlp import ImageMLP
from workloads.language_model import LanguageModel, _mlp
from workloads.layers import rms_norm

STEPS = 4
SEEDS = (0, 1, 2, 3)
BASE_WIDTH = 8
FLAT = 0.15  # of the log-log slope; one wrong exponent moves a slope by 1/2
GROWS = 0.3
_QUICK_COMPILE = {"xla_backend_optimization_level": 0}

Activations = Callable[[Any, Params, Batch], dict[str, Array]]


def language_model_activations(model: LanguageModel, params: Params, batch: Batch) -> dict[str, Array]:
    """Embedding, the output of every branch, and logits."""
    tokens = batch[:, :-1]
    x = params["embedding"][tokens.reshape(-1).astype(jnp.int32)]
    found = {"embedding": x}
    for layer in range(model.depth):
        block = params[f"layer_{layer}"]
        attention = model._attention(block, rms_norm(x, block["attention_norm"]))
        x = x + model.residual_scale * attention
        mlp = _mlp(block, rms_norm(x, block["mlp_norm"]))
        x = x + model.residual_scale * mlp
        found |= {f"attention_{layer}": attention, f"mlp_{layer}": mlp}
    return found | {"logits": model.logits(params, tokens)}


def image_mlp_activations(model: ImageMLP, params: Params, batch: Batch) -> dict[str, Array]:
    """Preactivations and logits."""
    hidden, found = batch["images"], {}
    for layer in range(model.depth + 1):
        linear = params[f"hidden_{layer}" if layer < model.depth else "output"]
        found[f"hidden_{layer}"] = hidden @ linear["kernel"] + linear["bias"][None, :]
        hidden = jnp.maximum(found[f"hidden_{layer}"], 0.0)
    found["logits"] = model.output_scale * found.pop(f"hidden_{model.depth}")
    return found


@dataclass(frozen=True)
class Case:
    """What is trained, and which activations must move further with width under SP.

    alone: layer -> its activation, which is measured also with this layer's kernel trained only: what the layers below
    and the bias move can hide that the kernel stands still.
    """

    workload: Workload
    activations: Activations
    optimizer: str
    learning_rate: float
    widths: tuple[int, ...]
    grows: tuple[str, ...]
    alone: Mapping[str, str] = field(default_factory=dict)


_TOKENS = LanguageModel(corpus="zipf_markov:vocab_size=16", heads=4, context=16, batch_size=8)
_IMAGES = ImageMLP(depth=2, batch_size=16)
_LAYERS = {"hidden_0": "hidden_0", "hidden_1": "hidden_1", "output": "logits"}
_SMALL, _LARGE = (32, 64, 128, 256), (128, 256, 512, 1024)
CASES = {
    "language_model-adamw": Case(
        _TOKENS.replace(depth=2),
        language_model_activations,
        "adamw",
        1e-2,
        _SMALL,
        ("logits", "attention_0", "mlp_0", "attention_1", "mlp_1"),
    ),
    "language_model_tied-adamw": Case(
        _TOKENS.replace(depth=1, tied_embeddings=True),
        language_model_activations,
        "adamw",
        1e-2,
        (32, 96, 256),
        ("logits", "attention_0", "mlp_0"),
    ),
    "image_mlp-adamw": Case(_IMAGES, image_mlp_activations, "adamw", 1e-2, _LARGE, ("logits", "hidden_1"), _LAYERS),
    "image_mlp-momentum": Case(
        _IMAGES, image_mlp_activations, "momentum", 0.1, _LARGE, ("logits", "hidden_1"), _LAYERS
    ),
}


def trials(case: Case, parametrization: str, width: int) -> list[Trial]:
    """One per seed; all see the same batches."""
    return [
        Trial(
            workload=case.workload.replace(width=width),
            optimizer=OPTIMIZERS[case.optimizer](learning_rate=case.learning_rate),
            schedule=SCHEDULES["constant"](warmup="0 steps"),
            parametrization=PARAMETRIZATIONS[parametrization](base_width=BASE_WIDTH),
            budget=Budget(steps=STEPS),
            seed=seed,
            data_seed=0,
        )
        for seed in SEEDS
    ]


def compiled_movement(case: Case, width: int) -> Callable[..., dict[str, Array]]:
    """hparams of all seeds, data -> RMS change of each activation after STEPS steps. SP and muP share the program."""
    static = trials(case, "sp", width)[0].static()
    train = make_train(static)

    def one_seed(hparams: Any, data: Any) -> dict[str, Array]:
        start = train.init(hparams)
        end = jax.lax.fori_loop(0, STEPS, lambda _, state: train.step(state, hparams, data)[0], start)
        workload = bind(static.workload, hparams.workload)
        batch = workload.batch(data, jax.random.key(1), jnp.int32(0))
        alone = [with_trained_kernel(start.params, end.params, layer) for layer in case.alone]
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), start.params, end.params, *alone)
        found = jax.lax.map(lambda params: case.activations(workload, params, batch), stack)
        squares = {name: jnp.mean(jnp.square(each[1:] - each[:1]), (1, 2)) for name, each in found.items()}
        own = {f"{layer} alone": squares[name][1 + i] for i, (layer, name) in enumerate(case.alone.items())}
        return {name: each[0] for name, each in squares.items()} | own

    def over_seeds(hparams: Any, data: Any) -> dict[str, Array]:
        squares = jax.lax.map(lambda one: one_seed(one, data), hparams)
        return {name: jnp.sqrt(jnp.mean(square)) for name, square in squares.items()}

    arguments = stacked(trials(case, "sp", width)), dict(case.workload.load().arrays)
    return jax.jit(over_seeds).lower(*arguments).compile(compiler_options=_QUICK_COMPILE)


def with_trained_kernel(start: Params, end: Params, layer: str) -> Params:
    return start | {layer: start[layer] | {"kernel": end[layer]["kernel"]}}


def stacked(group: Sequence[Trial]) -> Any:
    return jax.tree.map(lambda *values: np.stack(values), *(trial.hparams() for trial in group))


def slopes(movements: Sequence[dict[str, Array]], widths: Sequence[int]) -> dict[str, float]:
    """Log-log slope of each activation's movement against width, by least squares."""
    return {
        name: float(np.polyfit(np.log(widths), np.log([float(m[name]) for m in movements]), 1)[0])
        for name in movements[0]
    }


@pytest.mark.parametrize("name", CASES)
def test_updates_are_flat_in_width_under_mup_and_grow_under_sp(name: str) -> None:
    case = CASES[name]
    data = dict(case.workload.load().arrays)
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(lambda width: compiled_movement(case, width), case.widths))
    found = {
        parametrization: slopes(
            [
                program(stacked(trials(case, parametrization, width)), data)
                for program, width in zip(programs, case.widths, strict=True)
            ],
            case.widths,
        )
        for parametrization in ("sp", "mup")
    }
    assert {key: slope for key, slope in found["mup"].items() if abs(slope) > FLAT} == {}
    assert {key: found["sp"][key] for key in case.grows if found["sp"][key] < GROWS} == {}


def test_the_activations_are_those_of_the_model() -> None:
    """The check looks at forward passes written out above; their logits must be the models' own."""
    model = _TOKENS.replace(width=8, depth=2, residual_scale=0.7, output_scale=0.3)
    params = jax.jit(model.init)(jax.random.key(0))
    batch = jax.jit(model.batch)(dict(model.load().arrays), jax.random.key(1), 0)
    found = jax.jit(language_model_activations, static_argnums=0)(model, params, batch)
    branches = [found[f"{kind}_{layer}"] for layer in (0, 1) for kind in ("attention", "mlp")]
    x = found["embedding"] + 0.7 * sum(branches)
    readout = 0.3 * rms_norm(x, params["final_norm"]) @ params["readout"]
    np.testing.assert_allclose(readout, found["logits"], rtol=1e-4, atol=1e-5)

    mlp = _IMAGES.replace(width=8, output_scale=0.3)
    params = jax.jit(mlp.init)(jax.random.key(0))
    batch = mlp.batch(dict(mlp.load().arrays), jax.random.key(1), jnp.int32(0))
    logits = image_mlp_activations(mlp, params, batch)["logits"]
    log_p = jax.nn.log_softmax(logits)[np.arange(16), batch["labels"]]
    assert float(-jnp.mean(log_p)) == pytest.approx(float(mlp.loss(params, batch, jax.random.key(0))[0]), rel=1e-5)
