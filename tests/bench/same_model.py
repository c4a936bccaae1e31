"""Whether PyTorch's model and training are the engine's: the same parameters and batches must give the same losses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.engine.program import State, make_train
from harness.trial import Static, Trial
from tests.bench.worker import Worker
from workloads.base import Params
from workloads.language_model import LanguageModel

TOLERANCE = 1e-4
_STEPS = 4


def send(worker: Worker, trial: Trial, folder: Path, seconds: float) -> dict[str, Any]:
    """Give the worker the trial: its shape, its training, perturbed initial parameters and the training tokens."""
    workload, optimizer = trial.workload, trial.optimizer
    assert isinstance(workload, LanguageModel)
    shape = {"width": workload.width, "depth": workload.depth, "heads": workload.heads, "context": workload.context}
    training = {name: getattr(optimizer, name) for name in ("learning_rate", "weight_decay", "b1", "b2", "eps")}
    path = folder / f"torch_{workload.width}.npz"
    params = {f"params.{name}": value for name, value in flat(initial_params(trial)).items()}
    np.savez(path, allow_pickle=False, tokens=workload.load().arrays["train"], **params)
    return worker.ask(
        load=str(workload.width),
        path=str(path),
        shape=shape | {"vocab": workload.vocab_size, "batch": workload.batch_size},
        training=training | {"warmup": trial.lengths()["warmup"], "horizon": float(trial.horizon)},
        seconds=seconds,
    )


def initial_params(trial: Trial) -> Params:
    """The trial's own, plus noise: branches that begin at zero would hide their differences."""
    params = _compiled(trial.static())[0](trial.hparams()).params
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda p: np.asarray(p) + noise.normal(0.0, 0.05, p.shape).astype(np.float32), params)


@functools.cache
def _compiled(static: Static) -> tuple[Callable[..., State], Callable[..., tuple[State, Any]]]:
    """init and step."""
    train = make_train(static)
    return jax.jit(train.init), jax.jit(train.step)


def flat(params: Params) -> dict[str, np.ndarray]:
    """{"layer_0": {"mlp_in": x}} -> {"layer_0.mlp_in": x}."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {".".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


def engine_losses(trial: Trial, params: Params) -> tuple[list[float], list[Any]]:
    """Losses of the first steps from `params`, and the batches."""
    init, step = _compiled(trial.static())
    hparams = jax.tree.map(jnp.asarray, trial.hparams())
    data = {name: jnp.asarray(array) for name, array in trial.workload.load().arrays.items()}
    key = jax.random.key(hparams.data_seed)
    state = init(hparams)._replace(params=jax.tree.map(jnp.asarray, params))
    losses, batches = [], []
    for _ in range(_STEPS):
        batches.append(np.asarray(trial.workload.batch(data, key, state.step)).astype(int).tolist())
        state, loss = step(state, hparams, data)
        losses.append(float(loss))
    return losses, batches


def largest_difference(worker: Worker, trial: Trial) -> float:
    """Of the losses of a few steps, relative: the first shows the model, the others gradient, AdamW and schedule."""
    expected, batches = engine_losses(trial, initial_params(trial))
    found = worker.ask(losses=str(trial.workload.width), batches=batches)["losses"]
    return float(np.max(np.abs(np.array(found) / np.array(expected) - 1.0)))
