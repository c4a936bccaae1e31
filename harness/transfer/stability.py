"""Each optimizer's own stability bound on a quadratic, and where a measured sharpness lies against it.

With curvature h along a direction (an eigenvalue of H, or of P^-1 H for Adam at fixed P), an optimizer is a linear
recursion; the bounds say up to which h its roots stay inside the unit circle (Jury's conditions; the root that leaves
first is z = -1). They hold for a fixed learning rate, momentum 0 <= b < 1, and small decoupled decay: shrinking the
weights by s a step lowers them by the factor 1 - s/2, which is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from harness.optimizers.base import Optimizer
from harness.registry import nearest
from workloads.base import Array, BadInput

TOLERANCE = 0.1  # relative distance from the bound that counts as "at" it
Number = Array | float
Position = Literal["below", "at", "above"]


def gradient_descent_bound(learning_rate: Number) -> Number:
    """2 / eta.  x <- (1 - eta h) x."""
    return 2 / learning_rate


def heavy_ball_bound(learning_rate: Number, b: Number) -> Number:
    """(2 + 2b) / eta.  m <- b m + h x, x <- x - eta m:  z^2 - (1 + b - eta h) z + b = 0.  Polyak 1964."""
    return (2 + 2 * b) / learning_rate


def nesterov_bound(learning_rate: Number, b: Number) -> Number:
    """(2 + 2b) / ((1 + 2b) eta).  m <- b m + h x, x <- x - eta (h x + b m):  z^2 - (1 - eta h)((1 + b) z - b) = 0."""
    return (2 + 2 * b) / ((1 + 2 * b) * learning_rate)


def adam_bound(learning_rate: Number, b1: Number) -> Number:
    """(2 + 2 b1) / ((1 - b1) eta), for P^-1 H.  Heavy ball at eta (1 - b1).  Cohen et al. 2022, section 3."""
    return heavy_ball_bound((1 - b1) * learning_rate, b1)


def nadam_bound(learning_rate: Number, b1: Number) -> Number:
    """(2 + 2 b1) / ((1 + 2 b1) (1 - b1) eta), for P^-1 H.  Nesterov at eta (1 - b1)."""
    return nesterov_bound((1 - b1) * learning_rate, b1)


def _sgd(optimizer: Any, learning_rate: Number) -> Number:
    if optimizer.momentum is None:
        return gradient_descent_bound(learning_rate)
    return (nesterov_bound if optimizer.nesterov else heavy_ball_bound)(learning_rate, optimizer.momentum)


def _adam(optimizer: Any, learning_rate: Number) -> Number:
    return (nadam_bound if optimizer.nesterov else adam_bound)(learning_rate, optimizer.b1)


_PLAIN: Mapping[str, Callable[[Any, Number], Number]] = dict.fromkeys(("sgd", "momentum", "nesterov"), _sgd)
_PRECONDITIONED: Mapping[str, Callable[[Any, Number], Number]] = dict.fromkeys(
    ("adam", "adamw", "nadam", "nadamw"), _adam
)


def preconditioned(optimizer: Optimizer) -> bool:
    """Whether the bound is on P^-1 H (Adam-like) rather than on H.  Raises BadInput if no bound is known."""
    known = {**_PLAIN, **_PRECONDITIONED}
    if optimizer.name not in known:
        raise BadInput(
            f"no stability bound is known for optimizer '{optimizer.name}'. {nearest(optimizer.name, known)}"
        )
    return optimizer.name in _PRECONDITIONED


def stability_bound(optimizer: Optimizer, learning_rate: Number) -> Number:
    """Largest stable curvature of `optimizer` at this step's learning rate (its own may be a peak), full batch.

    Of H or of P^-1 H: see `preconditioned`. Hyperparameters may be tracers. Raises BadInput if no bound is known.
    """
    rules = _PRECONDITIONED if preconditioned(optimizer) else _PLAIN
    return rules[optimizer.name](optimizer, learning_rate)


@dataclass(frozen=True)
class Margin:
    """A measured curvature against its bound. position: "at" within the relative tolerance, else on which side."""

    measured: float
    bound: float
    tolerance: float

    @property
    def ratio(self) -> float:
        return self.measured / self.bound

    @property
    def position(self) -> Position:
        if not self.ratio >= 1 - self.tolerance:
            return "below"
        return "at" if self.ratio <= 1 + self.tolerance else "above"

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "ratio": self.ratio, "position": self.position}


def margin(measured: Any, bound: Any, tolerance: float = TOLERANCE) -> Margin:
    """Raises BadInput if `measured` is not finite or `bound` not positive and finite."""
    value, limit = float(measured), float(bound)
    if not (abs(value) < float("inf") and 0 < limit < float("inf")):
        raise BadInput(f"curvature {value} cannot be compared with bound {limit}; leave diverged measurements out")
    return Margin(value, limit, tolerance)


@dataclass(frozen=True)
class StochasticEdge:
    """Minibatch SGD at the edge: batch sharpness at 2 / eta, and the full-batch sharpness below it.

    at_edge: both hold. Source: Andreyev & Beneventano 2024, "Edge of stochastic stability".
    """

    batch_sharpness: Margin
    sharpness: Margin

    @property
    def at_edge(self) -> bool:
        return self.batch_sharpness.position == "at" and self.sharpness.position == "below"

    def to_json(self) -> dict[str, Any]:
        return {
            "batch_sharpness": self.batch_sharpness.to_json(),
            "sharpness": self.sharpness.to_json(),
            "at_edge": self.at_edge,
        }


def stochastic_edge(
    batch_sharpness: Any, sharpness: Any, learning_rate: Any, tolerance: float = TOLERANCE
) -> StochasticEdge:
    """Of SGD without momentum. Raises BadInput where `margin` does."""
    bound = gradient_descent_bound(float(learning_rate))
    return StochasticEdge(margin(batch_sharpness, bound, tolerance), margin(sharpness, bound, tolerance))


class LinearStability(NamedTuple):
    """Both must be below their limits (2 and 1) for `stable`. top: eta (1 + 1/B) lam_max. total: the sum, inf if top >= 2."""

    top: Array
    total: Array
    stable: Array


def sgd_linear_stability(
    eigenvalues: Array, learning_rate: Number, batch_size: Number, counts: Array | None = None
) -> LinearStability:
    """Mean-square stability of SGD without momentum at a minimum that fits every example.

    eta (1 + 1/B) lam_max < 2  and  sum_i (eta / B) lam_i / (2 - eta (1 + 1/B) lam_i) < 1.

    eigenvalues: of the Hessian, any shape; negative ones count as 0 (the minimum has none). counts: how many
    eigenvalues each stands for, for instance the nodes and counts of `sharpness.spectral_quadrature`.

    For the square loss, Gaussian inputs and batches drawn with replacement, E[A S A] with A = I - eta H_B is
    S - eta (H S + S H) + eta^2 ((1 + 1/B) H S H + tr(H S) H / B). In H's basis the diagonal of S evolves by a diagonal
    matrix plus one of rank one; its spectral radius is below 1 exactly under these conditions. Other inputs change the
    factor of the rank-one part. Source: Wu & Su 2023, "The implicit regularization of dynamical stability in SGD",
    derived again here.
    """
    curvature = jnp.maximum(jnp.asarray(eigenvalues), 0.0)
    weight = jnp.ones_like(curvature) if counts is None else counts
    top = learning_rate * (1 + 1 / batch_size) * jnp.max(jnp.where(weight > 0, curvature, 0.0))
    left = 2 - learning_rate * (1 + 1 / batch_size) * curvature
    terms = weight * (learning_rate / batch_size) * curvature / jnp.where(left > 0, left, 1.0)
    total = jnp.where(top < 2, jnp.sum(terms), jnp.inf)
    return LinearStability(top, total, (top < 2) & (total < 1))


def largest_trace(learning_rate: Number, batch_size: Number) -> Number:
    """2 B / eta: the trace that no mean-square stable minimum exceeds, whatever its spectrum (tr(H) <= 2 / eta at B = 1).

    Each term of the sum above is at least (eta / B) lam_i / 2, and their sum is below 1.
    """
    return 2 * batch_size / learning_rate
