"""Steps to a loss from the batch size: the critical batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive
from harness.laws.fitting.fit import Fit

REACH = 100.0  # B_crit starts up to this factor beyond the smallest and largest batch
STARTS = 9


@LAWS.register("critical_batch")
@dataclass(frozen=True)
class CriticalBatch(Law):
    """S(B) = S_min (1 + B_crit / B).  McCandlish et al. 2018 (arXiv:1812.06162); Kaplan et al. 2020, eq. 5.1.

    Equivalently (S / S_min - 1) (E / E_min - 1) = 1 with E = B S examples and E_min = B_crit S_min. S steps to one and the
    same loss (the column `steps`), B the batch; B_crit is in the unit of B, S_min in steps.
    """

    inputs: ClassVar[tuple[str, ...]] = ("B",)
    response: ClassVar[str] = "steps"
    parameters: ClassVar[Mapping[str, Kind]] = {"S_min": Positive, "B_crit": Positive}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return p.log_S_min + jnp.logaddexp(0.0, p.log_B_crit - jnp.log(inputs["B"]))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """B_crit on a grid about the batches, S_min the (geometric) mean of what is left."""
        batch = inputs["B"]
        log_crit = np.linspace(np.log(batch.min() / REACH), np.log(batch.max() * REACH), STARTS)
        excess = np.logaddexp(0.0, log_crit[:, None] - np.log(batch))
        return np.stack([np.mean(np.log(loss) - excess, axis=1), log_crit], axis=1)


def min_examples(fitted: Fit) -> tuple[float, tuple[float, float]]:
    """E_min = B_crit S_min of a fitted `critical_batch` and its 95% interval, in the unit of B (tokens or sequences)."""
    refits = fitted.natural_refits()
    value = fitted.params["B_crit"] * fitted.params["S_min"]
    return value, fitted.interval(refits["B_crit"] * refits["S_min"])
