"""What one training step costs: FLOPs from XLA's cost analysis of the single step, and its isolated time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from harness.budget import Budget
from harness.engine.compiler import compile_program
from harness.engine.devices import local_devices
from harness.engine.pack import Pack
from harness.engine.program import make_train
from harness.trial import Static, Trial

_CALIBRATION_STEPS = 8
_flops: dict[Static, float] = {}
_seconds: dict[Static, float] = {}


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


def step_seconds(trial: Trial) -> float:
    """Isolated time of one training step on one device, in seconds: the fastest of three short runs, after compilation."""
    trial = replace(trial, budget=Budget(steps=_CALIBRATION_STEPS), evaluations=1)
    static = trial.static()
    if static not in _seconds:
        devices = local_devices()
        pack = Pack(static, (trial,), devices.count)
        data = jax.device_put(dict(trial.workload.load().arrays), devices.replicated)
        program = compile_program(pack, data, devices)
        hparams = jax.device_put(pack.hparams(), devices.by_trial)
        stops = jax.device_put(pack.stops(_CALIBRATION_STEPS), devices.by_trial)
        times = []
        for _ in range(3):
            state = jax.block_until_ready(program.init(hparams))
            started = time.perf_counter()
            jax.block_until_ready(program.chunk(state, hparams, stops, data))
            times.append(time.perf_counter() - started)
        _seconds[static] = min(times) / _CALIBRATION_STEPS
    return _seconds[static]


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
