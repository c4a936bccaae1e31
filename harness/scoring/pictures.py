"""A leaderboard's pictures as plain data: performance profiles with bands, and the heat map of time ratios."""

from __future__ import annotations

import numpy as np

from harness.laws.plots import HeatMap, Layer, Plot
from harness.scoring.profiles import profiles
from harness.scoring.resampling import quantile
from harness.scoring.rules import TAU_MAX
from harness.scoring.scores import Scores

_MOST_LINES = 18
_TOGETHER = 2  # profiles with bands in one picture; more hide each other
_WITH_BANDS = 6
_MOST_ROWS = 40
_GRID = np.linspace(1.0, TAU_MAX, 61)


def profile_plots(scores: Scores) -> tuple[Plot, ...]:
    """The profiles together, then those of the highest scores with their bands."""
    lines = tuple(_line(scores, i) for i in scores.order[:_MOST_LINES])
    caption = "Share of the base workloads trained to the target within tau times the fastest submission's time."
    if len(lines) < len(scores.order):
        caption += f" The {len(lines)} highest scores of {len(scores.order)}."
    both = (_plot("profiles", "Performance profiles", lines, caption),)
    if scores.draws is None:
        return both
    leading = [i for i in scores.order if scores.scores[i] > 0][:_WITH_BANDS]
    parts = [leading[start : start + _TOGETHER] for start in range(0, len(leading), _TOGETHER)]
    band = "The same with pointwise 95% bands from resampled studies."
    return both + tuple(
        _plot(
            f"profiles_{n}",
            f"Profiles of {_listed(scores, part)}",
            tuple(_banded(scores, i) for i in part),
            band,
        )
        for n, part in enumerate(parts, 1)
    )


def _listed(scores: Scores, part: list[int]) -> str:
    return " and ".join(scores.submissions[i] for i in part)


def _plot(name: str, title: str, layers: tuple[Layer, ...], caption: str) -> Plot:
    return Plot(
        name, title, "tau: time over the fastest time", "share of workloads", layers, log_x=False, log_y=False,
        caption=caption,
    )  # fmt: skip


def _line(scores: Scores, i: int) -> Layer:
    tau = _breaks(scores, i, np.array([1.0, (1 + TAU_MAX) / 2, TAU_MAX]))
    x, (y,) = _steps(tau, profiles(scores.ratios[i], tau))
    return Layer(scores.submissions[i], x, y, kind="line")


def _banded(scores: Scores, i: int) -> Layer:
    assert scores.draws is not None
    tau = _breaks(scores, i, _GRID)
    rho = profiles(scores.ratios[i], tau)
    spread = profiles(scores.draws.ratios[:, i], tau).std(axis=0, ddof=1)
    reach = np.nan_to_num(quantile(scores.freedom[i]) * spread)
    x, (y, low, high) = _steps(tau, rho, np.clip(rho - reach, 0, 1), np.clip(rho + reach, 0, 1))
    return Layer(scores.submissions[i], x, y, low, high, kind="line")


def _breaks(scores: Scores, i: int, grid: np.ndarray) -> np.ndarray:
    """The values of tau at which a profile steps, and those of the grid."""
    ratio = scores.ratios[i]
    return np.unique(np.concatenate([grid, ratio[ratio <= TAU_MAX]]))


def _steps(tau: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Vertices of curves that keep each value until the next tau."""
    return np.repeat(tau, 2)[1:], [np.repeat(one, 2)[:-1] for one in values]


def ratio_map(scores: Scores) -> HeatMap:
    """Median times over the fastest of each column, held-out variants included, before anything is ruled out."""
    shown = scores.order[:_MOST_ROWS]
    fastest = scores.medians.min(axis=0)
    with np.errstate(invalid="ignore"):
        values = (scores.medians / fastest)[shown]
    values = np.where(np.isinf(scores.medians[shown]), np.inf, values)
    ruled_out = np.isfinite(values) & (scores.statuses[shown] != "counts")
    variants = list(scores.times.workloads.held_out)
    notes = f" Columns from {variants[0]} on are held-out variants." if variants else ""
    notes += "" if len(shown) == len(scores.order) else f" The {len(shown)} highest scores of {len(scores.order)}."
    return HeatMap(
        name="time_ratios",
        title="Median time to target over the fastest of each workload",
        rows=tuple(scores.submissions[i] for i in shown),
        columns=scores.times.workloads.columns,
        values=values,
        span=(1.0, TAU_MAX),
        faint=ruled_out,
        caption="∞: target not met in the median study. In parentheses: met, but ruled out (more than 4 times the fastest, or "
        f"the target of the base workload or of its held-out variant not met).{notes}",
    )  # fmt: skip
