"""Probability of passing a task (or of a right token), from size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real
from harness.laws.power_law import log_log_line


@LAWS.register("pass_rate")
@dataclass(frozen=True)
class PassRate(Law):
    """pass(N) = exp(-c N^-a).

    Hu et al. 2023 (arXiv:2310.03262), eq. 3, for the share of samples that pass; Schaeffer et al. 2023
    (arXiv:2304.15004), section 2, for the probability of a right token, whose negative logarithm is a power law c N^-a.
    N any size (params, FLOPs).
    """

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    response: ClassVar[str] = "pass_rate"
    parameters: ClassVar[Mapping[str, Kind]] = {"c": Positive, "a": Real}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return -jnp.exp(p.log_c - p.a * jnp.log(inputs["N"]))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """The least-squares line through log(-log pass), and ones half and twice as steep about the middle size."""
        size = np.log(inputs["N"])
        surprise = -np.log(np.clip(loss, 1e-12, 1 - 1e-6))
        log_c, a = log_log_line(size, surprise)
        middle = float(size.mean())
        return np.array([(log_c + (f - 1) * a * middle, f * a) for f in (1.0, 0.5, 2.0)])
