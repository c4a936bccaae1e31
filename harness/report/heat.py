"""Heat maps, which are described as plain data, drawn: a cell's colour and its number say the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.report.canvas import Picture, axes
from harness.report.drawing import file_name
from harness.report.palette import Palette
from harness.report.text import clean, quantity, short

if TYPE_CHECKING:  # harness.laws imports jax, which drawing does not need
    from harness.laws.plots import HeatMap

WIDTH = 6.4  # inches
ROW = 0.24
FULLEST = 0.6  # of the colour, so that text in ink stays readable on it


def heat_picture(plot: HeatMap, name: str | None = None) -> Picture:
    """The heat map as a picture of the page, called `name` (by default the map's)."""
    names = max([0, *map(len, _names(plot.columns))])
    return Picture(
        name=file_name(plot.name if name is None else name),
        title=plot.title,
        alt=clean(plot.alt or _description(plot)),
        caption=plot.caption.strip(),
        draw=lambda figure, palette: _draw(figure, palette, plot),
        size=(WIDTH, 0.35 + ROW * max(1, len(plot.rows)) + 0.048 * names),
    )


def _names(labels: tuple[str, ...]) -> list[str]:
    return [short(label, 40) for label in labels]


def _description(plot: HeatMap) -> str:
    finite = plot.values[np.isfinite(plot.values)]
    if not finite.size:
        return f"{plot.title}: nothing to draw."
    never = int(np.isinf(plot.values).sum())
    ends = f"{quantity(finite.min(), 3)} to {quantity(finite.max(), 3)}"
    return f"{plot.title}: {len(plot.rows)} rows, {len(plot.columns)} columns, {ends}, {never} infinite."


def _draw(figure: Figure, palette: Palette, plot: HeatMap) -> None:
    ax = axes(figure, palette)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set(xlim=(0, max(1, len(plot.columns))), ylim=(max(1, len(plot.rows)), 0))
    ax.set_xticks(
        np.arange(len(plot.columns)) + 0.5, _names(plot.columns), rotation=45, ha="left", rotation_mode="anchor"
    )
    ax.set_yticks(np.arange(len(plot.rows)) + 0.5, _names(plot.rows))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for (row, column), value in np.ndenumerate(np.asarray(plot.values, np.float64)):
        text, colour, share = _cell(value, plot)
        place = (column + 0.02, row + 0.03)
        ax.add_patch(Rectangle(place, 0.96, 0.94, facecolor=palette[colour], alpha=share, linewidth=0))
        shown = f"({text})" if plot.faint[row, column] else text
        ink = palette["ink" if math.isfinite(value) else "muted"]
        ax.text(column + 0.5, row + 0.5, shown, ha="center", va="center", fontsize=7, color=ink)


def _cell(value: float, plot: HeatMap) -> tuple[str, str, float]:
    """Text, colour and how full it is."""
    if math.isnan(value):
        return "", "paper", 0.0
    if math.isinf(value):
        return "∞" if value > 0 else "−∞", "grid", 1.0
    low, high = plot.span
    share = math.log(max(value, low) / low) / math.log(high / low)
    return (
        f"{value:.2f}" if abs(value) < 10 else quantity(value, 3),
        "accent",
        0.06 + (FULLEST - 0.06) * min(1.0, share),
    )
