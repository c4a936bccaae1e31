"""The isolated time of one training step on this device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax

from harness.budget import Budget
from harness.engine.compiler import compile_program
from harness.engine.devices import local_devices
from harness.engine.pack import Pack
from harness.trial import Static, Trial

_CALIBRATION_STEPS = 8
_ROUNDS = 3
_seconds: dict[Static, float] = {}


def step_seconds(trial: Trial) -> float:
    """Isolated time of one training step on one device, in seconds: the fastest of three short runs, after compilation."""
    static = _short(trial).static()
    if static not in _seconds:
        _seconds[static] = compare_step_seconds([trial])[0]
    return _seconds[static]


def compare_step_seconds(
    trials: Sequence[Trial], rounds: int = _ROUNDS, steps: int = _CALIBRATION_STEPS
) -> list[float]:
    """Mean time of each trial's first `steps` steps, in the fastest of `rounds` runs.

    The trials take turns, so that a noisy machine treats them alike; those of one program have one time. Optimizers that do
    some of their work every k steps need several times k steps.
    """
    short = [_short(trial, steps) for trial in trials]
    runs = {trial.static(): _runner(trial, steps) for trial in short}
    times = [[run() for run in runs.values()] for _ in range(rounds)]
    fastest = dict(zip(runs, map(min, zip(*times, strict=True)), strict=True))
    return [fastest[trial.static()] / steps for trial in short]


def _short(trial: Trial, steps: int = _CALIBRATION_STEPS) -> Trial:
    """The trial for a few steps; its schedule's durations may not fit into them, and do not matter.

    At learning rate 0: what diverges trains no further, and would seem to be fast.
    """
    schedule = replace(trial.schedule, **dict.fromkeys(trial.schedule.durations, "1%"))
    optimizer = replace(trial.optimizer, learning_rate=0.0)
    return replace(trial, optimizer=optimizer, schedule=schedule, budget=Budget(steps=steps), evaluations=1, probes=())


def _runner(trial: Trial, steps: int) -> Callable[[], float]:
    """Seconds of one run of the compiled steps."""
    devices = local_devices()
    pack = Pack(trial.static(), (trial,), devices.count)
    data = jax.device_put(dict(trial.workload.load().arrays), devices.replicated)
    program = compile_program(pack, data, devices)
    hparams = devices.place(pack.hparams())
    stops = devices.place(pack.stops(steps))

    def run() -> float:
        state = jax.block_until_ready(program.init(hparams))
        started = time.perf_counter()
        jax.block_until_ready(program.chunk(state, hparams, stops, data))
        return time.perf_counter() - started

    return run
