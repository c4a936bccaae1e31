"""The isolated time of one training step on this device."""

from __future__ import annotations

import time
from dataclasses import replace

import jax

from harness.budget import Budget
from harness.engine.compiler import compile_program
from harness.engine.devices import local_devices
from harness.engine.pack import Pack
from harness.trial import Static, Trial

_CALIBRATION_STEPS = 8
_seconds: dict[Static, float] = {}


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
