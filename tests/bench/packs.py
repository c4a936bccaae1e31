"""Timing a pack as the engine compiles and runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from harness.engine.compiler import compile_program
from harness.engine.devices import Devices
from harness.engine.pack import Pack
from harness.trial import Trial
from tests.bench.measure import Timer


def pack_of(trials: Sequence[Trial], devices: Devices) -> Pack:
    """The trials as one pack, with no more idle slots than the devices need."""
    slots = devices.count * -(-len(trials) // devices.count)
    return Pack(trials[0].static(), tuple(trials), slots)


def device_data(trial: Trial, devices: Devices) -> Any:
    return jax.device_put(dict(trial.workload.load().arrays), devices.replicated)


class PackRun:
    """A compiled pack that trains from fresh states, all trials side by side."""

    def __init__(self, pack: Pack, data: Any, devices: Devices) -> None:
        self.pack, self._data, self._devices = pack, data, devices
        self._program = compile_program(pack, data, devices)
        self._hparams = devices.place(pack.hparams())

    def __call__(self, steps: int) -> float:
        """Seconds for `steps` steps of every trial, their losses fetched. Raises AssertionError if a trial diverged."""
        state = jax.block_until_ready(self._program.init(self._hparams))
        stops = self._devices.place(self.pack.stops(steps))
        started = time.perf_counter()
        state, losses = self._program.chunk(state, self._hparams, stops, self._data)
        losses = self._devices.fetch(losses)[:, 0]
        jax.block_until_ready(state)
        spent = time.perf_counter() - started
        assert np.isfinite(losses[: len(self.pack.trials), :steps]).all(), "a benchmarked trial diverged"
        return spent

    def timer(self, seconds: float) -> Timer:
        """Of seconds per trial-step."""
        return Timer(self, seconds, self.pack.horizon, len(self.pack.trials))


def timed_pack(trials: Sequence[Trial], devices: Devices, seconds: float) -> Timer:
    """Compile the trials as one pack; seconds per trial-step."""
    return PackRun(pack_of(trials, devices), device_data(trials[0], devices), devices).timer(seconds)
