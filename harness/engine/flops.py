"""FLOPs of one training step, from XLA's cost analysis of the single step."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from harness.engine.program import make_train
from harness.trial import Static, Trial

_flops: dict[Static, float] = {}


def step_flops(trial: Trial) -> float:
    """FLOPs of one training step (matrix multiplications, elementwise work, optimizer), from XLA's cost analysis.

    The analysis counts a loop's body once, so it is asked about the single step. It is that of the CPU's step, also where
    trials train on other devices: JAX has none of a GPU's before compilation, and a trial's FLOPs are the same on all.
    """
    static = trial.static()
    if static not in _flops:
        _flops[static] = float(_analysis(trial)["flops"])
    return _flops[static]


def _analysis(trial: Trial) -> Any:
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return _lowered_step(trial).compile().cost_analysis()
    with jax.default_device(cpu):
        return _lowered_step(trial).cost_analysis()


def _lowered_step(trial: Trial) -> Any:
    train = make_train(trial.static())
    hparams = _shapes(trial.hparams())
    state = jax.eval_shape(train.init, hparams)
    return jax.jit(train.step).lower(state, hparams, _shapes(dict(trial.workload.load().arrays)))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
