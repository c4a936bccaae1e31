"""Is sharpness independent of width over a window of training?  A verdict with its evidence.  Own.

The claim tested is that of Noci et al. 2024, "Why do learning rates transfer?": where learning rates transfer, the
sharpness of networks of different widths follows one curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from harness.transfer.exponent import BOUND, Exponent, exponent_verdict, labels, require_one_length
from harness.transfer.plain import plain
from workloads.base import BadInput

POOLING = 0.5  # level above which lack of fit counts as noise: seen to cover 93-98% (0.25: 91-95%), for 5% less power
Verdict = Literal["independent", "dependent", "undecided"]
_VERDICTS: dict[str, Verdict] = {"supported": "independent", "refuted": "dependent", "undecided": "undecided"}


@dataclass(frozen=True)
class WidthIndependence:
    """Result of `width_independence`.

    sharpness ~ width^slope over the window; slope is None where no line can be drawn. level (G,): geometric mean of the
    sharpness over window and seeds at each of `widths` (G,). halves: slopes over the first and second half of the window.
    runs: how many the line rests on; left_out: how many did not complete the window.
    """

    window: tuple[float, float]
    widths: np.ndarray
    level: np.ndarray
    slope: Exponent | None
    halves: tuple[float, float]
    bound: float
    runs: int
    left_out: int
    verdict: Verdict
    reason: str

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain(
            {**vars(self), "slope": None if self.slope is None else self.slope.to_json(), "unit": "d log / d log width"}
        )
        return result


def width_independence(
    width: Any,
    step: Any,
    sharpness: Any,
    seed: Any = None,
    *,
    window: tuple[float, float],
    bound: float = BOUND,
) -> WidthIndependence:
    """Slope of log sharpness on log width over the steps of `window` (both ends included), and the verdict.

    One row a measurement, (T,): width and step numbers, sharpness (not finite or not positive where the run has
    diverged), seed (any labels; None is one seed). A run is a (width, seed); it is averaged over the window, in the log,
    and left out whole unless it has a valid value at every step that any run has there.
    *independent* only if the 90% t interval of the slope lies inside [-bound, bound] and so do the slopes of both halves
    of the window; *dependent* only if the 95% interval excludes 0 and |slope| > bound; else *undecided*, as it is when
    fewer than 3 widths have a complete run, or the smallest or the largest has none.
    Raises BadInput on columns of different length, bad widths or bounds, a repeated measurement, or an empty window.
    """
    table = _table(width, step, sharpness, seed)
    if not bound > 0:
        raise BadInput(f"bound={bound} must be positive")
    inside = (table["step"] >= window[0]) & (table["step"] <= window[1])
    if not inside.any():
        low, high = table["step"].min(), table["step"].max()
        raise BadInput(f"no step lies in window={list(window)}; the table's steps are {low:g} to {high:g}")
    widths = np.unique(table["width"])
    curves, run_width, run_seed, left_out = _runs(table, inside)
    half = (curves.shape[1] + 1) // 2
    slope = _slope(curves.mean(1), run_width, run_seed)
    parts = [_slope(part.mean(1), run_width, run_seed) for part in (curves[:, :half], curves[:, -half:])]
    first, second = (np.nan if part is None else part.value for part in parts)
    missing = [w for w in widths if w not in run_width]
    if slope is None or {widths[0], widths[-1]} & set(missing):
        verdict, reason = _nothing_to_judge(missing)
    else:
        verdict, reason = _verdict(slope, first, second, bound)
    level = [np.exp(curves[run_width == w].mean()) if w in run_width else np.nan for w in widths]
    return WidthIndependence(
        window=(float(window[0]), float(window[1])),
        widths=widths,
        level=np.array(level),
        slope=slope,
        halves=(first, second),
        bound=bound,
        runs=len(curves),
        left_out=left_out,
        verdict=verdict,
        reason=reason,
    )


def _table(width: Any, step: Any, sharpness: Any, seed: Any) -> dict[str, np.ndarray]:
    numbers = {"width": width, "step": step, "sharpness": sharpness}
    table = {name: np.asarray(column, np.float64) for name, column in numbers.items()}
    table["seed"] = labels(seed, table["width"].size, "0")
    require_one_length(table)
    bad = table["width"][~(np.isfinite(table["width"]) & (table["width"] > 0))]
    if bad.size:
        raise BadInput(f"width holds {bad[0]} ({bad.size} such); it must be finite and positive")
    rows = list(zip(table["width"], table["seed"], table["step"], strict=True))
    if len(set(rows)) < len(rows):
        raise BadInput(
            "a width, seed and step occurs twice in the table; give runs that differ otherwise their own seed"
        )
    return table


def _runs(table: dict[str, np.ndarray], inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Runs R that are complete inside: log sharpness (R, steps), width (R,), seed (R,), and how many are incomplete."""
    steps = np.unique(table["step"][inside])
    of_row = list(zip(table["width"].tolist(), table["seed"].tolist(), strict=True))
    runs = sorted(set(of_row))
    index = {run: row for row, run in enumerate(runs)}
    row, column = np.array([index[run] for run in of_row]), np.searchsorted(steps, table["step"])
    valid = np.isfinite(table["sharpness"]) & (table["sharpness"] > 0)
    curves = np.full((len(runs), steps.size), np.nan)
    curves[row[inside], column[inside]] = np.log(np.where(valid, table["sharpness"], np.nan))[inside]
    complete = np.isfinite(curves).all(1)
    widths, seeds = np.array([w for w, _ in runs]), np.array([s for _, s in runs])
    return curves[complete], widths[complete], seeds[complete], int((~complete).sum())


def _verdict(slope: Exponent, first: float, second: float, bound: float) -> tuple[Verdict, str]:
    claim, reason = exponent_verdict(slope.value, slope.interval, 0.0, bound)
    if claim == "supported" and max(abs(first), abs(second)) > bound:
        return "undecided", f"The slope goes from {first:+.3f} to {second:+.3f} over the window; judge its halves apart"
    return _VERDICTS[claim], reason


def _slope(y: np.ndarray, width: np.ndarray, seed: np.ndarray) -> Exponent | None:
    """Slope of y (R,) on log width over the means of each width; None for fewer than 3 widths.

    The scatter of the means about the line holds noise and lack of fit. Where an F test finds no lack of fit, the
    noise within widths (less what a seed adds at every width, if all widths have the same seeds) is pooled with it.
    """
    widths, row, counts = np.unique(width, return_inverse=True, return_counts=True)
    if widths.size < 3:
        return None
    x = np.log(widths)
    weight = counts / counts.sum()
    mean = np.bincount(row, y) / counts
    center_x, center_y = weight @ x, weight @ mean
    spread = float(counts @ (x - center_x) ** 2)
    value = float(counts @ ((x - center_x) * (mean - center_y))) / spread
    off_line = mean - center_y - value * (x - center_x)
    between, between_dof = float(counts @ off_line**2), widths.size - 2
    within, within_dof = _within(y - mean[row], widths.size, seed)
    if within_dof and within > 0:
        ratio = (between / between_dof) / (within / within_dof)
        if stats.f.sf(ratio, between_dof, within_dof) > POOLING:
            between, between_dof = between + within, between_dof + within_dof
    return Exponent(value, float(np.sqrt(between / between_dof / spread)), between_dof)


def _within(residual: np.ndarray, groups: int, seed: np.ndarray) -> tuple[float, int]:
    """Sum of squares and degrees of freedom of the noise among the runs of a width; residual (R,): off its width's mean."""
    _, row, counts = np.unique(seed, return_inverse=True, return_counts=True)
    if np.all(counts == groups):  # the same seeds at every width
        residual = residual - (np.bincount(row, residual) / counts)[row]
        return float(residual @ residual), (groups - 1) * (counts.size - 1)
    return float(residual @ residual), residual.size - groups


def _nothing_to_judge(missing: Sequence[float]) -> tuple[Verdict, str]:
    if not missing:
        return "undecided", "Fewer than 3 widths; add widths"
    names = ", ".join(f"{w:g}" for w in missing)
    return (
        "undecided",
        f"No run of width {names} has a valid sharpness at every step of the window; shorten it or rerun",
    )
