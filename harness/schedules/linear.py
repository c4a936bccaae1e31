"""Linear decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.schedules.base import SCHEDULES, Schedule, progress
from workloads.base import Array


@SCHEDULES.register("linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """From 1 after warmup to `final` (a fraction of the peak) at the horizon."""

    final: float = 0.0

    def decay(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        return 1.0 - (1.0 - self.final) * progress(step, lengths["warmup"], horizon)
