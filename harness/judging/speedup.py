"""Speed-up over a tuned baseline as a function of size and duration.

Measured at the end of fully decayed runs: at one size the baseline's law L_A(D) = E + B D^-beta is drawn through its losses at
three horizons or more; the speed-up of a run of D tokens is D_A / D with L_A(D_A) = its loss ("Fantastic pretraining
optimizers and where to find them", Wen et al. 2025). D_A is bracketed by what was trained, and extrapolated by 1.5x at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from harness.scoring.pairs import EQUIVALENT
from harness.transfer.plain import plain
from workloads.base import BadInput

EXTRAPOLATION = 1.5
DRAWS = 1000
_EXPONENTS = np.geomspace(0.05, 3.0, 120)
_LOOSE = 0.25  # of the losses' range: a law that misses a run by more is none
_KEEPS = math.log2(EQUIVALENT[1])  # per doubling of size, a slope of log2 speed-up that counts as none
Verdict = Literal["faster", "slower", "equivalent", "mixed", "undecided"]


@dataclass(frozen=True)
class Losses:
    """Final losses of one method at one size: horizons D (H,), ascending, and losses (H, K studies); NaN: diverged."""

    horizons: np.ndarray
    losses: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.losses.mean(axis=1)


def equivalent_horizon(horizons: np.ndarray, mean: np.ndarray, loss: float) -> tuple[float, float, float]:
    """(D_A, low, high): the horizon at which the baseline has this loss; NaN, and where it lies, if that is beyond what may be
    asked of the baseline's runs (low 0 or high infinity).

    horizons, mean: (H,). By the power law through the runs, or where they have none of falling, convex shape by a power law
    between each two. Raises BadInput where the baseline's losses do not fall.
    """
    first, last = horizons[0] / EXTRAPOLATION, horizons[-1] * EXTRAPOLATION
    falling = np.minimum.accumulate(mean)  # noise may lift a longer run above a shorter one
    if not falling[-1] < falling[0]:
        raise BadInput("the baseline's loss does not fall with the horizon; use longer horizons or more studies")
    if not math.isfinite(loss):
        return math.nan, 0.0, float(first)
    law = _power_laws(horizons, mean[None])
    if law.fits[0]:
        gap = loss - law.floor[0]
        found = math.inf if gap <= 0 else float((law.scale[0] / gap) ** (1 / law.exponent[0]))
    else:
        found = _between(horizons, falling, loss)
    if found <= first:
        return math.nan, 0.0, float(first)
    if found >= last:
        return math.nan, float(last), math.inf
    return found, found, found


def _between(horizons: np.ndarray, falling: np.ndarray, loss: float) -> float:
    """The horizon by straight lines in log-log through the runs that fall, the outermost ones extended."""
    kept = np.flatnonzero(np.append(True, np.diff(falling) < 0))
    x, y = np.log(horizons[kept]), np.log(falling[kept])
    k = int(np.clip(np.searchsorted(-y, -math.log(loss)) - 1, 0, len(x) - 2))
    slope = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
    return math.exp(min(x[k] + (math.log(loss) - y[k]) / slope, 700.0))


@dataclass(frozen=True)
class _Laws:
    """m laws floor + scale D^-exponent, (m,) each, and whether each fits its runs."""

    floor: np.ndarray
    scale: np.ndarray
    exponent: np.ndarray
    fits: np.ndarray


def _power_laws(horizons: np.ndarray, means: np.ndarray) -> _Laws:
    """Through every row of means (m, H): least squares in the loss, linear in floor and scale at each exponent of a grid."""
    relative = horizons / horizons[0]
    x = relative ** -_EXPONENTS[:, None]  # (exponents, H)
    centered = x - x.mean(axis=1, keepdims=True)
    y = means - means.mean(axis=1, keepdims=True)
    slope = y @ centered.T / np.sum(centered**2, axis=1)  # (m, exponents)
    floor = means.mean(axis=1, keepdims=True) - slope * x.mean(axis=1)
    cost = np.sum(y**2, axis=1, keepdims=True) - slope**2 * np.sum(centered**2, axis=1)
    cost = np.where((slope > 0) & (floor > 0), cost, np.inf)
    best = np.argmin(cost, axis=1)
    rows = np.arange(len(means))
    exponent, chosen_floor, chosen = _EXPONENTS[best], floor[rows, best], slope[rows, best]
    fitted = chosen_floor[:, None] + chosen[:, None] * relative ** -exponent[:, None]
    worst = np.abs(fitted - means).max(axis=1)
    fits = (len(horizons) >= 3) & np.isfinite(cost[rows, best]) & (worst <= _LOOSE * np.ptp(means, axis=1))
    return _Laws(chosen_floor, chosen * horizons[0] ** exponent, exponent, fits)


@dataclass(frozen=True)
class SpeedUp:
    """At one size and horizon: the factor by which the baseline must train longer for the same loss.

    value: NaN where it is only known to lie below or above `low` and `high` (0 and infinity on an open side).
    ci90, ci95: over studies (seeds and tuning). diverged: a run of the method did, which is as slow as can be. draws: redrawn
    values, together with those of the size's other horizons.
    """

    size: float
    horizon: float
    value: float
    ci90: tuple[float, float]
    ci95: tuple[float, float]
    low: float
    high: float
    diverged: bool = False
    draws: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False, repr=False)

    @property
    def inside(self) -> bool:
        """Whether value and interval lie within what may be asked of the baseline's runs."""
        return math.isfinite(self.value) and bool(np.isfinite(self.ci95).all()) and self.ci95[0] > 0

    @property
    def side(self) -> int:
        """-1: slower, its 95% interval says, or because it diverged; 1: faster; 0: neither."""
        if self.diverged or self.ci95[1] < 1:
            return -1
        return int(self.ci95[0] > 1)

    @property
    def leaning(self) -> int:
        """The side of the estimate alone."""
        estimate = self.value if math.isfinite(self.value) else self.low
        return -1 if self.diverged or estimate < 1 else 1

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain({key: value for key, value in vars(self).items() if key != "draws"})
        return result


def speed_ups(size: float, ours: Losses, baseline: Losses, rng: np.random.Generator) -> list[SpeedUp]:
    """Of every horizon at one size, with intervals from redrawn means of both methods (paired by study, t-distributed).

    Horizons at which a run of the baseline diverged are not among those of its law. Raises BadInput if fewer than two are.
    """
    found = []
    kept = np.isfinite(baseline.mean)
    if np.sum(kept) < 2:
        raise BadInput("fresh runs of the baseline diverged; tune with more points, or search smaller learning rates")
    horizons, mean = baseline.horizons[kept], baseline.mean[kept]
    draws_ours, draws_theirs = _redrawn(ours, baseline, rng)
    for h, horizon in enumerate(ours.horizons.tolist()):
        value, low, high = equivalent_horizon(horizons, mean, float(ours.mean[h]))
        drawn = np.full(1, np.nan)
        if draws_ours is not None and math.isfinite(ours.mean[h]):
            drawn = _all_horizons(horizons, draws_theirs[:, kept], draws_ours[:, h]) / horizon
        found.append(
            SpeedUp(
                size=size,
                horizon=horizon,
                value=value / horizon,
                ci90=_interval(drawn, 0.90),
                ci95=_interval(drawn, 0.95),
                low=low / horizon,
                high=high / horizon,
                diverged=not math.isfinite(ours.mean[h]),
                draws=drawn,
            )
        )
    return found


def _all_horizons(horizons: np.ndarray, means: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """`equivalent_horizon` of redrawn tables means (m, H), losses (m,): 0 or infinity beyond the ends, NaN without a law."""
    laws = _power_laws(horizons, means)
    gap = np.maximum(losses - laws.floor, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        found = (laws.scale / gap) ** (1 / laws.exponent)
    for i in np.flatnonzero(~laws.fits):
        falling = np.minimum.accumulate(means[i])
        found[i] = _between(horizons, falling, losses[i]) if falling[-1] < falling[0] else np.nan
    found = np.where(found <= horizons[0] / EXTRAPOLATION, 0.0, found)
    return np.where(found >= horizons[-1] * EXTRAPOLATION, np.inf, found)


def _interval(drawn: np.ndarray, level: float) -> tuple[float, float]:
    usable = drawn[~np.isnan(drawn)]
    if usable.size < 0.9 * drawn.size or not usable.size:
        return math.nan, math.nan
    ends = (0.5 - level / 2, 0.5 + level / 2)
    low, high = (float(np.quantile(usable, q, method="inverted_cdf")) for q in ends)
    return low, high


def _redrawn(ours: Losses, baseline: Losses, rng: np.random.Generator) -> tuple[np.ndarray | None, np.ndarray]:
    """(DRAWS, H) means of both, NaN where one diverged; None where too few studies did not, to leave noise to redraw.

    log loss = mean of (method, horizon) + what a study does at this horizon to both methods + the method's own noise. The
    latter two are drawn anew, with variances from the mean of and the difference between the methods, pooled over horizons.
    """
    tables = np.log(ours.losses), np.log(baseline.losses)
    horizons, studies = tables[0].shape
    whole = np.isfinite(tables[0]).all(axis=1) & np.isfinite(tables[1]).all(axis=1)
    dof = int(np.sum(whole)) * (studies - 1)
    if not dof:
        return None, np.empty(0)
    first, second = (table[whole] - table[whole].mean(axis=1, keepdims=True) for table in tables)
    own = float(np.sum((first - second) ** 2)) / dof / 2
    shared = max(0.0, float(np.sum(((first + second) / 2) ** 2)) / dof - own / 2)
    stretch = np.sqrt(dof / stats.chi2(dof).rvs((2, DRAWS, 1), random_state=rng) / studies)
    together = math.sqrt(shared) * stretch[0] * rng.standard_normal((DRAWS, horizons))
    drawn = [
        np.exp(table.mean(axis=1) + together + math.sqrt(own) * stretch[1] * rng.standard_normal((DRAWS, horizons)))
        for table in tables
    ]
    return drawn[0], drawn[1]


@dataclass(frozen=True)
class Overall:
    """Geometric mean of the speed-ups (or time ratios) of several settings, with intervals and a verdict.

    doubted: it would be another, had the loser been tuned to the end.
    """

    value: float
    ci90: tuple[float, float]
    ci95: tuple[float, float]
    settings: int
    verdict: Verdict
    reason: str
    doubted: bool = False

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain(vars(self))
        return result


def overall(groups: Mapping[str, Sequence[Sequence[SpeedUp]]]) -> Overall:
    """Over groups (workloads, or the sizes of one), each of the settings of some sizes: the mean of the groups' means, those of
    their sizes' means, of bracketed settings. Conditional on these; settings of one size depend by the baseline's law.

    *equivalent* only if the 90% interval lies inside [.93, 1.07], no group's 95% interval lies outside, and every setting is
    bracketed. *faster* or *slower* only if the 95% interval excludes 1, no group's lies on the other side, and no setting
    beyond the bracket is, or seems to be, there. *mixed* if groups lie on both sides. A size without settings, because the
    baseline has no law there, is named.
    """
    settings = [one for group in groups.values() for size in group for one in size]
    beyond = [one for one in settings if not one.inside]
    lawless = [name for name, group in groups.items() if not all(group)]
    outside = _outside(beyond, len(settings), lawless)
    means = {name: _Mean.of_sizes(group) for name, group in groups.items()}
    measured = [mean for mean in means.values() if mean is not None]
    quick, slow = ([n for n, group in groups.items() if _side(group, means[n]) == side] for side in (1, -1))
    ends = [mean.interval(1) for mean in measured]
    apart = len(groups) > 1 and any(end[0] > EQUIVALENT[1] or end[1] < EQUIVALENT[0] for end in ends)
    whole = _Mean.over(measured) if measured else None
    value, ci90, ci95 = (whole.value, whole.interval(0), whole.interval(1)) if whole else (math.nan, _UNKNOWN, _UNKNOWN)
    against = {side: any(-side in (one.side, one.leaning) for one in beyond) for side in (-1, 1)}
    verdict: Verdict = "undecided"
    why = "More studies or settings decide" if whole else "No setting has a speed-up with an interval"
    if quick and slow and (apart or len(measured) < len(groups)):
        verdict, why = "mixed", f"Faster on {', '.join(quick)} and slower on {', '.join(slow)}"
    elif not whole:
        sides = {one.side for one in beyond}
        if sides in ({1}, {-1}):
            verdict, why = ("faster" if sides == {1} else "slower"), "All settings lie beyond the baseline's runs"
    elif not (beyond or lawless or apart) and ci90[0] >= EQUIVALENT[0] and ci90[1] <= EQUIVALENT[1]:
        verdict, why = "equivalent", "The 90% interval lies inside [.93, 1.07]"
    elif ci95[0] > 1 and not against[1] and not slow:
        verdict, why = "faster", "The 95% interval lies above 1"
    elif ci95[1] < 1 and not against[-1] and not quick:
        verdict, why = "slower", "The 95% interval lies below 1"
    shown = [f"x{value:.3f}, 90% [{ci90[0]:.3f}, {ci90[1]:.3f}], 95% [{ci95[0]:.3f}, {ci95[1]:.3f}]"] * bool(whole)
    said = "; ".join([*shown, *outside])
    return Overall(value, ci90, ci95, len(settings) - len(beyond), verdict, f"{why}{': ' * bool(said)}{said}.")


_UNKNOWN = (math.nan, math.nan)


def _outside(beyond: Sequence[SpeedUp], settings: int, lawless: Sequence[str]) -> list[str]:
    """What the mean does not know."""
    slower, faster = (sum(one.side == side for one in beyond) for side in (-1, 1))
    unclear = len(beyond) - slower - faster
    counts = [f"{faster} faster and {slower} slower than the baseline's runs can say"] * bool(slower or faster)
    counts += [f"{unclear} too uncertain to count"] * bool(unclear)
    said = [f"of {settings} settings {' and '.join(counts)}"] * bool(counts)
    return said + [f"the baseline has no law at a size or more of {', '.join(lawless)}"] * bool(lawless)


def _side(group: Sequence[Sequence[SpeedUp]], mean: _Mean | None) -> int:
    """1 or -1 if its 95% interval, or where nothing is bracketed every setting, lies there."""
    if mean is not None:
        low, high = mean.interval(1)
        return int(low > 1) - int(high < 1)
    sides = {one.side for size in group for one in size}
    return sides.pop() if len(sides) == 1 else 0


@dataclass(frozen=True)
class _Mean:
    """A mean of log speed-ups and how far the ends of its 90 and 95% intervals lie from it, below and above."""

    log: float
    arms: tuple[tuple[float, float], tuple[float, float]]

    @property
    def value(self) -> float:
        return math.exp(self.log)

    def interval(self, level: int) -> tuple[float, float]:
        """The 90% (0) or 95% (1) interval."""
        down, up = self.arms[level]
        return math.exp(self.log - down), math.exp(self.log + up)

    @classmethod
    def of(cls, found: Sequence[SpeedUp]) -> _Mean:
        """Over bracketed settings; those of one size are as correlated as their draws are."""
        logs = np.log([one.value for one in found])
        correlation = np.array([[_correlation(a, b) for a in found] for b in found])
        arms = []
        for ends in ([one.ci90 for one in found], [one.ci95 for one in found]):
            away = np.abs(np.log(ends) - logs[:, None])
            down, up = (math.sqrt(max(0.0, float(away[:, k] @ correlation @ away[:, k]))) / len(logs) for k in (0, 1))
            arms.append((down, up))
        return cls(float(logs.mean()), (arms[0], arms[1]))

    @classmethod
    def of_sizes(cls, group: Sequence[Sequence[SpeedUp]]) -> _Mean | None:
        """Over sizes, each counting alike; None if nothing is bracketed."""
        sizes = [[one for one in size if one.inside] for size in group]
        means = [cls.of(size) for size in sizes if size]
        return cls.over(means) if means else None

    @classmethod
    def over(cls, means: Sequence[_Mean]) -> _Mean:
        """Over independent means, each counting alike."""
        arms = np.sqrt(np.sum(np.square([one.arms for one in means]), axis=0)) / len(means)
        (a, b), (c, d) = arms.tolist()
        return cls(float(np.mean([one.log for one in means])), ((a, b), (c, d)))


def _correlation(one: SpeedUp, other: SpeedUp) -> float:
    if one is other:
        return 1.0
    if one.size != other.size or not (one.draws.size and one.draws.shape == other.draws.shape):
        return 0.0
    ranks = [
        stats.rankdata(entry.draws, nan_policy="omit") for entry in (one, other)
    ]  # draws beyond the bracket: 0, infinity
    usable = np.isfinite(ranks).all(axis=0)
    if usable.sum() < 2 or any(np.ptp(rank[usable]) == 0 for rank in ranks):
        return 1.0
    return float(np.corrcoef(ranks[0][usable], ranks[1][usable])[0, 1])


def survives_scale(found: Sequence[SpeedUp]) -> tuple[str, str]:
    """("grows" | "shrinks" | "keeps" | "undecided", why): the slope of log speed-up on log size, with a level for each horizon.

    *keeps*: its 90% interval lies within a change by 1.07x a doubling. Settings beyond the bracket, taken at its end, must not
    change the answer.
    """
    inside = [one for one in found if one.inside]
    sizes: dict[float, set[float]] = {}
    for one in inside:
        sizes.setdefault(one.horizon, set()).add(one.size)
    if not any(len(there) > 1 for there in sizes.values()):
        return "undecided", "There is no horizon at which two sizes have a speed-up."
    answer, shown = _slope(inside, [one.value for one in inside])
    if len(inside) == len(found):
        return answer, shown
    shown += f", from the {len(inside)} of {len(found)} settings that have a speed-up with an interval"
    ends = [one.value if math.isfinite(one.value) else one.low or one.high for one in found]
    if answer != _slope(found, ends)[0]:
        return "undecided", f"{shown}; the others would change the answer"
    return answer, shown


def _slope(found: Sequence[SpeedUp], values: Sequence[float]) -> tuple[str, str]:
    """Weighted least squares of log2 values, with a level for each horizon."""
    x, y = np.log2([one.size for one in found]), np.log2(values)
    spread = np.array([np.log2(one.ci95[1] / one.ci95[0]) / (2 * 1.96) if one.inside else math.nan for one in found])
    weight = 1 / np.maximum(np.where(np.isnan(spread), np.nanmax(spread), spread), 1e-6) ** 2
    levels = np.unique([one.horizon for one in found], return_inverse=True)[1]
    design = np.column_stack([x, levels[:, None] == np.arange(levels.max() + 1)])
    root = np.sqrt(weight)[:, None]
    inverse = np.linalg.pinv(design * root)
    fitted = inverse @ (y * root[:, 0])
    slope, stderr = float(fitted[0]), float(np.linalg.norm(inverse[0]))
    dof = len(y) - int(np.linalg.matrix_rank(design * root))
    scatter = math.sqrt(float(np.sum(weight * (y - design @ fitted) ** 2)) / dof) if dof else 0.0
    halves = [
        stderr * max(float(stats.norm.ppf(q)), float(stats.t.ppf(q, dof)) * scatter if scatter > 1 else 0.0)
        for q in (0.95, 0.975)
    ]  # scatter beyond the studies' noise widens them
    shown = f"log2 speed-up per doubling of size {slope:+.3f}, 95% [{slope - halves[1]:+.3f}, {slope + halves[1]:+.3f}]"
    if abs(slope) > halves[1]:
        return ("grows" if slope > 0 else "shrinks"), shown
    if abs(slope) + halves[0] < _KEEPS:
        return "keeps", shown
    return "undecided", shown
