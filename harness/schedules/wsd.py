"""Warmup-stable-decay (Hu et al. 2024, "MiniCPM", section 4; linear cooldown as in Hägele et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.schedules.base import SCHEDULES, Schedule, progress
from workloads.base import Array, BadInput


@SCHEDULES.register("wsd")
@dataclass(frozen=True)
class WSD(Schedule):
    """Constant after warmup, then linear over the last `cooldown` to `final` (a fraction of the peak)."""

    durations: ClassVar[tuple[str, ...]] = ("warmup", "cooldown")

    cooldown: str = "20%"
    final: float = 0.0

    def check_lengths(self, lengths: Mapping[str, float], horizon: int) -> None:
        together = lengths["warmup"] + lengths["cooldown"]
        if together > horizon:
            raise BadInput(
                f"schedule.warmup={self.warmup} and schedule.cooldown={self.cooldown} take {together:g} steps together, "
                f"more than the horizon of {horizon}; shorten one"
            )

    def decay(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        return 1.0 - (1.0 - self.final) * progress(step, horizon - lengths["cooldown"], horizon)
