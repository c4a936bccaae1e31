"""Loss from model size and training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from harness.laws.base import LAWS, Array, Grid, Kind, Law, Positive, Real


@LAWS.register("chinchilla")
@dataclass(frozen=True)
class Chinchilla(Law):
    """L(N, D) = E + A N^-alpha + B D^-beta.  Hoffmann et al. 2022 (arXiv:2203.15556), eq. 10, approach 3.

    N parameters, D tokens, L nats per token. The starts are the published grid of 4,500.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "D")
    parameters: ClassVar[Mapping[str, Kind]] = {
        "E": Positive,
        "A": Positive,
        "B": Positive,
        "alpha": Real,
        "beta": Real,
    }
    simpler: ClassVar[tuple[str, ...]] = ("joint_power_law",)
    starts: ClassVar[Grid] = Grid(log_E=(-1, 1, 5), log_A=(0, 25, 6), log_B=(0, 25, 6), alpha=(0, 2, 5), beta=(0, 2, 5))

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        size = p.log_A - p.alpha * jnp.log(inputs["N"])
        data = p.log_B - p.beta * jnp.log(inputs["D"])
        return jnp.logaddexp(p.log_E, jnp.logaddexp(size, data))
