"""The schedule protocol and its registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from harness.registry import Registry
from workloads.base import Array, BadInput


@dataclass(frozen=True)
class Schedule:
    """Linear warmup, then `decay`. Fields named in `durations` are texts such as "10%" or "100 steps".

    The engine resolves durations to steps and hands them over as `lengths`, so that sweeping a warmup compiles nothing.
    """

    name: ClassVar[str]
    durations: ClassVar[tuple[str, ...]] = ("warmup",)

    warmup: str = "10%"

    def multiplier(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        """LR / peak LR at `step` (float scalar, 0-based). Warmup reaches 1 at its last step."""
        warmup = lengths["warmup"]
        ramp = (step + 1.0) / jnp.maximum(warmup, 1.0)
        return jnp.where(step < warmup, jnp.minimum(ramp, 1.0), self.decay(step, horizon, lengths))

    def decay(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        """LR / peak LR after warmup."""
        raise NotImplementedError

    def check_lengths(self, lengths: Mapping[str, float], horizon: int) -> None:
        """Raise BadInput if the durations, each at most the horizon, do not fit it together."""

    def validate(self) -> None:
        """Raise BadInput if the fields make no schedule."""
        final = getattr(self, "final", 0.0)
        if not 0.0 <= final <= 1.0:
            raise BadInput(f"schedule.final={final} is a fraction of the peak learning rate and must lie in [0, 1]")


def progress(step: Array, start: Array, end: Array) -> Array:
    """Fraction of the way from `start` to `end`, clipped to [0, 1]."""
    return jnp.clip((step - start) / jnp.maximum(end - start, 1.0), 0.0, 1.0)


SCHEDULES: Registry[Schedule] = Registry("schedule")
