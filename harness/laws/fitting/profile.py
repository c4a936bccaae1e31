"""Profile-likelihood intervals: how far one parameter can go while the others make up for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import stats

from harness.laws.fitting.resampling import Fitted
from harness.laws.fitting.solver import solve
from harness.registry import nearest
from workloads.base import BadInput

POINTS = 41  # of each profile, over REACH standard errors to both sides
REACH = 6.0


def profile(base: Fitted, names: Iterable[str], stderr: np.ndarray, level: float = 0.95) -> dict[str, Any]:
    """{parameter: {"values", "objective", "ci95": [low, high], "open": [low side, high side]}}, in natural units.

    The parameter is held on a grid and the others are fitted. The interval is where the robust likelihood ratio
    2 (Q - Q_min) c stays below the F(1, n - P) quantile, c = sum w rho'' / sum w^2 psi^2 (n - P) / n, which makes the
    Huber objective chi-squared distributed (Heritier & Ronchetti 1994, eq. 6). open: the profile never rose that far on
    the grid, so the data do not bound the parameter there. stderr: (P,) of the internal coordinates.
    Raises BadInput on a name that the law does not have.
    """
    law, order = base.law, list(base.law.parameters)
    wanted = list(names)
    for name in wanted:
        if name not in law.parameters:
            raise BadInput(f"law '{law.name}' has no parameter '{name}' to profile. {nearest(name, law.parameters)}")
    if not wanted:
        return {}
    index = [order.index(name) for name in wanted]
    grids = np.stack([_grid(base, i, float(stderr[i])) for i in index])
    found = _held(base, index, grids)
    residual = base.fitted - base.target
    n, p = residual.size, len(order)
    curvature = float(np.sum(base.weight * np.asarray(base.objective.curvature(residual))))
    score = float(np.sum((base.weight * np.asarray(base.objective.psi(residual))) ** 2))
    scale = 2 * curvature / max(score, 1e-300) * max(n - p, 1) / n
    allowed = float(stats.f.ppf(level, 1, max(n - p, 1))) / scale
    lowest = float(found.min())
    return {
        name: _interval(law.natural, order.index(name), base.theta, grid, values, lowest + allowed)
        for name, grid, values in zip(wanted, grids, found, strict=True)
    }


def _grid(base: Fitted, i: int, stderr: float) -> np.ndarray:
    lower, upper = (bound[i] for bound in base.law.bounds())
    step = min(max(stderr, 1e-8), 20.0)
    return np.clip(base.theta[i] + np.linspace(-REACH, REACH, POINTS) * step, lower, upper)


def _held(base: Fitted, index: list[int], grids: np.ndarray) -> np.ndarray:
    """Minimal objectives (len(index), POINTS) with coordinate index[j] held at grids[j]."""
    p = base.theta.size
    lower, upper = (np.tile(bound, (grids.size, 1)) for bound in base.law.bounds())
    held = np.repeat(index, POINTS)
    rows = np.arange(grids.size)
    lower[rows, held] = upper[rows, held] = grids.ravel()
    starts = np.broadcast_to(base.theta, (grids.size, 1, p))
    target, weight = (np.broadcast_to(v, (grids.size, base.target.size)) for v in (base.target, base.weight))
    found = solve(base.law, base.objective, base.features, target, weight, starts, bounds=(lower, upper))
    return found.objective.reshape(grids.shape)


def _interval(
    natural: Any, i: int, theta: np.ndarray, grid: np.ndarray, values: np.ndarray, level: float
) -> dict[str, Any]:
    inside = np.flatnonzero(values <= level)
    ends = []
    for edge, outward in ((inside.min(), -1), (inside.max(), 1)):
        beyond = edge + outward
        if not 0 <= beyond < grid.size:
            ends.append((float(grid[edge]), True))
            continue
        share = (level - values[edge]) / (values[beyond] - values[edge])
        ends.append((float(grid[edge] + share * (grid[beyond] - grid[edge])), False))
    at = np.tile(theta, (grid.size + 2, 1))
    at[:, i] = [*grid, ends[0][0], ends[1][0]]
    shown = natural(at)[:, i]
    return {
        "values": shown[:-2].tolist(),
        "objective": values.tolist(),
        "ci95": [float(shown[-2]), float(shown[-1])],
        "open": [ends[0][1], ends[1][1]],
    }
