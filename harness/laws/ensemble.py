"""Loss of an ensemble from the number of its members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive


@LAWS.register("ensemble")
@dataclass(frozen=True)
class Ensemble(Law):
    """L(K) = E + A / K.

    E the loss of infinitely many members, A what averaging removes, in the unit of L; K independently trained members of one
    recipe.  Own: the variance of a mean of K independent members, exact for squared error. Kim et al. 2025
    (arXiv:2509.14786) leave the exponent free and see about 1: that is `power_law_offset` in K.
    """

    inputs: ClassVar[tuple[str, ...]] = ("K",)
    parameters: ClassVar[Mapping[str, Kind]] = {"E": Positive, "A": Positive}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return jnp.logaddexp(p.log_E, p.log_A - jnp.log(inputs["K"]))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """One start: the least-squares line in 1 / K, kept positive."""
        slope, level = np.polyfit(1 / inputs["K"], loss, 1)
        floor = 1e-3 * float(np.min(loss))
        return np.log(np.array([[max(level, floor), max(slope, floor)]]))
