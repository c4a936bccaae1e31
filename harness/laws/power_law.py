"""Power laws in one size, without and with an irreducible loss, and in two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real


def log_log_line(log_size: np.ndarray, log_loss: np.ndarray) -> tuple[float, float]:
    """Least-squares (log A, alpha) of log L = log A - alpha log N."""
    slope, intercept = np.polyfit(log_size, log_loss, 1)
    return float(intercept), float(-slope)


@LAWS.register("power_law")
@dataclass(frozen=True)
class PowerLaw(Law):
    """L(N) = A N^-alpha.  Kaplan et al. 2020, eq. 1.1.  N any size (params, tokens, FLOPs), L in its own unit."""

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    parameters: ClassVar[Mapping[str, Kind]] = {"A": Positive, "alpha": Real}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return p.log_A - p.alpha * jnp.log(inputs["N"])

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """One start, the least-squares line in log-log: the objective is convex."""
        return np.array([log_log_line(np.log(inputs["N"]), np.log(loss))])


@LAWS.register("power_law_offset")
@dataclass(frozen=True)
class PowerLawOffset(Law):
    """L(N) = E + A N^-alpha.  Henighan et al. 2020, eq. 1.1.  E the irreducible loss, in the unit of L."""

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    parameters: ClassVar[Mapping[str, Kind]] = {"E": Positive, "A": Positive, "alpha": Real}
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)
    shares: ClassVar[tuple[float, ...]] = (1e-3, 0.3, 0.6, 0.8, 0.9, 0.96, 0.99)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return jnp.logaddexp(p.log_E, p.log_A - p.alpha * jnp.log(inputs["N"]))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """E at each of `shares` of the smallest loss, with the log-log line through what is left: scale-free."""
        floor, log_size = float(np.min(loss)), np.log(inputs["N"])
        rows = []
        for share in self.shares:
            log_a, alpha = log_log_line(log_size, np.log(loss - share * floor))
            rows.append((np.log(share * floor), log_a, alpha))
        return np.array(rows)


@LAWS.register("joint_power_law")
@dataclass(frozen=True)
class JointPowerLaw(Law):
    """L(N, D) = A N^-alpha D^-beta.  The simplest law in size and data, log-linear; what others must beat.  Own."""

    inputs: ClassVar[tuple[str, ...]] = ("N", "D")
    parameters: ClassVar[Mapping[str, Kind]] = {"A": Positive, "alpha": Real, "beta": Real}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return p.log_A - p.alpha * jnp.log(inputs["N"]) - p.beta * jnp.log(inputs["D"])

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """One start, ordinary least squares: the objective is convex."""
        design = np.stack([np.ones_like(loss), -np.log(inputs["N"]), -np.log(inputs["D"])], axis=1)
        return np.linalg.lstsq(design, np.log(loss), rcond=None)[0][None]
