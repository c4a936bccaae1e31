"""Two power laws joined at a smooth break."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real


@LAWS.register("bnsl")
@dataclass(frozen=True)
class BrokenNeuralScalingLaw(Law):
    """L(N) = a + b N^-c0 (1 + (N/d1)^(1/f1))^(-c1 f1).  Caballero et al. 2022 (arXiv:2210.14891), eq. 1, one break.

    Slope -c0 in log-log before the break at size d1, -(c0 + c1) after it, a the limit. f1 is the width of the break in
    ln N; the break is sharp as f1 -> 0. a and L in one unit, N any size, d1 in the unit of N.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    parameters: ClassVar[Mapping[str, Kind]] = {
        "a": Positive,
        "b": Positive,
        "c0": Real,
        "c1": Real,
        "d1": Positive,
        "f1": Positive.between(1e-2, 1e2),
    }
    simpler: ClassVar[tuple[str, ...]] = ("power_law", "power_law_offset")
    shares: ClassVar[tuple[float, ...]] = (1e-3, 0.6, 0.9)
    breaks: ClassVar[tuple[float, ...]] = (0.15, 0.35, 0.5, 0.65, 0.85)
    widths: ClassVar[tuple[float, ...]] = (0.02, 0.15)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        log_size = jnp.log(inputs["N"])
        bend = p.f1 * jax.nn.softplus((log_size - p.log_d1) / p.f1)
        return jnp.logaddexp(p.log_a, p.log_b - p.c0 * log_size - p.c1 * bend)

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """a at `shares` of the smallest loss x the break at `breaks` of the range of ln N x its width at `widths` of it;
        b, c0, c1 by linear regression."""
        log_size = np.log(inputs["N"])
        low, span = log_size.min(), np.ptp(log_size)
        rows = []
        for share, where, width in itertools.product(self.shares, self.breaks, self.widths):
            floor, log_d, f = share * loss.min(), low + where * span, width * span
            bend = f * np.logaddexp(0.0, (log_size - log_d) / f)
            columns = np.stack([np.ones_like(loss), -log_size, -bend], axis=1)
            log_b, c0, c1 = np.linalg.lstsq(columns, np.log(loss - floor), rcond=None)[0]
            rows.append((np.log(floor), log_b, c0, c1, log_d, np.log(f)))
        return np.array(rows)
