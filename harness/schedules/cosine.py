"""Cosine decay (Loshchilov & Hutter 2017, "SGDR", eq. 5 without restarts)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from harness.schedules.base import SCHEDULES, Schedule, progress
from workloads.base import Array


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 after warmup to `final` (a fraction of the peak) at the horizon."""

    final: float = 0.0

    def decay(self, step: Array, horizon: Array, lengths: Mapping[str, Array]) -> Array:
        half_cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress(step, lengths["warmup"], horizon)))
        return self.final + (1.0 - self.final) * half_cosine
