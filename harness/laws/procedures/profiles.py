"""One IsoFLOP profile: losses of several sizes at one compute, and the size where they are lowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from workloads.base import BadInput

METHODS = ("akima", "parabola")
_LINE = 60  # points of a drawn line
_CLIP = 6.25  # squared standard deviations beyond which a difference counts no more


@dataclass(frozen=True)
class Profile:
    """size (rising), data, loss, stderr, count: (k,) of one level. rows: of the table behind them.

    scatter: sum of squares of the repeated log losses about their means, with its degrees of freedom.
    """

    compute: float
    size: np.ndarray
    data: np.ndarray
    loss: np.ndarray
    stderr: np.ndarray
    count: np.ndarray
    rows: int
    scatter: float
    scatter_dof: int

    @staticmethod
    def of(
        compute: float, size: np.ndarray, data: np.ndarray, loss: np.ndarray, stderr: np.ndarray, repeats: str
    ) -> Profile:
        """One point a size: geometric means of repeated rows, or the lowest of them (repeats="min")."""
        sizes, group, count = np.unique(size, return_inverse=True, return_counts=True)
        if repeats == "min":
            order = np.lexsort((loss, group))
            pick = order[np.concatenate([[0], np.cumsum(count)[:-1]])]
            ones = np.ones(sizes.size)
            return Profile(compute, sizes, data[pick], loss[pick], stderr[pick], ones, sizes.size, 0.0, 0)
        mean = np.bincount(group, np.log(loss)) / count
        scatter = float(np.sum((np.log(loss) - mean[group]) ** 2))
        spread = np.sqrt(np.bincount(group, stderr**2)) / count
        tokens = np.exp(np.bincount(group, np.log(data)) / count)
        dof = int(size.size - sizes.size)
        return Profile(compute, sizes, tokens, np.exp(mean), spread, count.astype(float), size.size, scatter, dof)


@dataclass(frozen=True)
class Optimum:
    """Where one profile is lowest. discarded: why it is not used ("" if it is); the numbers are then NaN.

    sd: of log N* (and log D*) under seed noise, at least the resolution of the search. weight_sd: at least a share of the
    distance between sizes. resampled: (draws,) log N*. line: (sizes, losses) of the curve that was minimised.
    """

    compute: float
    N: float
    D: float
    loss: float
    sd: float
    weight_sd: float
    resampled: np.ndarray
    line: tuple[np.ndarray, np.ndarray]
    discarded: str = ""

    def value(self, quantity: str) -> float:
        return self.N if quantity == "N" else self.D

    def draws(self, quantity: str) -> np.ndarray:
        """(draws,) log N*, or log D* = log D* - change of log N* (compute is fixed)."""
        if quantity == "N":
            return self.resampled
        return np.log(self.D) + np.log(self.N) - self.resampled

    def to_json(self) -> dict[str, Any]:
        if self.discarded:
            return {"C": self.compute, "discarded": self.discarded}
        return {
            "C": self.compute,
            "N": self.N,
            "D": self.D,
            "loss": self.loss,
            "sd_log": self.sd,
            "weight_sd_log": self.weight_sd,
        }


def optima(
    method: str,
    profile: Profile,
    noise: np.ndarray,
    rng: np.random.Generator,
    draws: int,
    *,
    per_interval: int,
    least_sd: float,
    reach: float,
    median: bool,
) -> Optimum:
    """The optimum of `profile` by `method` ("akima" or "parabola"), its spread under `noise` (k,) in units of loss.

    A draw whose optimum lies on the edge says nothing but that; with half of them there the level is discarded, else the
    spread grows by draws over those left (Porian et al. 2024).
    """
    low, high = np.log(profile.size[[0, -1]])
    noisy = profile.loss[:, None] + noise[:, None] * rng.normal(size=(profile.loss.size, draws))
    losses = np.concatenate([profile.loss[:, None], np.maximum(noisy, 1e-3 * profile.loss[:, None])], axis=1)
    find = _akima if method == "akima" else _parabola
    log_n, log_loss, line = find(profile, np.log(losses), per_interval, reach)
    shown = (np.exp(line[0]), np.exp(line[1]))
    nothing = (float("nan"),) * 5
    reason = _edge(log_n[0], low, high)
    valid = log_n[1:][np.isfinite(log_n[1:])]
    if not reason and valid.size < draws / 2:
        reason = "optimum on the edge in most draws of the seed noise"
    if reason:
        return Optimum(profile.compute, *nothing, np.empty(0), shown, reason)
    spacing = (high - low) / (profile.size.size - 1)
    seed_sd = max(float(np.std(valid)), spacing / per_interval / np.sqrt(12))
    spread = max(seed_sd, least_sd * spacing) * draws / valid.size
    best = float(np.median(valid)) if median else float(log_n[0])
    data = np.exp(np.interp(best, np.log(profile.size), np.log(profile.data)))
    filled = np.where(np.isfinite(log_n[1:]), log_n[1:], rng.choice(valid, draws))
    return Optimum(
        profile.compute, float(np.exp(best)), float(data), float(np.exp(log_loss[0])), seed_sd, spread, filled, shown
    )


def _edge(log_n: float, low: float, high: float) -> str:
    """Why this is no optimum; the finders mark edges by infinities and absence by NaN."""
    if np.isnan(log_n):
        return "no minimum: the parabola opens downwards"
    if np.isinf(log_n):
        return f"optimum on the edge: the {'smallest' if log_n < 0 else 'largest'} size is best"
    return ""


Found = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]


def _akima(profile: Profile, log_loss: np.ndarray, per_interval: int, reach: float) -> Found:
    """(log N*, its log loss) of each column of log_loss (k, draws + 1), and the interpolant of the first."""
    x = np.log(profile.size)
    grid = np.linspace(x[0], x[-1], per_interval * (x.size - 1))
    values = Akima1DInterpolator(x, log_loss, axis=0)(grid)
    at = values.argmin(axis=0)
    found = np.where(at == 0, -np.inf, np.where(at == grid.size - 1, np.inf, grid[at]))
    return found, values.min(axis=0), (grid, values[:, 0])


def _parabola(profile: Profile, log_loss: np.ndarray, per_interval: int, reach: float) -> Found:
    """The vertices of the least-squares parabolas through log loss against log N."""
    x = np.log(profile.size)
    lowest = x[log_loss[:, 0].argmin()]
    near = np.abs(x - lowest) <= np.log(reach) if reach > 1 else np.ones(x.size, bool)
    if near.sum() < 3:
        near = np.isin(np.arange(x.size), np.argsort(np.abs(x - lowest))[:3])
    center = x[near].mean()
    bend, slope, level = np.polyfit(x[near] - center, log_loss[near], 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = np.where(bend > 0, center - slope / (2 * bend), np.nan)
        bottom = level - slope**2 / (4 * bend)
    vertex = np.where(vertex <= x[0], -np.inf, np.where(vertex >= x[-1], np.inf, vertex))
    line = np.linspace(x[near][0], x[near][-1], _LINE)
    return vertex, bottom, (line, np.polyval([bend[0], slope[0], level[0]], line - center))


def difference_noise(profiles: Sequence[Profile]) -> float:
    """Relative standard deviation of the losses, from what differences of neighbours leave of a smooth curve.

    Third divided differences of log loss in log N vanish on any parabola through four neighbours; scaled to unit variance
    they estimate the noise, a little high where the curve itself has a third derivative (difference-based estimators: Gasser,
    Sroka & Jennen-Steinmetz 1986). Raises BadInput with fewer than five.
    """
    differences = []
    for profile in profiles:
        x, y = np.log(profile.size), np.log(profile.loss)
        for i in range(x.size - 3):
            part = x[i : i + 4]
            weight = 1 / np.prod(part[:, None] - part + np.eye(4), axis=1)
            differences.append(float(weight @ y[i : i + 4] / np.linalg.norm(weight)))
    if len(differences) < 5:
        raise BadInput(
            "too few sizes a level to estimate seed noise: give noise= (sd of the loss over seeds) or a column stderr"
        )
    return _robust_scale(np.array(differences))


def _robust_scale(values: np.ndarray) -> float:
    """Scale s with mean(min((v / s)^2, c)) at its normal expectation (Huber 1964, proposal 2): a broken run counts as c."""
    expected = stats.chi2.cdf(_CLIP, 3) + _CLIP * stats.chi2.sf(_CLIP, 1)
    squares = values**2
    variance = float(squares.mean())
    for _ in range(100):
        variance = float(np.minimum(squares, _CLIP * variance).mean()) / expected
    return float(np.sqrt(variance))
