"""Damage of repeating part of the data: small for few and for very many repeats, largest between."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive


@LAWS.register("repeated_data")
@dataclass(frozen=True)
class RepeatedData(Law):
    """L(repeats) = L_0 (1 + H (p + q) / (q x^-p + p x^q)), x = repeats / R_0.

    L_0 the loss without repeats, H the relative rise at the worst repeat count R_0 (the exact place of the peak: its
    derivative vanishes at x = 1), p and q the powers with which it rises before and falls after. Model size, the total
    tokens and the share of them that is repeated stay the same. Own form for the double descent in the number of repeats of
    Hernandez et al. 2022 (arXiv:2205.10487), who give no equation.
    """

    inputs: ClassVar[tuple[str, ...]] = ("repeats",)
    extrapolates = "between"
    parameters: ClassVar[Mapping[str, Kind]] = {
        "L_0": Positive,
        "H": Positive,
        "R_0": Positive,
        "p": Positive.between(0.05, 20.0),
        "q": Positive.between(0.05, 20.0),
    }

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        x = jnp.log(inputs["repeats"]) - p.log_R_0
        low = jnp.logaddexp(p.log_q - p.p * x, p.log_p + p.q * x)
        return p.log_L_0 + jnp.log1p(jnp.exp(p.log_H + jnp.logaddexp(p.log_p, p.log_q) - low))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """The peak at the highest loss and beside it, L_0 at or below the lowest, three powers on either side."""
        base, top = float(loss.min()), float(loss.max())
        peak = np.log(inputs["repeats"][int(np.argmax(loss))])
        apart = 0.15 * max(float(np.ptp(np.log(inputs["repeats"]))), 1e-3)
        height = np.log(max(top / base - 1, 1e-6))
        places = itertools.product((peak - apart, peak, peak + apart), (0.0, 0.3), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0))
        return np.array(
            [
                (np.log(base) - below * np.log(top / base), height, at, np.log(up), np.log(down))
                for at, below, up, down in places
            ]
        )
