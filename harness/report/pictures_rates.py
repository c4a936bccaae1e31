"""Pictures of loss against learning rate, one a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report.canvas import Picture, axes, legend, spread
from harness.report.inputs import array
from harness.report.palette import Palette
from harness.report.text import key_name, power_of_two, quantity, short
from harness.report.trials import Scale, Series

MOST_LINES = 12
MOST_POINTS = 1500


def thinned(scales: Sequence[Scale], most: int = MOST_LINES) -> list[Scale]:
    """At most `most` scales, evenly chosen, the extremes included."""
    if len(scales) <= most:
        return list(scales)
    return [scales[i] for i in np.unique(np.linspace(0, len(scales) - 1, most).round().astype(int))]


@dataclass(frozen=True)
class Window:
    """The losses that the learning-rate pictures show, the same for all series; trials above `high` sit on the edge."""

    low: float
    high: float
    log: bool

    @property
    def edge(self) -> float:
        """Just below the top."""
        return self.at(0.975)

    def at(self, fraction: float) -> float:
        if self.log:
            return float(self.low * (self.high / self.low) ** fraction)
        return self.low + fraction * (self.high - self.low)

    def fraction(self, losses: np.ndarray) -> np.ndarray:
        if self.log:
            return np.log(losses / self.low) / np.log(self.high / self.low)
        return (losses - self.low) / (self.high - self.low)


def window(series: Sequence[Series]) -> Window | None:
    """Room for every basin: outliers (far above the upper quartile of the mean losses) are left to the edge."""
    means = [scale.means()[1] for one in series for scale in one.scales]
    losses = np.concatenate([np.empty(0), *means])
    losses = losses[np.isfinite(losses)]
    if not losses.size:
        return None
    low, (lower, upper) = float(losses.min()), np.quantile(losses, [0.25, 0.75])
    high = float(losses[losses <= upper + 3 * (upper - lower) + 1e-9].max())
    log = low > 0 and high / low > 8
    if log:
        return Window(low * (low / high) ** 0.06, high * (high / low) ** 0.14, True)
    room = max(high - low, 1e-6 * max(abs(high), 1.0))
    return Window(low - 0.06 * room, high + 0.14 * room, False)


def learning_rate_pictures(series: Sequence[Series], axis: str | None, unit: str) -> list[Picture]:
    """Loss against peak learning rate, one picture a series, all with the same axes."""
    shown = window(series)
    rates = [scale.log_lr for one in series for scale in one.scales]
    found = np.unique(np.concatenate([np.empty(0), *rates]))
    if shown is None or not np.isfinite(found).any() or np.ptp(found[np.isfinite(found)]) == 0:
        return []
    limits = (float(np.nanmin(found)), float(np.nanmax(found)))
    return [_learning_rate_picture(i, one, axis, unit, shown, limits) for i, one in enumerate(series)]


def _learning_rate_picture(
    index: int, one: Series, axis: str | None, unit: str, shown: Window, limits: tuple[float, float]
) -> Picture:
    name = key_name(axis) if axis else "scale"
    best = array(one.transfer.get("best_lr"))
    words = [
        f"{name} {quantity(scale)}: {power_of_two(float(np.log2(lr)))}"
        for scale, lr in zip(array(one.transfer.get("widths")), best, strict=False)
        if np.isfinite(scale) and lr > 0
    ]
    diverged = sum(int(scale.diverged.sum()) for scale in one.scales)
    seeds = sum(scale.loss.size for scale in one.swept) <= MOST_POINTS
    above = any((scale.loss > shown.high).any() for scale in one.scales)
    parts = [
        f"Lines: means over seeds{'' if seeds else ' (or eighths of an octave)'}, one {name} each, "
        f"{'dots: single trials' if seeds else 'single trials not drawn'}.",
        "Diamonds: optimum of the fitted basin." if words else "",
        f"Crosses on the top edge: {diverged} diverged trial{'s' * (diverged != 1)}." if diverged else "",
        "Triangles: losses above the axis." if above else "",
        f"Star: the predicted {name}." if one.predicted else "",
        f"{MOST_LINES} of {len(one.swept)} scales are drawn." if len(one.swept) > MOST_LINES else "",
    ]

    def draw(figure: Figure, palette: Palette) -> None:
        _draw_learning_rates(figure, palette, one, name, unit, shown, limits)

    return Picture(
        name=f"learning_rate_{index}",
        title=f"{one.name}: loss against learning rate",
        alt=f"Validation loss against peak learning rate for {short(one.name)}, one curve per {name}. "
        + (f"Fitted best learning rates: {', '.join(words)}." if words else "No optimum is fitted."),
        caption=" ".join(part for part in parts if part),
        draw=draw,
    )


def _draw_learning_rates(
    figure: Figure,
    palette: Palette,
    one: Series,
    name: str,
    unit: str,
    shown: Window,
    limits: tuple[float, float],
) -> None:
    ax = axes(figure, palette)
    scales = thinned(one.swept)
    everything = [*scales, *([one.predicted] if one.predicted else [])]
    seeds = sum(scale.loss.size for scale in scales) <= MOST_POINTS
    ends: list[tuple[float, float, str, str]] = []
    found = optima(one)
    for i, scale in enumerate(everything):
        colour = palette.scale(i, len(everything))
        _draw_trials(ax, scale, colour, shown, seeds, i / max(len(everything) - 1, 1))
        x, mean = scale.means()
        if not scale.predicted:
            ax.plot(x, _capped(mean, shown), color=colour, linewidth=1.5, zorder=3, clip_on=True)
        visible = np.isfinite(mean) & (mean <= shown.high)
        if visible.any():
            ends.append((x[visible][0], mean[visible][0], quantity(scale.value), colour))
        if not scale.predicted and scale.value in found:
            ax.plot(
                *found[scale.value],
                "D",
                color=colour,
                markersize=6.5,
                markeredgecolor=palette["ink"],
                zorder=6,
            )
    path = np.array([found[scale.value] for scale in scales if scale.value in found])
    if len(path) > 1:
        ax.plot(*path.T, color=palette["ink"], linewidth=0.9, linestyle=(0, (1, 1.6)), zorder=5)
    _label_lines(ax, palette, ends, shown, limits, name)
    _learning_rate_axes(ax, palette, shown, limits, unit)
    _learning_rate_key(ax, palette, one, bool(len(path)))


def _draw_trials(ax: Axes, scale: Scale, colour: str, shown: Window, seeds: bool, position: float) -> None:
    if scale.predicted:
        ax.plot(*scale.means(), "*", color=colour, markersize=9, linestyle="none", zorder=7)
    if seeds:
        ax.plot(
            scale.log_lr,
            np.where(scale.loss <= shown.high, scale.loss, np.nan),
            "o",
            color=colour,
            markersize=3,
            alpha=0.65,
            markeredgewidth=0,
            zorder=2,
        )
    shift = 0.5 * (position - 0.5)  # so that the marks of several scales stay apart
    for mask, marker in ((scale.diverged, "x"), (scale.loss > shown.high, "^")):
        if mask.any():
            x = np.unique(scale.log_lr[mask]) + shift
            ax.plot(
                x,
                np.full(x.size, shown.edge),
                marker,
                color=colour,
                markersize=4.5,
                zorder=4,
                linestyle="none",
            )


def _capped(mean: np.ndarray, shown: Window) -> np.ndarray:
    """A curve that leaves through the top where it is too high."""
    return np.where(np.isfinite(mean), np.minimum(mean, shown.at(1.5)), np.nan)


def optima(one: Series) -> dict[float, tuple[float, float]]:
    """Scale -> (log2 best learning rate, loss there)."""
    widths = array(one.transfer.get("widths"))
    best = array(one.transfer.get("best_lr"), widths.size)
    losses = array(one.transfer.get("loss_at_best"), widths.size)
    return {
        float(w): (float(np.log2(b)), float(v))
        for w, b, v in zip(widths, best, losses, strict=True)
        if np.isfinite(w) and b > 0 and np.isfinite(v)
    }


def _label_lines(
    ax: Axes,
    palette: Palette,
    ends: list[tuple[float, float, str, str]],
    shown: Window,
    limits: tuple[float, float],
    name: str,
) -> None:
    """The scale of every curve at its left end."""
    starts = [end for end in ends if end[0] <= limits[0] + 0.3]
    for x, y, text, colour in (end for end in ends if end[0] > limits[0] + 0.3):
        ax.annotate(text, (x, y), (7, -3), textcoords="offset points", fontsize=8, fontweight="bold", color=colour)
    if not starts:
        return
    heights = spread(shown.fraction(np.array([end[1] for end in starts])), 0.052)
    heights = heights - max(0.0, heights.max() - 0.93) + max(0.0, 0.02 - heights.min())
    for (x, y, text, colour), height in zip(starts, heights, strict=True):
        ax.annotate(
            text,
            (x, y),
            (limits[0] - 0.22, shown.at(float(height))),
            color=colour,
            ha="right",
            va="center",
            fontsize=8,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3},
        )
    top = shown.at(min(float(heights.max()) + 0.062, 0.985))
    ax.text(limits[0] - 0.22, top, short(name, 12), ha="right", va="center", fontsize=8, color=palette["muted"])


def _learning_rate_axes(ax: Axes, palette: Palette, shown: Window, limits: tuple[float, float], unit: str) -> None:
    if shown.log:
        ax.set_yscale("log")
    ax.set_ylim(shown.low, shown.high)
    ax.set_xlim(limits[0] - max(0.75, 0.13 * (limits[1] - limits[0])), limits[1] + 0.3)
    powers_of_two(ax, "x")
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel(f"validation loss{unit}")


def powers_of_two(ax: Axes, which: str) -> None:
    """Ticks at whole octaves of an axis that shows log2."""
    side = ax.xaxis if which == "x" else ax.yaxis
    side.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    side.set_major_formatter(FuncFormatter(lambda value, _: power_of_two(value)))


def _learning_rate_key(ax: Axes, palette: Palette, one: Series, fitted: bool) -> None:
    ink = palette["muted"]

    def mark(marker: str, text: str, size: float = 5.0) -> Artist:
        return Line2D([], [], color=ink, marker=marker, linestyle="none", markersize=size, label=text)

    handles: list[Artist] = [Line2D([], [], color=ink, marker="o", markersize=3, label="mean, seeds")]
    if fitted:
        handles.append(mark("D", "fitted best"))
    if any(scale.diverged.any() for scale in one.scales):
        handles.append(mark("x", "diverged"))
    if one.predicted:
        handles.append(mark("*", "predicted, then trained", 7.0))
    legend(ax, palette, handles)
