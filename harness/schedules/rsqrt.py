"""Reciprocal square root decay (Vaswani et al. 2017, eq. 3; with a timescale as in Zhai et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from harness.schedules.base import SCHEDULES, Schedule
from workloads.base import Array


@SCHEDULES.register("rsqrt")
@dataclass(frozen=True)
class ReciprocalSqrt(Schedule):
    """sqrt(timescale / (timescale + steps since warmup))."""

    durations: ClassVar[tuple[str, ...]] = ("warmup", "timescale")

    timescale: str = "10%"

    def decay(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        timescale = jnp.maximum(lengths["timescale"], 1.0)
        since_warmup = jnp.maximum(step - lengths["warmup"], 0.0)
        return jnp.sqrt(timescale / (timescale + since_warmup))
