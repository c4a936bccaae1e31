"""Loss from model size and training data, without an irreducible part."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive
from harness.laws.linear_terms import log_coefficients


@LAWS.register("kaplan")
@dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D.  Kaplan et al. 2020 (arXiv:2001.08361), eq. 1.5.

    N parameters (there without embeddings), D tokens, L nats per token; N_c and D_c have the units of N and D. With
    unlimited data L = (N_c / N)^alpha_N, with an unlimited model L = (D_c / D)^alpha_D.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "D")
    parameters: ClassVar[Mapping[str, Kind]] = {
        "N_c": Positive,
        "D_c": Positive,
        "alpha_N": Positive.between(1e-4, 10.0),
        "alpha_D": Positive.between(1e-4, 10.0),
    }
    simpler: ClassVar[tuple[str, ...]] = ("joint_power_law",)
    data_exponents: ClassVar[tuple[float, ...]] = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
    ratios: ClassVar[tuple[float, ...]] = (0.3, 0.6, 1.0, 1.7, 3.0)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        size = p.alpha_N / p.alpha_D * (p.log_N_c - jnp.log(inputs["N"]))
        return p.alpha_D * jnp.logaddexp(size, p.log_D_c - jnp.log(inputs["D"]))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """alpha_D and alpha_N / alpha_D on a grid of 30; L^(1 / alpha_D) is then linear in powers of N_c and in D_c."""
        log_size, log_data = np.log(inputs["N"]), np.log(inputs["D"])
        middle = float(np.mean(np.log(loss)))
        rows = []
        for alpha, ratio in itertools.product(self.data_exponents, self.ratios):
            terms = np.stack([-ratio * log_size, -log_data], axis=1)
            size, data = log_coefficients(terms, np.exp((np.log(loss) - middle) / alpha)) + middle / alpha
            rows.append((size / ratio, data, np.log(ratio * alpha), np.log(alpha)))
        return np.array(rows)
