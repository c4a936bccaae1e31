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

    The analysis counts a loop's body once, so it is asked about the single step, as lowered for this platform.
    """
    static = trial.static()
    if static not in _flops:
        analysis = lowered_step(trial).cost_analysis() or {}
        _flops[static] = float(analysis["flops"])
    return _flops[static]


def lowered_step(trial: Trial) -> Any:
    """The single training step of a trial, lowered and not compiled."""
    train = make_train(trial.static())
    hparams = _shapes(trial.hparams())
    state = jax.eval_shape(train.init, hparams)
    return jax.jit(train.step).lower(state, hparams, _shapes(dict(trial.workload.load().arrays)))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
