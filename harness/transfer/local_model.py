"""One joint local model of the loss around the best learning rate, over all scales.  Own.

y = a_(scale, seed) + b_scale u + c_scale u^2 + g u^3 + noise,   u = log2(lr) - the scale's pivot,

least squares with one noise level. The best learning rates m_scale are the minima; in the vertex form of the
parabola, k_scale = c_scale + 3 g u. The seed effects are fixed effects (only differences within a seed inform m).
The shared cubic g is the asymmetry: a parabola alone is dragged away from the steep side (on simulated one-octave
grids by 0.04-0.1 octaves, several standard errors). It needs more than three learning rates a scale, so the window
of the cubic reaches to 20% excess loss; where g is not determined the parabola is fitted to 5%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.transfer.basin import Basin, NoBasin, Remedy, Trials, find_basin, seed_intercepts

EXCESS = {3: float(np.log(1.20)), 2: float(np.log(1.05))}  # polynomial order -> excess log loss of the window
HIDDEN: tuple[str, Remedy] = ("noise hides the curvature around the optimum; add seeds or widen the grid", "seeds")
Notes = dict[int, tuple[str, Remedy]]
RESOLVED = 2.0  # curvature in standard errors below which noise hides the optimum


@dataclass(frozen=True)
class LocalModel:
    """The fitted model at the G scales that have a basin; `index` (G,) are their positions among all scales.

    best: (G,) log2 of the best learning rate. covariance: (G, G) of it, None where no degree of freedom is left to
    estimate noise. akima: (G,). truncation: mean of cubic minus parabola optima, 0 for a parabola.
    at_best: G arrays (S,) of per-seed log loss there. at_best_variance: (G,) of their mean. sigma: noise within a
    seed, with dof. notes: scale position -> why it has no optimum, and the remedy. surface: the fitted polynomials, None if
    empty.
    """

    order: int
    index: np.ndarray
    best: np.ndarray
    covariance: np.ndarray | None
    akima: np.ndarray
    truncation: float
    at_best: list[np.ndarray]
    at_best_variance: np.ndarray
    sigma: float
    dof: int
    notes: Notes
    surface: Surface | None

    def intervals(self, level: float, spread: float) -> np.ndarray:
        """(G, 2): t interval of `best`, extended on their side by the Akima difference or half the truncation.

        spread: standard deviation to use where the model has no noise estimate (scatter about the drift line).
        """
        error = np.full(self.best.size, spread) if self.covariance is None else np.sqrt(np.diag(self.covariance))
        dof = self.dof if self.covariance is not None else max(self.best.size - 2, 1)
        half = stats.t.ppf(0.5 + level / 2, dof) * error
        shifts = np.stack([self.akima - self.best, np.full(self.best.size, 0.5 * self.truncation)])
        below, above = np.minimum(shifts.min(0), 0.0), np.maximum(shifts.max(0), 0.0)
        return np.stack([self.best - half + below, self.best + half + above], axis=1)


def fit_local_model(sweep: Sequence[Trials]) -> LocalModel:
    """Fit the cubic, or the parabola where the cubic is not determined. `sweep` has one entry a scale."""
    return _fit(sweep, 3) or _fit(sweep, 2) or _empty(sweep)


def _find(sweep: Sequence[Trials], order: int) -> tuple[dict[int, Basin], Notes]:
    basins: dict[int, Basin] = {}
    notes: Notes = {}
    for i, trials in enumerate(sweep):
        try:
            basins[i] = find_basin(trials, EXCESS[order])
        except NoBasin as why:
            notes[i] = str(why), why.remedy
    return basins, notes


def _empty(sweep: Sequence[Trials]) -> LocalModel:
    nothing = np.empty(0)
    found = _find(sweep, 2)[1]
    notes = {i: found.get(i, HIDDEN) for i in range(len(sweep))}
    return LocalModel(2, np.empty(0, int), nothing, None, nothing, 0.0, [], nothing, np.nan, 0, notes, None)


def _fit(sweep: Sequence[Trials], order: int) -> LocalModel | None:
    """None where this order is not determined (no scale left, rank, no interior minimum, no spare dof for g)."""
    basins, notes = _find(sweep, order)
    while basins:
        fitted = _least_squares(basins, order)
        if fitted is None:
            return None
        hidden = fitted.unresolved()
        if not hidden:
            return _summary(fitted, basins, notes, order)
        for i in hidden:
            del basins[i]
            notes[i] = HIDDEN
    return None


@dataclass(frozen=True)
class Surface:
    """coef (P,), covariance (P, P) in units of sigma2; slices of seed effects and of (b, c) per scale; minima u (G,)
    from `pivot` with second derivatives `curvature`; window (G, 2), the x that were fitted.
    """

    index: list[int]
    coef: np.ndarray
    covariance: np.ndarray
    seeds: list[slice]
    local: list[slice]
    pivot: np.ndarray
    u: np.ndarray
    curvature: np.ndarray
    window: np.ndarray
    sigma2: float
    dof: int

    def best_rows(self) -> np.ndarray:
        """(G, P) derivative of the minima by the coefficients (implicit function theorem)."""
        rows = np.zeros((len(self.index), self.coef.size))
        for g, (local, u) in enumerate(zip(self.local, self.u, strict=True)):
            rows[g, local] = [1.0, 2 * u]
            rows[g, self.local[-1].stop :] = 3 * u**2
        return -rows / self.curvature[:, None]

    def value_rows(self) -> np.ndarray:
        """(G, P) derivative of the seed-mean value at the minimum (the minimum's own motion does not matter)."""
        rows = np.zeros((len(self.index), self.coef.size))
        for g, (seeds, local, u) in enumerate(zip(self.seeds, self.local, self.u, strict=True)):
            rows[g, seeds] = 1.0 / (seeds.stop - seeds.start)
            rows[g, local] = [u, u**2]
            rows[g, self.local[-1].stop :] = u**3
        return rows

    def height_rows(self, g: int, x: np.ndarray) -> np.ndarray:
        """(len(x), P): height of scale g's curve at x over its seed effects is this matrix times `coef`."""
        u = x - self.pivot[g]
        rows = np.zeros((u.size, self.coef.size))
        rows[:, self.local[g]] = np.stack([u, u**2], axis=1)
        rows[:, self.local[-1].stop :] = u[:, None] ** 3
        return rows

    def unresolved(self) -> list[int]:
        """Scales whose curvature at the minimum is not clear of zero."""
        if self.dof == 0:
            return []
        hidden = []
        for i, local, u, curvature in zip(self.index, self.local, self.u, self.curvature, strict=True):
            row = np.zeros(self.coef.size)
            row[local] = [0.0, 2.0]
            row[self.local[-1].stop :] = 6 * u
            if curvature < RESOLVED * np.sqrt(self.sigma2 * row @ self.covariance @ row):
                hidden.append(i)
        return hidden


def _least_squares(basins: dict[int, Basin], order: int) -> Surface | None:
    effects = [seed_intercepts(b.trials) for b in basins.values()]
    pivot = np.array([b.trials.x.mean() for b in basins.values()])
    sizes, rows = [e.shape[1] for e in effects], [e.shape[0] for e in effects]
    ends, row_ends = np.cumsum(sizes), np.cumsum(rows)
    seeds = [slice(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)]
    local = [slice(int(ends[-1]) + 2 * g, int(ends[-1]) + 2 * g + 2) for g in range(len(effects))]
    design = np.zeros((int(row_ends[-1]), int(ends[-1]) + 2 * len(effects) + order - 2))
    for g, basin in enumerate(basins.values()):
        block, u = slice(int(row_ends[g] - rows[g]), int(row_ends[g])), basin.trials.x - pivot[g]
        design[block, seeds[g]], design[block, local[g]] = effects[g], np.stack([u, u**2], axis=1)
        design[block, local[-1].stop :] = u[:, None] ** 3
    dof = design.shape[0] - design.shape[1]
    if dof < order - 2 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    y = np.concatenate([b.trials.y for b in basins.values()])
    inverse = np.linalg.inv(design.T @ design)
    coef = inverse @ (design.T @ y)
    residual = y - design @ coef
    third = float(coef[-1]) if order == 3 else 0.0
    minima = _minima(np.array([coef[s] for s in local]), third)
    if minima is None:
        return None
    u, curvature = minima
    window = np.array([[b.trials.x.min(), b.trials.x.max()] for b in basins.values()])
    if np.any(pivot + u < window[:, 0]) or np.any(pivot + u > window[:, 1]):
        return None
    sigma2 = float(residual @ residual) / dof if dof else np.nan
    return Surface(list(basins), coef, inverse, seeds, local, pivot, u, curvature, window, sigma2, dof)


def _minima(local: np.ndarray, third: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Minima u of b u + c u^2 + third u^3 and second derivatives there, (G,); None unless all exist."""
    b, c = local.T
    inside = c**2 - 3 * third * b
    if np.any(c <= 0) or np.any(inside <= 0):
        return None
    root = np.sqrt(inside)
    return -b / (c + root), 2 * root


def _summary(fitted: Surface, basins: dict[int, Basin], notes: Notes, order: int) -> LocalModel:
    best = fitted.pivot + fitted.u
    rows, values = fitted.best_rows(), fitted.value_rows()
    at_best = [
        fitted.coef[s] + v @ fitted.coef - fitted.coef[s].mean() for s, v in zip(fitted.seeds, values, strict=True)
    ]
    quadratic = np.array([find_basin(b.trials, EXCESS[2]).quadratic for b in basins.values()]) if order == 3 else best
    return LocalModel(
        order=order,
        index=np.array(fitted.index),
        best=best,
        covariance=rows @ fitted.covariance @ rows.T * fitted.sigma2 if fitted.dof else None,
        akima=np.array([b.akima for b in basins.values()]),
        truncation=float(np.mean(best - quadratic)),
        at_best=at_best,
        at_best_variance=np.einsum("gp,pq,gq->g", values, fitted.covariance, values) * fitted.sigma2,
        sigma=float(np.sqrt(fitted.sigma2)),
        dof=fitted.dof,
        notes=notes,
        surface=fitted,
    )
