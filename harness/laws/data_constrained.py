"""Loss from model size, tokens trained on, and how many of them are distinct."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive
from harness.laws.linear_terms import log_coefficients

_Exponent = Positive.between(1e-2, 10.0)
_Worth = Positive.between(1e-2, 1e4)
_FAR = 46.0  # log of a ratio beyond which the excess has saturated for any worth within bounds; keeps exp finite


def log_effective(log_total: Array, log_unique: Array, worth: Array) -> Array:
    """log of X' = U + U R* (1 - exp(-R / R*)), R = X / U - 1 repeats, (n,); X' = X where X <= U.

    log_total, log_unique: logs of X and U. worth: R*, how many repeats count before they count no more.
    """
    excess = jnp.expm1(jnp.clip(log_total - log_unique, 0.0, _FAR))
    counted = -worth * jnp.expm1(-excess / worth)
    return jnp.minimum(log_total, log_unique) + jnp.log1p(counted)


@LAWS.register("data_constrained")
@dataclass(frozen=True)
class DataConstrained(Law):
    """L(N, D, U) = E + A N'^-alpha + B D'^-beta.  Muennighoff et al. 2023 (arXiv:2305.16264), eqs. 5-6 and appendix A.

    N parameters, D tokens trained on, U distinct tokens available (D > U repeats them; of U > D only D are seen), L nats per
    token. D' = U + U R_D (1 - exp(-r / R_D)) with r = D/U - 1 repeats; N' likewise with R_N and the excess N/U_N - 1 over
    U_N = G (U G)^(beta/alpha), G = (alpha A / (beta B))^(1/(alpha+beta)): the compute-optimal N for U tokens under the law's
    own unique-token part. R_D and R_N (the paper's starred R) are the repeats after which a repeat is worth 1/e of a new
    token. All seven parameters are fitted jointly; the paper fits E, A, B, alpha = beta on single-epoch runs first.
    R_N is determined only by runs with N > U_N, R_D only by runs with several epochs.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "U")
    parameters: ClassVar[Mapping[str, Kind]] = {
        "E": Positive,
        "A": Positive,
        "B": Positive,
        "alpha": _Exponent,
        "beta": _Exponent,
        "R_D": _Worth,
        "R_N": _Worth,
    }
    simpler: ClassVar[tuple[str, ...]] = ("chinchilla",)
    may_be_constant: ClassVar[tuple[str, ...]] = ("U",)
    exponents: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
    worths: ClassVar[tuple[float, ...]] = (2.0, 10.0, 50.0)

    def features(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns, with U no larger than D."""
        checked = super().features(columns)
        return {**checked, "U": np.minimum(checked["U"], checked["D"])}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        log_unique = jnp.log(inputs["U"])
        log_g = (jnp.log(p.alpha / p.beta) + p.log_A - p.log_B) / (p.alpha + p.beta)
        log_enough = log_g + p.beta / p.alpha * (log_unique + log_g)
        size = p.log_A - p.alpha * log_effective(jnp.log(inputs["N"]), log_enough, p.R_N)
        data = p.log_B - p.beta * log_effective(jnp.log(inputs["D"]), log_unique, p.R_D)
        return jnp.logaddexp(p.log_E, jnp.logaddexp(size, data))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """alpha = beta, R_D and R_N on a grid of 36; E, A and B are then linear, but for N' = N."""
        log_size, log_data, log_unique = (np.log(inputs[name]) for name in ("N", "D", "U"))
        repeats = np.expm1(log_data - log_unique)
        rows = []
        for exponent, worth in itertools.product(self.exponents, self.worths):
            data = log_unique + np.log1p(-worth * np.expm1(-repeats / worth))
            terms = np.stack([np.zeros_like(data), -exponent * log_size, -exponent * data], axis=1)
            linear = log_coefficients(terms, loss)
            for excess in (3.0, 30.0):
                rows.append((*linear, np.log(exponent), np.log(exponent), np.log(worth), np.log(excess)))
        return np.array(rows)
