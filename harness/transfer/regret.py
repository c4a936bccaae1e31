"""What using the base scale's best learning rate costs at the other scales.  Own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from harness.transfer.basin import Trials
from harness.transfer.local_model import LocalModel, fit_local_model


@dataclass(frozen=True)
class Regret:
    """Relative excess loss per scale, exp(difference of log losses) - 1: value (W,), ci95 (W, 2).

    NaN where a scale (or the base scale) has no optimum or the base learning rate lies outside the usable ones; inf
    where it reaches those that diverge.
    cross_fitted: whether the seeds that choose are not the seeds that report.
    """

    value: np.ndarray
    ci95: np.ndarray
    cross_fitted: bool


def base_regret(sweep: Sequence[Trials], model: LocalModel, base: int) -> Regret:
    """Paired regret of the base scale's best learning rate at every scale.

    For each seed, the learning rates of base and scale are chosen by the joint model fitted to the *other* seeds, and
    this seed's own curve gives the excess of one over the other (its own joint model where both lie in the window, an
    Akima spline in log lr beyond); the mean over seeds is reported. The t interval (the joint model's noise and dof)
    combines the noise of that mean with what a standard error of the base scale's best learning rate changes. With
    one seed the same seed chooses and reports.
    """
    seeds = np.unique(np.concatenate([t.seed for t in sweep]))
    crossed = seeds.size >= 2
    found = np.full((seeds.size, len(sweep), 4), np.nan)
    spread = _standard_error(model, base)
    for row, seed in enumerate(seeds):
        chosen = fit_local_model([t.where(t.seed != seed) for t in sweep]) if crossed else model
        own = fit_local_model([t.where(t.seed == seed) for t in sweep]) if crossed else model
        best = dict(zip(chosen.index.tolist(), chosen.best.tolist(), strict=True))
        if base not in best:
            continue
        for i in set(best) & set(model.index.tolist()):
            found[row, i] = _excess(own, i, sweep[i], seed, best[base], best[i], 0.0 if i == base else spread)
    count = np.sum(~np.isnan(found[..., 0]), axis=0)
    total = np.where(count[:, None] > 0, np.nansum(found, axis=0), np.nan)
    mean, up, down = (total[:, k] / np.maximum(count, 1) for k in (0, 2, 3))
    noise = model.sigma * np.sqrt(np.nansum(found[..., 1] ** 2, axis=0)) / np.maximum(count, 1)
    half = stats.t.ppf(0.975, max(model.dof, 1)) * np.hypot(noise, np.maximum(np.abs(up), np.abs(down)))
    half = np.where(np.isfinite(mean), half, np.nan)
    return Regret(np.expm1(mean), np.expm1(np.stack([mean - half, mean + half], axis=1)), crossed)


def _standard_error(model: LocalModel, base: int) -> float:
    """Of the base scale's log2 best learning rate; NaN without an estimate, 0 without an optimum (nothing to shift)."""
    at = np.flatnonzero(model.index == base)
    if at.size == 0:
        return 0.0
    return np.nan if model.covariance is None else float(np.sqrt(model.covariance[at[0], at[0]]))


def _excess(
    own: LocalModel, scale: int, trials: Trials, seed: object, at: float, best: float, spread: float
) -> tuple[float, ...]:
    """On this seed's curve: log loss at `at` minus at `best`, the norm of the weights behind it (noise factor), and how
    it changes if `at` moves up and down by `spread`."""
    if np.any(trials.diverged) and at >= trials.x[trials.diverged].min():
        return np.inf, 0.0, 0.0, 0.0
    points = np.array([at, best, at + spread, at - spread])
    place = np.flatnonzero(own.index == scale)
    low, high = own.surface.window[place[0]] if own.surface and place.size else (np.inf, -np.inf)
    if own.surface and low <= min(at, best) and max(at, best) <= high:
        rows = own.surface.height_rows(int(place[0]), points)
        height, difference = rows @ own.surface.coef, rows[0] - rows[1]
        noise = np.sqrt(difference @ own.surface.covariance @ difference)
    else:
        height, noise = _spline(trials, seed, points)
    here, there, above, below = height
    return float(here - there), float(noise), float(above - here), float(below - here)


def _spline(trials: Trials, seed: object, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Akima heights at `points` (the first two must lie inside, else NaN) and the noise factor of their difference."""
    own = trials.usable()
    own = own.where(own.seed == seed)
    order = np.argsort(own.x)
    x, y = own.x[order], own.y[order]
    if x.size < 3 or np.unique(x).size < x.size or points[:2].min() < x[0] or points[:2].max() > x[-1]:
        return np.full(4, np.nan), np.nan
    weights = np.array([np.interp(points[:2], x, unit) for unit in np.eye(x.size)])
    return Akima1DInterpolator(x, y)(np.clip(points, x[0], x[-1])), float(np.linalg.norm(weights[:, 0] - weights[:, 1]))
