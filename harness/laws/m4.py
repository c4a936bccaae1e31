"""A learning curve between two plateaus: random guessing at small sizes, the irreducible loss at large ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real

STEPS = (
    8  # Newton steps per solve, two more than float64 needs at the smallest a, where the curve has its sharpest corner
)


@LAWS.register("m4")
@dataclass(frozen=True)
class M4(Law):
    """L(N) = the root y of (y - e_inf) / (e_0 - y)^a = b N^c, e_0 = e_inf + span.  Alabdulmohsin et al. 2022
    (arXiv:2209.06640), estimator M4; c < 0 where the loss falls with size.

    L falls from e_0, random guessing, to e_inf, the irreducible loss; e_inf and span in the unit of L. a = 0 or
    span -> infinity is M2, our `power_law_offset` (E = e_inf, alpha = -c). N any size; b absorbs the units, L^(1-a) N^-c.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    parameters: ClassVar[Mapping[str, Kind]] = {
        "e_inf": Positive,
        "span": Positive,
        "a": Positive.between(1e-3, 30.0),
        "b": Positive,
        "c": Real,
    }
    simpler: ClassVar[tuple[str, ...]] = ("power_law", "power_law_offset")
    shares: ClassVar[tuple[float, ...]] = (1e-3, 0.6, 0.9, 0.99)
    ceilings: ClassVar[tuple[float, ...]] = (0.003, 0.05, 0.5, 3.0)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        height = p.log_b + p.c * jnp.log(inputs["N"]) + (p.a - 1.0) * p.log_span
        return jnp.logaddexp(p.log_e_inf, p.log_span - jax.nn.softplus(-logit_share(height, p.a)))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """e_inf at `shares` of the smallest loss x e_0 at 1 + `ceilings` of the largest; a, b, c by linear regression."""
        log_size = np.log(inputs["N"])
        rows = []
        for share, ceiling in itertools.product(self.shares, self.ceilings):
            low, high = share * loss.min(), (1.0 + ceiling) * loss.max()
            excess, room = np.log(loss - low), np.log(high - loss)
            columns = np.stack([room, np.ones_like(loss), log_size], axis=1)
            a = float(np.clip(np.linalg.lstsq(columns, excess, rcond=None)[0][0], 0.05, 5.0))
            c, log_b = np.polyfit(log_size, excess - a * room, 1)
            rows.append((np.log(low), np.log(high - low), np.log(a), log_b, c))
        return np.array(rows)


def logit_share(height: Array, a: Array) -> Array:
    """u, (n,), with w / (1 - w)^a = exp(height) for the share w = sigmoid(u); height (n,), a > 0 scalar.

    G(u) = log w - a log(1 - w) rises from -inf to inf and is concave for a < 1, convex for a > 1, and within log 2
    (above) and a log 2 (below) of the broken line u, a u; so Newton from the matching end approaches the root from one
    side, whatever the start. The last two steps are differentiated: one makes first derivatives exact, two the second.
    """

    def newton(u: Array, height: Array, a: Array) -> Array:
        small = jnp.exp(-jnp.abs(u))
        rest, minor = jnp.log1p(small), small / (1.0 + small)  # softplus(-|u|), sigmoid(-|u|)
        value = jnp.where(u > 0, a * u, u) + (a - 1.0) * rest - height
        slope = jnp.where(u > 0, a + (1.0 - a) * minor, 1.0 + (a - 1.0) * minor)
        return u - value / slope

    fixed_height, fixed_a = jax.lax.stop_gradient((height, a))
    end = jnp.where(fixed_a < 1.0, fixed_height - fixed_a * jnp.log(2.0), fixed_height + jnp.log(2.0))
    u = jnp.where(end < 0.0, end, end / fixed_a)
    u = jax.lax.fori_loop(0, STEPS, lambda _, u: newton(u, fixed_height, fixed_a), u)
    u = jax.lax.stop_gradient(u)
    return newton(newton(u, height, a), height, a)
