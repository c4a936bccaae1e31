"""Ranges and ticks of linear and logarithmic axes, whatever the data."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from harness.report.text import quantity

MOST_TICKS = 7
_FARTHEST = 1e100  # beyond it, arithmetic on ranges overflows
_SUFFIXES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, ""))


def has_place(values: np.ndarray, log: bool) -> np.ndarray:
    """(n,) whether each value can be drawn on such an axis."""
    with np.errstate(invalid="ignore"):
        size = np.abs(values)
        return np.isfinite(values) & (size < _FARTHEST) & ((values > 1 / _FARTHEST) if log else True)


def limits(values: np.ndarray, log: bool, extras: np.ndarray | None = None) -> tuple[float, float]:
    """The axis' ends: all of `values`, with a margin, and of `extras` (ends of bands) what is not far away."""
    found = values[has_place(values, log)]
    if not found.size:
        return (1.0, 10.0) if log else (0.0, 1.0)
    found = np.log10(found) if log else found
    low, high = float(found.min()), float(found.max())
    if extras is not None and (more := extras[has_place(extras, log)]).size:
        more = np.log10(more) if log else more
        reach = (high - low) or math.inf
        low, high = min(low, max(float(more.min()), low - reach)), max(high, min(float(more.max()), high + reach))
    # Where all values are the same up to rounding, a range around them.
    least = 1e-9 * max(abs(low), abs(high))
    margin = 0.05 * (high - low) if high - low > least else (0.2 if log else 0.1 * abs(high) or 1.0)
    low, high = low - margin, high + margin
    return (10.0**low, 10.0**high) if log else (low, high)


def set_axis(ax: Axes, which: Literal["x", "y"], ends: tuple[float, float], log: bool) -> None:
    """Scale, range, at most `MOST_TICKS` round ticks with short numbers."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log" if log else "linear")
    axis.set_major_locator(FixedLocator(log_ticks(*ends) if log else linear_ticks(*ends)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    (ax.set_xlim if which == "x" else ax.set_ylim)(*ends)


def linear_ticks(low: float, high: float) -> list[float]:
    ticks = MaxNLocator(MOST_TICKS - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; over few decades 1, 2, 5 or 1, 3 between them; within about one, as a linear axis has them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) <= MOST_TICKS:
            break
    if len(ticks) < 4 and high / low < 20:
        return linear_ticks(low, high)
    return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]


def tick_text(value: float) -> str:
    """20000 -> 20 k, 1e18 -> 10¹⁸, 0.25 -> 0.25; round numbers as short as they are."""
    size = abs(value)
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e15:
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        power = quantity(10.0 ** int(exponent), 1).removeprefix("1 × ")
        short = mantissa.rstrip("0").rstrip(".")
        return (power if short == "1" else f"{short} × {power}").replace("-", "−")
    scale, suffix = next(((s, t) for s, t in _SUFFIXES if size >= 0.99999999 * s), (1.0, ""))
    return f"{value / scale:.7g}{suffix}".replace("-", "−")
