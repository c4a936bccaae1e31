"""The isolated time of one training step on this device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from harness.budget import Budget
from harness.engine.compiler import Program, compile_program
from harness.engine.devices import Devices, local_devices
from harness.engine.pack import Pack
from harness.trial import Static, Trial

ROUNDS, ROUND_S = 9, 0.3
_CALIBRATION_STEPS = 8
_CHUNK = 40  # steps that are started together
_LONGEST_ROUND = 100  # chunks
_MEDIAN_NOISE = 1.2533 * 1.4826  # of a normal sample's median in units of MAD / sqrt(n)
_seconds: dict[Static, float] = {}


class StepTime(NamedTuple):
    """seconds: of a step. rel_stderr: relative standard error of its ratio to the time of what it was compared with."""

    seconds: float
    rel_stderr: float = 0.0


def step_seconds(trial: Trial) -> float:
    """Isolated time of one training step on one device, in seconds, after compilation. Asks for no horizon.

    At learning rate 0: what diverges trains no further, and would seem to be fast.
    """
    lengths = dict.fromkeys(trial.schedule.durations, "1%")  # durations in steps may not fit into a few
    schedule = replace(trial.schedule, **lengths)
    optimizer = replace(trial.optimizer, learning_rate=0.0)
    short = replace(trial, optimizer=optimizer, schedule=schedule, budget=Budget(steps=_CALIBRATION_STEPS))
    static = short.static()
    if static not in _seconds:
        _seconds[static] = compare_step_seconds([short], rounds=3, round_s=0.0)[0].seconds
    return _seconds[static]


def compare_step_seconds(trials: Sequence[Trial], rounds: int = ROUNDS, round_s: float | None = None) -> list[StepTime]:
    """Mean time of each trial's steps in a training run of its own, alone on the device.

    Steps are those of real runs, from the first to the horizon and then again, so that work done now and then counts as often
    as it is done; a run that diverges ends there. Trials of one program (as it is lowered: another name makes no other program)
    have one time. The others take turns, a round of about `round_s` seconds each (None: ROUND_S); a time is the first trial's
    fastest round times the median of the ratios to it, round by round: a machine that is slow for a while is slow for all.
    """
    plain = [replace(trial, evaluations=max(1, trial.horizon // _CHUNK), probes=()) for trial in trials]
    devices = local_devices()
    packs = {trial.static(): Pack(trial.static(), (trial,), devices.count) for trial in plain}
    data = {trial.workload.data_key(): trial.workload for trial in plain}
    placed = {key: jax.device_put(dict(one.load().arrays), devices.replicated) for key, one in data.items()}

    def compiled(pack: Pack) -> Program:
        return compile_program(pack, placed[pack.trials[0].workload.data_key()], devices, evaluates=False)

    with ThreadPoolExecutor(2) as pool:
        programs = dict(zip(packs, pool.map(compiled, packs.values()), strict=True))
    runs: dict[str, _Run] = {}
    for trial in plain:
        program = programs[trial.static()]
        if program.sha256 not in runs:
            runs[program.sha256] = _Run(trial, program, placed[trial.workload.data_key()], devices)
    chunks = {name: run.chunks_in(ROUND_S if round_s is None else round_s) for name, run in runs.items()}
    means = np.array([[run.mean(chunks[name]) for name, run in runs.items()] for _ in range(rounds)])
    ratios = np.log(means / means[:, :1])
    middle = np.median(ratios, axis=0)
    noise = _MEDIAN_NOISE * np.median(np.abs(ratios - middle), axis=0) / math.sqrt(rounds)
    first = means[:, 0].min()
    times = {name: StepTime(float(first * np.exp(middle[i])), float(noise[i])) for i, name in enumerate(runs)}
    return [times[programs[trial.static()].sha256] for trial in plain]


class _Run:
    """Trains one trial again and again."""

    def __init__(self, trial: Trial, program: Program, data: Any, devices: Devices) -> None:
        self._trial, self._program, self._data, self._devices = trial, program, data, devices
        self._pack = Pack(trial.static(), (trial,), devices.count)
        self._hparams = devices.place(self._pack.hparams())
        self._state: Any = None
        self._taken = 0

    def chunks_in(self, seconds: float) -> int:
        """How many take about so long, at least one; after one that does not count."""
        self._chunk()
        return min(_LONGEST_ROUND, max(1, math.ceil(seconds / self._chunk()[0])))

    def mean(self, chunks: int) -> float:
        """Seconds of a step, over so many chunks."""
        spent, steps = zip(*(self._chunk() for _ in range(chunks)), strict=True)
        return sum(spent) / sum(steps)

    def _chunk(self) -> tuple[float, int]:
        """Seconds of the next chunk, and its steps."""
        if self._state is None:
            self._state, self._taken = jax.block_until_ready(self._program.init(self._hparams)), 0
        stop = min(self._taken + self._trial.static().capacity, self._trial.horizon)
        stops = self._devices.place(self._pack.stops(stop))
        started = time.perf_counter()
        self._state, losses = jax.block_until_ready(self._program.chunk(self._state, self._hparams, stops, self._data))
        spent = time.perf_counter() - started
        steps = int(np.isfinite(self._devices.fetch(losses)[0, 1]).sum())
        complete = steps == stop - self._taken
        self._taken += steps
        if not complete or stop == self._trial.horizon:
            self._state = None
        return spent, max(1, steps)
