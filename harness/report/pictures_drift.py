"""Pictures of learning-rate transfer: the best learning rate against scale, and its drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.report.canvas import Picture, axes, legend
from harness.report.inputs import array
from harness.report.palette import MARKERS, Palette
from harness.report.pictures_rates import optima, powers_of_two
from harness.report.text import interval, key_name, number, quantity, short, signed
from harness.report.trials import Series
from harness.transfer.learning_rate import BOUND

LEAST_OCTAVES = 3.0  # of the best-learning-rate axis, so that a flat line looks flat


def best_learning_rate_picture(series: Sequence[Series], axis: str | None) -> Picture | None:
    """The best learning rate against scale with 95% intervals, all series."""
    shown = [(i, one) for i, one in enumerate(series) if optima(one)]
    if not shown or axis is None:
        return None
    name = key_name(axis)
    drifts = [f"{one.name} drift {signed(one.transfer.get('drift_exponent'))}" for _, one in shown]

    def draw(figure: Figure, palette: Palette) -> None:
        ax = axes(figure, palette)
        ticks = sorted({scale.value for _, one in shown for scale in one.scales if scale.value > 0})
        for place, (i, one) in enumerate(shown):
            _draw_best(ax, palette, one, i, 0.09 * (place - (len(shown) - 1) / 2), ticks)
        scale_ticks(ax, ticks)
        low, high = ax.get_ylim()
        spare = max(0.0, LEAST_OCTAVES - (high - low)) / 2
        ax.set_ylim(low - spare, high + spare)
        powers_of_two(ax, "y")
        ax.set_xlabel(f"{name} (log scale)")
        ax.set_ylabel("best peak learning rate")
        legend(
            ax,
            palette,
            [
                Line2D(
                    [],
                    [],
                    color=palette.series(i),
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=5,
                    label=short(one.name),
                )
                for i, one in shown
            ],
        )

    return Picture(
        name="best_learning_rate",
        title=f"Best learning rate against {name}",
        alt=f"Best peak learning rate against {name} with 95% intervals. {'; '.join(short(d, 60) for d in drifts)} "
        f"(log2 of the best learning rate per doubling of {name}).",
        caption="Points: optimum of each fitted basin with its 95 % interval. Lines: the fitted drift. Stars: what the "
        "predicted trials used. A learning rate that transfers is a horizontal line.",
        draw=draw,
    )


def _draw_best(ax: Axes, palette: Palette, one: Series, index: int, shift: float, ticks: list[float]) -> None:
    """x is log2(scale); `shift` keeps the series' intervals apart."""
    colour, marker = palette.series(index), MARKERS[index % len(MARKERS)]
    widths = array(one.transfer.get("widths"))
    best = array(one.transfer.get("best_lr"), widths.size)
    pairs = one.transfer.get("best_lr_ci95")
    ends = np.array([array(pair, 2) for pair in pairs] if isinstance(pairs, list) else []).reshape(-1, 2)
    ends = np.concatenate([ends, np.full((widths.size, 2), np.nan)])[: widths.size]
    ok = (best > 0) & (widths > 0)
    x, y = np.log2(widths[ok]), np.log2(best[ok])
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.log2(ends[ok]).T
    known = np.isfinite(low) & np.isfinite(high)
    errors = np.maximum([y[known] - low[known], high[known] - y[known]], 0)
    ax.errorbar(x[known] + shift, y[known], errors, fmt="none", ecolor=colour, elinewidth=1.3, capsize=2.5, zorder=3)
    ax.plot(x + shift, y, marker, color=colour, markersize=5.5, zorder=4)
    drift, base = number(one.transfer.get("drift_exponent")), number(one.transfer.get("base_width"))
    if drift is not None and ticks:
        z = x - np.log2(base or widths[ok][0])
        weight = np.where(known, 1 / np.maximum(high - low, 1e-3) ** 2, 0)
        weight = weight if weight.sum() > 0 else np.ones_like(z)
        middle = np.average(y - drift * z, weights=weight)  # the drift line passes through the weighted mean
        line = np.log2(np.array([min(ticks), max(ticks)]))
        ax.plot(
            line,
            middle + drift * (line - np.log2(base or widths[ok][0])),
            color=colour,
            linewidth=1.2,
            alpha=0.8,
        )
    rate = number(one.prediction.get("learning_rate"))
    if one.predicted and rate and rate > 0:
        ax.plot(np.log2(one.predicted.value) + shift, np.log2(rate), "*", color=colour, markersize=9, zorder=5)


def scale_ticks(ax: Axes, ticks: Sequence[float]) -> None:
    """Ticks of a log2 axis at the scales themselves, thinned so that they do not run into each other."""
    kept: list[float] = []
    span = np.log2(max(ticks) / min(ticks)) if ticks and max(ticks) > min(ticks) else 1.0
    for tick in ticks:
        if not kept or np.log2(tick / kept[-1]) >= 0.055 * span:
            kept.append(tick)
    ax.xaxis.set_major_locator(FixedLocator([float(np.log2(tick)) for tick in kept]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(round(2.0**value, 6))))


def drift_picture(series: Sequence[Series], axis: str | None) -> Picture | None:
    """The drift exponents with 90% and 95% intervals against the zone that counts as transfer."""
    shown = [(i, one) for i, one in enumerate(series) if number(one.transfer.get("drift_exponent")) is not None]
    if not shown or axis is None:
        return None
    name = key_name(axis)
    words = [
        f"{short(one.name)}: {signed(one.transfer.get('drift_exponent'))}, 95% interval "
        f"{interval(one.transfer.get('drift_ci95'))}, {key_name(short(one.transfer.get('verdict')))}"
        for _, one in shown
    ]

    def draw(figure: Figure, palette: Palette) -> None:
        ax = axes(figure, palette)
        ax.axvspan(-BOUND, BOUND, color=palette["good"], alpha=0.14, linewidth=0)
        ax.axvline(0, color=palette["faint"], linewidth=1)
        for row, (i, one) in enumerate(shown):
            _draw_drift(ax, palette, one, i, len(shown) - 1 - row)
        ax.set_ylim(-0.7, len(shown) - 0.2)
        ax.set_yticks(range(len(shown)), [short(one.name, 18) for _, one in reversed(shown)])
        ax.grid(False, axis="y")
        ax.text(
            0,
            len(shown) - 0.24,
            f"transfers: within ±{BOUND}",
            ha="center",
            va="top",
            fontsize=7.5,
            color=palette["good"],
        )
        low, high = ax.get_xlim()
        reach = max(abs(low), abs(high), 2.2 * BOUND)
        ax.set_xlim(min(low, -0.5 * reach), max(high, 0.5 * reach))
        ax.set_xlabel(f"drift exponent (octaves of learning rate per doubling of {name})")

    return Picture(
        name="drift",
        title="Drift of the best learning rate",
        alt=f"Drift exponents with intervals. {'; '.join(words)}.",
        caption=f"Thick: 90 % interval; thin: 95 %. Transfers: the 90 % interval lies inside ±{BOUND}. "
        f"Does not transfer: the 95 % interval excludes 0 and the drift exceeds {BOUND} in size. Else undecided.",
        draw=draw,
    )


def _draw_drift(ax: Axes, palette: Palette, one: Series, index: int, row: int) -> None:
    colour = palette.series(index)
    for key, width in (("drift_ci95", 1.4), ("drift_ci90", 4.5)):
        ends = array(one.transfer.get(key), 2)
        if np.isfinite(ends).all():
            ax.plot(
                ends,
                [row, row],
                color=colour,
                linewidth=width,
                alpha=0.55 if width > 2 else 1,
                solid_capstyle="butt",
            )
    value = number(one.transfer.get("drift_exponent")) or 0.0
    ax.plot([value], [row], MARKERS[index % len(MARKERS)], color=colour, markersize=7, zorder=4)
    ax.annotate(signed(value), (value, row), (0, 7), textcoords="offset points", ha="center", fontsize=8, color=colour)
