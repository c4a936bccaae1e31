"""Loss from model size and tokens per parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real
from harness.laws.linear_terms import log_coefficients


@LAWS.register("over_training")
@dataclass(frozen=True)
class OverTraining(Law):
    """L(N, M) = E + a N^eta + b 6^(eta/2) (M N)^eta, eta < 0.  Gadre et al. 2024 (arXiv:2403.08540), eq. 4, in N and M.

    N parameters, M = D / N tokens per parameter, L nats per token. The paper writes L(C, M) = E + (a' M^h + b' M^-h) C^-h
    with C = 6 N D = 6 N^2 M; hence h = -eta/2, b' = b and a' = a 6^(-eta/2). It is `chinchilla` with one exponent
    alpha = beta = -eta, A = a and B = b 6^(eta/2); its compute-optimal M = (b' / a')^(1/(2h)) is the same at every C.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "M")
    parameters: ClassVar[Mapping[str, Kind]] = {
        "E": Positive,
        "a": Positive,
        "b": Positive,
        "eta": Real.between(-10.0, -1e-4),
    }
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)
    exponents: ClassVar[tuple[float, ...]] = (-0.05, -0.1, -0.2, -0.3, -0.4, -0.6, -0.9, -1.3)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        log_size, log_multiplier = jnp.log(inputs["N"]), jnp.log(inputs["M"])
        size = p.log_a + p.eta * log_size
        data = p.log_b + p.eta * (np.log(6) / 2 + log_multiplier + log_size)
        return jnp.logaddexp(p.log_E, jnp.logaddexp(size, data))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """eta at each of 8 exponents, where E, a and b are linear."""
        log_size, log_multiplier = np.log(inputs["N"]), np.log(inputs["M"])
        rows = []
        for eta in self.exponents:
            size, data = eta * log_size, eta * (np.log(6) / 2 + log_multiplier + log_size)
            terms = np.stack([np.zeros_like(size), size, data], axis=1)
            rows.append((*log_coefficients(terms, loss), eta))
        return np.array(rows)
