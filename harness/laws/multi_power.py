"""Loss curves under any learning-rate schedule: every change of the rate pays back by a power law of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from harness.laws.base import LAWS, Array, Kind, Positive
from harness.laws.curves import CurveLaw, LearningRates, grid_total, linear_start, log_difference, log_power_law

WIDTH = 0.6  # of a cell, in log S_t - S_{k-1} and in log lr; errors of the sum fall with its fourth power
MOST_TURNS = 64  # cells that the learning rate alone may cut a curve into
LEAST_RATE = 1e-6  # of the peak: below, a rate counts as this in lr^-gamma
STARTS = 6
ALPHAS = (0.2, 0.4, 0.7, 1.1)
BETAS = (0.2, 0.5, 1.0)
GAMMAS = (0.2, 0.5, 0.8)
REACHES = (3e-3, 2e-2, 0.1, 0.5)  # share of the run's S after which a drop at the peak has paid back half (beta = 1)


@LAWS.register("multi_power")
@dataclass(frozen=True)
class MultiPower(CurveLaw):
    """L(t) = L0 + A S_t^-alpha + B sum_k (lr_k - lr_{k-1}) (1 - (1 + C lr_k^-gamma (S_t - S_{k-1}))^-beta).

    Luo et al. 2025 (arXiv:2503.12811). S_t = sum_{i <= t} lr_i, warmup included; k runs over the steps after
    the warmup; lr_k - lr_{k-1} is negative in decay. L and L0 nats/token, step t counted from 0, lr as used at each step.
    B, C and gamma, beta trade off unless the curves decay at different speeds from different rates: read the
    identifiability report, and compare with the law `annealing` (procedure `schedule`).
    """

    parameters: ClassVar[Mapping[str, Kind]] = {
        "L0": Positive,
        "A": Positive,
        "B": Positive,
        "C": Positive,
        "alpha": Positive,
        "beta": Positive.between(0.0, 20.0),
        "gamma": Positive.between(0.0, 3.0),
    }
    simpler: ClassVar[tuple[str, ...]] = ("annealing",)

    def at(self, rates: LearningRates, step: np.ndarray) -> dict[str, np.ndarray]:
        """The sum over k as nodes (m, K): `change`, the LR differences, log_rate (of lr_k) and log_reach (of S_t - S_{k-1})."""
        nodes = _packed(np.concatenate([_nodes(rates, step, k) for k in _monotone(rates)], axis=2))
        return dict(zip(("change", "log_rate", "log_reach"), nodes, strict=True))

    def on_grid(self, step: Array, lr: Array) -> dict[str, Array]:
        """As in the base: two nodes a segment that match mean and variance of its steps."""
        total, length, change = grid_total(step, lr), jnp.diff(step), jnp.diff(lr)
        half = jnp.sqrt((length**2 - 1) / 12)
        nodes = []
        for side in (-1.0, 1.0):
            k = (length + 1) / 2 + side * half
            before = total[:-1] + (k - 1) * lr[:-1] + change / length * (k - 1) * k / 2
            nodes.append((change / 2, jnp.log(lr[:-1] + change * k / length), jnp.log(total[-1] - before)))
        change, log_rate, log_reach = (jnp.concatenate(parts)[None] for parts in zip(*nodes, strict=True))
        return {"S1": total[-1:], "change": change, "log_rate": log_rate, "log_reach": log_reach}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        log_base = log_power_law(p, inputs["S1"])
        gain = -paid_back(p.log_C, p.gamma, p.beta, inputs["change"], inputs["log_rate"], inputs["log_reach"])
        return log_difference(log_base, p.B * gain * jnp.exp(-log_base))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """The best 6 of a grid in (beta, gamma, C), each with alpha of a grid and L0, A, B by least squares (none negative).

        C is such that a drop at the highest rate pays back over a share of the run (`REACHES`), so starts follow the units of
        learning rate and loss.
        """
        log_s = np.log(inputs["S1"])
        found = []
        for log_c, beta, gamma in _shapes(inputs):
            gain = -_paid_back(log_c, gamma, beta, inputs)
            linear = [(*linear_start(-alpha * log_s, gain, loss), alpha) for alpha in ALPHAS]
            (log_l0, log_a, log_b), error, alpha = min(linear, key=lambda each: each[1])
            found.append((error, (log_l0, log_a, log_b, log_c, np.log(alpha), np.log(beta), np.log(gamma))))
        order = np.argsort([error for error, _ in found], kind="stable")
        return np.array([found[i][1] for i in order[:STARTS]])


@jax.custom_jvp
def paid_back(log_c: Array, gamma: Array, beta: Array, change: Array, log_rate: Array, log_reach: Array) -> Array:
    """sum_k change_k (1 - (1 + C rate_k^-gamma reach_k)^-beta), (m,), from nodes (m, K).

    Its derivatives are written out: forward mode would carry one array of nodes per parameter of the law.
    """
    rise = jnp.logaddexp(log_c - gamma * log_rate + log_reach, 0.0)
    return jnp.sum(-change * jnp.expm1(-beta * rise), axis=1)


def _paid_back_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    log_c, gamma, beta, change, log_rate, log_reach = primals
    ratio = log_c - gamma * log_rate + log_reach
    rise = jnp.logaddexp(ratio, 0.0)
    left = jnp.exp(-beta * rise)
    slope = change * left * beta * jax.nn.sigmoid(ratio)
    by_scalar = (slope, -slope * log_rate, change * left * rise)
    by_node = (-jnp.expm1(-beta * rise), -gamma * slope, slope)
    value = jnp.sum(-change * jnp.expm1(-beta * rise), axis=1)
    moved = jnp.zeros_like(value)
    for tangent, by in zip(tangents, (*by_scalar, *by_node), strict=True):
        if not isinstance(tangent, SymbolicZero):
            moved += tangent * by.sum(axis=1) if tangent.ndim == 0 else jnp.sum(tangent * by, axis=1)
    return value, moved


paid_back.defjvp(_paid_back_jvp, symbolic_zeros=True)


def _paid_back(log_c: float, gamma: float, beta: float, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """`paid_back` in numpy, (n,), for grids of starts that are not worth compiling."""
    rise = np.logaddexp(log_c - gamma * inputs["log_rate"] + inputs["log_reach"], 0.0)
    return -np.sum(inputs["change"] * np.expm1(-beta * rise), axis=1)


def _shapes(inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[float, float, float]]:
    """(log C, beta, gamma) of the grid of starts."""
    changed = inputs["change"] != 0
    log_rate = float(inputs["log_rate"][changed].max()) if changed.any() else 0.0
    log_run = float(np.log(inputs["S1"].max()))
    for beta, gamma, reach in itertools.product(BETAS, GAMMAS, REACHES):
        yield gamma * log_rate - np.log(reach) - log_run, beta, gamma


def _monotone(rates: LearningRates) -> list[np.ndarray]:
    """The steps at which the learning rate falls, and those at which it rises: cells must not cancel."""
    return [np.flatnonzero(rates.change < 0), np.flatnonzero(rates.change > 0)]


def _nodes(rates: LearningRates, step: np.ndarray, k: np.ndarray) -> np.ndarray:
    """(3, m, K): change, log_rate and log_reach for the changes at steps k (J,), all of one sign.  Own.

    Each point sums over cells of steps within which log(S_t - S_{k-1}) and log lr_k move by less than `WIDTH`: single steps
    just before the point, thousands far back. A cell is two nodes of equal weight at mean +- standard deviation of
    S_{k-1}, weighted by the change, so that the error is of fourth order in WIDTH; all moments are differences of cumulative
    sums, which makes a point cost K log J rather than J.
    """
    if k.size == 0:
        return np.zeros((3, step.size, 0))
    change, before = rates.change[k], rates.total[k - 1]
    log_rate = np.log(np.maximum(rates.lr[k], LEAST_RATE * rates.lr.max()))
    edges = _edges(rates, step, k, before, log_rate)
    first, last = edges[:, :-1], edges[:, 1:] - 1
    some = last >= first

    def moment(value: np.ndarray) -> np.ndarray:
        summed = np.concatenate([[0.0], np.cumsum(value)])
        return summed[edges[:, 1:]] - summed[edges[:, :-1]]

    def half_range(value: np.ndarray) -> np.ndarray:
        return np.where(
            some, np.abs(value[np.minimum(last, k.size - 1)] - value[np.minimum(first, k.size - 1)]) / 2, 0.0
        )

    mass = np.where(some, moment(change), 0.0)
    safe = np.where(some, mass, 1.0)
    mean, mean_rate = moment(change * before) / safe, moment(change * log_rate) / safe
    variance = moment(change * before**2) / safe - mean**2
    spread = np.minimum(np.sqrt(np.maximum(variance, 0.0)), half_range(before))
    covariance = moment(change * before * log_rate) / safe - mean * mean_rate
    limit = half_range(log_rate)
    tilt = np.clip(covariance / np.where(spread > 0, spread, np.inf), -limit, limit)
    one = spread == 0.0
    parts = []
    for side, weight in ((-1.0, np.where(one, mass, mass / 2)), (1.0, np.where(one, 0.0, mass / 2))):
        reach = rates.total[step][:, None] - mean - side * spread
        parts.append((weight, mean_rate + side * tilt, np.log(np.maximum(reach, LEAST_RATE * rates.lr.max()))))
    nodes = np.concatenate(parts, axis=2)
    return _packed(np.where(nodes[0] != 0.0, nodes, 0.0))


def _edges(
    rates: LearningRates, step: np.ndarray, k: np.ndarray, before: np.ndarray, log_rate: np.ndarray
) -> np.ndarray:
    """(m, E + 1), ascending: where each point's cells begin and end among the changes k (J,); cells may be empty."""
    total = rates.total[step][:, None]
    least = np.log(max(rates.lr[rates.warmup_end :].min(), LEAST_RATE * rates.lr.max()))
    reach = np.exp(np.arange(np.log(rates.total[-1]) + WIDTH, least - WIDTH, -WIDTH))
    far = np.searchsorted(before, (total - reach).ravel(), side="right").reshape(step.size, -1)
    width = WIDTH
    while (turns := np.flatnonzero(np.diff(np.floor(log_rate / width))) + 1).size > MOST_TURNS:
        width *= 2
    end = np.searchsorted(k, step, side="right")[:, None]
    ends = [np.zeros_like(end), far, np.broadcast_to(turns, (step.size, turns.size)), end]
    return np.sort(np.minimum(np.concatenate(ends, axis=1), end), axis=1)


def _packed(nodes: np.ndarray) -> np.ndarray:
    """The nodes (3, m, K) of each point moved to the front, and no more columns than the fullest point needs."""
    order = np.argsort(nodes[0] == 0.0, axis=1, kind="stable")
    most = int(np.count_nonzero(nodes[0], axis=1).max(initial=1))
    return np.take_along_axis(nodes, np.broadcast_to(order, nodes.shape), axis=2)[:, :, :most]
