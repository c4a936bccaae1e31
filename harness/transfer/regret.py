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

    NaN where a scale (or the base scale) has no optimum, inf where the base learning rate diverges.
    cross_fitted: whether the seeds that choose are not the seeds that report.
    """

    value: np.ndarray
    ci95: np.ndarray
    cross_fitted: bool


def base_regret(sweep: Sequence[Trials], model: LocalModel, base: int) -> Regret:
    """Paired regret of the base scale's best learning rate at every scale.

    For each seed, the learning rates of base and scale are chosen by the joint model fitted to the *other* seeds, and
    this seed's own curve (Akima in log lr) gives the excess of one over the other; the mean over seeds is reported. The
    interval is the t interval of that mean under the joint model's noise (its dof), given the chosen learning rates.
    With one seed the same seed chooses and reports.
    """
    seeds = np.unique(np.concatenate([t.seed for t in sweep]))
    crossed = seeds.size >= 2
    value, error = np.full((seeds.size, len(sweep)), np.nan), np.full((seeds.size, len(sweep)), np.nan)
    for row, seed in enumerate(seeds):
        chosen = fit_local_model([t.where(t.seed != seed) for t in sweep]) if crossed else model
        best = dict(zip(chosen.index.tolist(), chosen.best.tolist(), strict=True))
        if base not in best:
            continue
        for i in set(best) & set(model.index.tolist()):
            value[row, i], error[row, i] = _excess(sweep[i], seed, best[base], best[i])
    count = np.sum(~np.isnan(value), axis=0)
    mean = np.where(count > 0, np.nansum(value, axis=0) / np.maximum(count, 1), np.nan)
    sd = model.sigma * np.sqrt(np.nansum(error**2, axis=0)) / np.maximum(count, 1)
    half = stats.t.ppf(0.975, max(model.dof, 1)) * sd
    half = np.where(np.isfinite(mean), half, np.nan)
    return Regret(np.expm1(mean), np.expm1(np.stack([mean - half, mean + half], axis=1)), crossed)


def _excess(trials: Trials, seed: object, at: float, best: float) -> tuple[float, float]:
    """Log loss at `at` minus at `best` on this seed's curve, and the norm of the weights behind it (noise factor)."""
    if np.any(trials.diverged) and at >= trials.x[trials.diverged].min():
        return np.inf, 0.0
    own = trials.usable()
    own = own.where(own.seed == seed)
    if own.x.size < 3 or np.unique(own.x).size < own.x.size:
        return np.nan, np.nan
    order = np.argsort(own.x)
    x, y = own.x[order], own.y[order]
    points = np.clip([at, best], x[0], x[-1])
    spline = Akima1DInterpolator(x, y)(points)
    weights = np.array([np.interp(points, x, unit) for unit in np.eye(x.size)])
    return float(spline[0] - spline[1]), float(np.linalg.norm(weights[:, 0] - weights[:, 1]))
