"""One law for all methods and sizes: what a method makes of its parameters and of its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from harness.transfer.plain import plain
from workloads.base import BadInput

_DRAWS = 200
_STUCK = 0.025  # share of refits at a bound: the 95% interval ends there
_STARTS = ((0.2, 0.2), (0.5, 0.3), (0.3, 0.6))


@dataclass(frozen=True)
class Point:
    """Mean final loss of a method's fresh seeds at N parameters and D tokens, and its relative standard error."""

    method: str
    size: float
    horizon: float
    loss: float
    stderr: float


@dataclass(frozen=True)
class Joint:
    """L = E + A / (a N)^alpha + B / (b D)^beta, with a = b = 1 for the baseline.  Own, after Hoffmann et al. 2022, eq. 10.

    draws: (m, parameters) refits to redrawn losses, in the order of `names`. largest: size that it was fitted to.
    per_parameter: the most tokens per parameter. sizes: how many it was fitted to.
    """

    methods: tuple[str, ...]
    names: tuple[str, ...]
    values: np.ndarray
    draws: np.ndarray
    largest: float
    per_parameter: float
    sizes: int

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why not to trust what it extrapolates to."""
        low, high = _bounds(len(self.names))
        e, log_a, alpha, log_b, beta = self.values[:5]
        size = math.log(self.largest)
        loss = e + math.exp(log_a - alpha * size) + math.exp(log_b - beta * (math.log(self.per_parameter) + size))
        margin = np.where(np.arange(len(low)) == 0, 1e-3 * loss, 1e-3)
        rows = np.vstack([self.values, self.draws])
        stuck = ((rows < low + margin) | (rows > high - margin)).mean(axis=0) > _STUCK
        at = [name for name, one in zip(self.names, stuck, strict=True) if one]
        found = [f"fits end at the bound of {', '.join(at)}, which these runs do not identify"] * bool(at)
        found += ["it is fitted to two sizes, which tell no exponent of size from a floor; give three"] * (
            self.sizes < 3
        )
        return tuple(found)

    def speed_up(self, method: str, size: float, horizon: float) -> tuple[float, tuple[float, float]]:
        """Extrapolated speed-up of a method at a size and horizon, with its 95% interval over the redraws; infinite where the
        baseline never reaches the method's loss at this size.
        """
        value = _speed_up(self._of(self.values, method), size, horizon)
        drawn = [_speed_up(self._of(row, method), size, horizon) for row in self.draws]
        low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf") if drawn else (np.nan, np.nan)
        return value, (float(low), float(high))

    def _of(self, row: np.ndarray, method: str) -> np.ndarray:
        """E, log A, alpha, log B, beta, log a, log b."""
        k = self.methods.index(method)
        own = row[5 + 2 * (k - 1) : 7 + 2 * (k - 1)] if k else np.zeros(2)
        return np.concatenate([row[:5], own])

    def to_json(self) -> dict[str, Any]:
        low, high = np.quantile(self.draws, (0.025, 0.975), axis=0) if len(self.draws) else 2 * (self.values * np.nan,)
        result: dict[str, Any] = plain(
            {name: {"value": self.values[i], "ci95": [low[i], high[i]]} for i, name in enumerate(self.names)}
        )
        return result


def fit_joint(points: Sequence[Point], baseline: str, rng: np.random.Generator) -> Joint:
    """Least squares of log losses weighted by their errors. Raises BadInput for fewer than two sizes or three horizons."""
    methods = (baseline, *sorted({point.method for point in points} - {baseline}))
    sizes, horizons = {point.size for point in points}, {point.horizon for point in points}
    names = ("E", "log_A", "alpha", "log_B", "beta", *(f"log_{k}:{m}" for m in methods[1:] for k in ("a", "b")))
    if len(sizes) < 2 or len(horizons) < 3 or len(points) <= len(names):
        raise BadInput("the joint law needs at least two sizes and three horizons")
    table = {
        "k": np.array([methods.index(point.method) for point in points]),
        "n": np.log([point.size for point in points]),
        "d": np.log([point.horizon for point in points]),
        "y": np.log([point.loss for point in points]),
        "s": np.maximum([point.stderr for point in points], 1e-4),
    }
    if not np.isfinite(table["y"]).all():
        raise BadInput("a method diverged at some setting; the joint law needs a loss at every one")
    n0, d0 = table["n"].mean(), table["d"].mean()
    lowest = min(point.loss for point in points)
    found = None
    for alpha, beta in _STARTS:
        start = np.zeros(len(names))
        start[:5] = (0.7 * lowest, np.log(0.2 * lowest) + alpha * n0, alpha, np.log(0.2 * lowest) + beta * d0, beta)
        fitted = _least_squares(start, table, table["y"])
        if found is None or fitted.cost < found.cost:
            found = fitted
    assert found is not None
    draws = []
    scatter = max(1.0, float(np.sqrt(2 * found.cost / max(1, len(points) - len(names)))))
    for _ in range(_DRAWS):
        y = table["y"] + scatter * table["s"] * rng.standard_normal(len(points))
        draws.append(_least_squares(found.x, table, y).x)
    per_parameter = max(point.horizon / point.size for point in points)
    return Joint(methods, names, found.x, np.array(draws), max(sizes), per_parameter, len(sizes))


def _least_squares(start: np.ndarray, table: Mapping[str, np.ndarray], y: np.ndarray) -> Any:
    k = table["k"]

    def residuals(p: np.ndarray) -> np.ndarray:
        own = np.concatenate([np.zeros(2), p[5:]]).reshape(-1, 2)[k]
        loss = p[0] + np.exp(p[1] - p[2] * (table["n"] + own[:, 0])) + np.exp(p[3] - p[4] * (table["d"] + own[:, 1]))
        return (np.log(loss) - y) / table["s"]

    low, high = _bounds(len(start))
    return least_squares(residuals, np.clip(start, low + 1e-9, high), bounds=(low, high), x_scale="jac", max_nfev=200)


def _bounds(parameters: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and most of every parameter."""
    low, high = np.full(parameters, -np.inf), np.full(parameters, np.inf)
    low[[0, 2, 4]] = (0.0, 0.01, 0.01)
    high[[2, 4]] = 3.0
    low[5:], high[5:] = -5.0, 5.0
    return low, high


def _speed_up(p: np.ndarray, size: float, horizon: float) -> float:
    """D_A / D at which the baseline reaches the method's loss; infinite where it never does."""
    _, log_a, alpha, log_b, beta, own_a, own_b = p
    n, d = np.log(size), np.log(horizon)
    gained = np.exp(log_a - alpha * (n + own_a)) - np.exp(log_a - alpha * n) + np.exp(log_b - beta * (d + own_b))
    if gained <= 0:
        return float("inf")
    return float(np.exp((log_b - np.log(gained)) / beta - d))
