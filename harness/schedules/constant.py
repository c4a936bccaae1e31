"""Constant learning rate after warmup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from harness.schedules.base import SCHEDULES, Schedule
from workloads.base import Array


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """multiplier = 1."""

    def decay(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        return jnp.ones_like(step)
