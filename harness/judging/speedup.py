"""Speed-up over a tuned baseline as a function of size and duration.

Measured at the end of fully decayed runs: at one size the baseline's law L_A(D) = E + B D^-beta is drawn through its losses at
three horizons or more; the speed-up of a run of D examples is D_A / D with L_A(D_A) = its loss ("Fantastic pretraining
optimizers and where to find them", Wen et al. 2025). D_A is bracketed by what was trained, and extrapolated by 1.5x at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from harness.transfer.plain import plain
from workloads.base import BadInput

EXTRAPOLATION = 1.5
EQUIVALENT = (0.93, 1.07)
DRAWS = 1000
Verdict = Literal["faster", "slower", "equivalent", "undecided"]


@dataclass(frozen=True)
class Losses:
    """Final losses of one method at one size: horizons D (H,), ascending, and losses (H, K seeds); NaN: diverged."""

    horizons: np.ndarray
    losses: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.losses.mean(axis=1)


def equivalent_horizon(horizons: np.ndarray, mean: np.ndarray, loss: float) -> tuple[float, float, float]:
    """(D_A, low, high): the horizon at which the baseline has this loss; low and high when it is only known to lie outside
    what may be asked of the baseline's runs (0 or infinity on the open side).

    The power law through the three horizons or more, or where these have none (no curvature of the right sign, or losses that
    do not fall) the power law between each two.
    """
    curve = _curve(horizons, mean)
    first, last = horizons[0] / EXTRAPOLATION, horizons[-1] * EXTRAPOLATION
    if not math.isfinite(loss):
        return math.nan, 0.0, first
    at_first, at_last = curve(first), curve(last)
    if loss >= at_first:
        return math.nan, 0.0, first
    if loss <= at_last:
        return math.nan, last, math.inf
    found = float(brentq(lambda log_d: curve(math.exp(log_d)) - loss, math.log(first), math.log(last)))
    return math.exp(found), math.exp(found), math.exp(found)


def _curve(horizons: np.ndarray, mean: np.ndarray) -> Any:
    """The baseline's loss as a falling function of the horizon. Raises BadInput where its losses do not fall."""
    falling = np.minimum.accumulate(mean)  # noise may lift a longer run above a shorter one
    if not (np.isfinite(mean).all() and falling[-1] < falling[0]):
        raise BadInput("the baseline's loss does not fall with the horizon; use longer horizons or more seeds")
    law = _power_law(horizons, mean)
    if law is not None:
        e, b, beta = law
        return lambda d: e + b * d**-beta
    kept = np.flatnonzero(np.append(True, np.diff(falling) < 0))
    x, y = np.log(horizons[kept]), np.log(falling[kept])

    def between(d: float) -> float:
        k = int(np.clip(np.searchsorted(x, math.log(d)) - 1, 0, len(x) - 2))
        slope = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
        return float(np.exp(y[k] + slope * (math.log(d) - x[k])))

    return between


def _power_law(horizons: np.ndarray, mean: np.ndarray) -> tuple[float, float, float] | None:
    """E, B, beta by least squares in the loss (linear in E and B at each beta); None without one of falling, convex shape."""
    if len(horizons) < 3:
        return None
    best: tuple[float, float, float, float] | None = None
    for beta in np.geomspace(0.05, 3.0, 120):
        design = np.stack([np.ones(len(horizons)), (horizons / horizons[0]) ** -beta], axis=1)
        (e, b), *_ = np.linalg.lstsq(design, mean, rcond=None)
        cost = float(np.sum((design @ (e, b) - mean) ** 2))
        if b > 0 and e > 0 and (best is None or cost < best[0]):
            best = cost, float(e), float(b), float(beta)
    if best is None:
        return None
    cost, e, b, beta = best
    worst = np.abs(e + b * (horizons / horizons[0]) ** -beta - mean).max()
    if worst > 0.25 * (mean.max() - mean.min()):
        return None
    return e, b * horizons[0] ** beta, beta


@dataclass(frozen=True)
class SpeedUp:
    """At one size and horizon: the factor by which the baseline must train longer for the same loss.

    value: NaN where it is only known to lie below or above `low` and `high` (0 and infinity on an open side).
    ci90, ci95: over seeds.
    """

    size: float
    horizon: float
    value: float
    ci90: tuple[float, float]
    ci95: tuple[float, float]
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain(vars(self))
        return result


def speed_ups(size: float, ours: Losses, baseline: Losses, rng: np.random.Generator) -> list[SpeedUp]:
    """Of every horizon at one size, with intervals from redrawn means of both methods (noise pooled, what a seed does to
    both alike taken out, t-distributed).
    """
    found = []
    draws_ours, draws_theirs = _redrawn(ours, baseline, rng)
    for h, horizon in enumerate(ours.horizons.tolist()):
        value, low, high = equivalent_horizon(baseline.horizons, baseline.mean, float(ours.mean[h]))
        drawn = (
            np.array(
                [
                    _drawn(baseline.horizons, theirs, one[h])
                    for one, theirs in zip(draws_ours, draws_theirs, strict=True)
                ]
            )
            / horizon
            if draws_ours is not None
            else np.full(1, np.nan)
        )
        found.append(
            SpeedUp(
                size,
                horizon,
                value / horizon,
                _interval(drawn, 0.90),
                _interval(drawn, 0.95),
                low / horizon,
                high / horizon,
            )
        )
    return found


def _drawn(horizons: np.ndarray, mean: np.ndarray, loss: float) -> float:
    """D_A of a redrawn table; 0 or infinity beyond the ends."""
    try:
        value, low, _ = equivalent_horizon(horizons, mean, loss)
    except BadInput:
        return math.nan
    if not math.isnan(value):
        return value
    return 0.0 if low == 0.0 else math.inf


def _interval(drawn: np.ndarray, level: float) -> tuple[float, float]:
    usable = drawn[~np.isnan(drawn)]
    if usable.size < 0.9 * drawn.size or not usable.size:
        return math.nan, math.nan
    ends = (0.5 - level / 2, 0.5 + level / 2)
    low, high = (float(np.quantile(usable, q, method="inverted_cdf")) for q in ends)
    return low, high


def _redrawn(ours: Losses, baseline: Losses, rng: np.random.Generator) -> tuple[np.ndarray | None, np.ndarray]:
    """(DRAWS, H) means of both; None where one seed, or a diverged one, leaves no noise to redraw."""
    table = np.concatenate([np.log(ours.losses), np.log(baseline.losses)])
    seeds = table.shape[1]
    if seeds < 2 or not np.isfinite(table).all():
        return None, np.empty(0)
    residual = table - table.mean(axis=1, keepdims=True)
    common = residual.mean(axis=0)
    left = residual - common
    dof = (len(table) - 1) * (seeds - 1)
    own = math.sqrt(float(np.sum(left**2)) / dof / seeds)
    shared = math.sqrt(max(0.0, float(np.sum(common**2)) / (seeds - 1)) / seeds)
    stretch = np.sqrt(dof / stats.chi2(dof).rvs(DRAWS, random_state=rng))[:, None]
    together = shared * stats.t(seeds - 1).rvs((DRAWS, 1), random_state=rng)
    noise = own * stretch * rng.standard_normal((DRAWS, len(table))) + together
    drawn = np.exp(table.mean(axis=1) + noise)
    return drawn[:, : len(ours.horizons)], drawn[:, len(ours.horizons) :]


@dataclass(frozen=True)
class Overall:
    """Geometric mean of the speed-ups (or time ratios) of several settings, with intervals and a verdict."""

    value: float
    ci90: tuple[float, float]
    ci95: tuple[float, float]
    settings: int
    verdict: Verdict
    reason: str

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain(vars(self))
        return result


def overall(found: Sequence[SpeedUp]) -> Overall:
    """Over settings with a bracketed speed-up, conditional on these settings; intervals from those of each (independent).

    *equivalent* only if the 90% interval lies inside [.93, 1.07], *faster* or *slower* only if the 95% interval excludes 1;
    settings beyond the bracket count as evidence of their side only in the reason.
    """
    inside = [one for one in found if math.isfinite(one.value) and np.isfinite(one.ci95).all() and one.ci95[0] > 0]
    slower = sum(one.low == 0.0 and math.isnan(one.value) for one in found)
    faster = sum(one.high == math.inf and math.isnan(one.value) for one in found)
    outside = f"{faster} settings are faster and {slower} slower than the baseline's runs can say"
    nothing = (math.nan, math.nan)
    if not inside:
        if found and (slower == len(found) or faster == len(found)):
            verdict: Verdict = "slower" if slower else "faster"
            return Overall(math.nan, nothing, nothing, 0, verdict, f"All {outside}.")
        return Overall(
            math.nan, nothing, nothing, 0, "undecided", f"No setting has a speed-up with an interval; {outside}."
        )
    logs = np.log([one.value for one in inside])
    ends = {level: np.array([np.log(getattr(one, level)) for one in inside]) for level in ("ci90", "ci95")}
    intervals = {}
    for level, both in ends.items():
        down, up = (np.sqrt(np.sum((both[:, k] - logs) ** 2)) / len(logs) for k in (0, 1))
        intervals[level] = (float(np.exp(logs.mean() - down)), float(np.exp(logs.mean() + up)))
    value, ci90, ci95 = float(np.exp(logs.mean())), intervals["ci90"], intervals["ci95"]
    shown = f"x{value:.3f}, 90% [{ci90[0]:.3f}, {ci90[1]:.3f}], 95% [{ci95[0]:.3f}, {ci95[1]:.3f}]"
    beyond = f"; {outside}" if slower or faster else ""
    if not slower and not faster and ci90[0] >= EQUIVALENT[0] and ci90[1] <= EQUIVALENT[1]:
        return Overall(
            value, ci90, ci95, len(inside), "equivalent", f"The 90% interval lies inside [.93, 1.07]: {shown}."
        )
    if ci95[0] > 1 and not slower:
        return Overall(value, ci90, ci95, len(inside), "faster", f"The 95% interval lies above 1: {shown}{beyond}.")
    if ci95[1] < 1 and not faster:
        return Overall(value, ci90, ci95, len(inside), "slower", f"The 95% interval lies below 1: {shown}{beyond}.")
    return Overall(value, ci90, ci95, len(inside), "undecided", f"More seeds or settings decide: {shown}{beyond}.")


def survives_scale(found: Sequence[SpeedUp]) -> tuple[str, str]:
    """("grows" | "shrinks" | "keeps" | "undecided", why): the slope of log speed-up on log size, at like horizons."""
    inside = [one for one in found if math.isfinite(one.value) and np.isfinite(one.ci95).all() and one.ci95[0] > 0]
    sizes = np.array([one.size for one in inside])
    if len(set(sizes.tolist())) < 2:
        return "undecided", "Fewer than two sizes have a speed-up."
    x, y = np.log2(sizes), np.log2([one.value for one in inside])
    spread = np.array([np.log2(one.ci95[1] / one.ci95[0]) / (2 * 1.96) for one in inside])
    weight = 1 / np.maximum(spread, 1e-6) ** 2
    center = np.average(x, weights=weight)
    precision = float(np.sum(weight * (x - center) ** 2))
    slope = float(np.sum(weight * (x - center) * y)) / precision
    stderr = precision**-0.5
    if len(inside) > 2:  # scatter beyond the seeds' noise widens it
        rest = y - np.average(y, weights=weight) - slope * (x - center)
        stderr *= max(1.0, math.sqrt(float(np.sum(weight * rest**2)) / (len(inside) - 2)))
    half = 1.96 * stderr if len(inside) <= 2 else float(stats.t.ppf(0.975, len(inside) - 2)) * stderr
    shown = f"log2 speed-up per doubling of size {slope:+.3f}, 95% [{slope - half:+.3f}, {slope + half:+.3f}]"
    if slope - half > 0:
        return "grows", shown
    if slope + half < 0:
        return "shrinks", shown
    if half < 0.1:
        return "keeps", shown
    return "undecided", shown
