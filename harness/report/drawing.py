"""Plots, which laws describe as plain data, drawn: points, lines with bands, level lines; axes and a key that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.canvas import Picture, axes, legend
from harness.report.looks import Looks, looks
from harness.report.palette import Palette
from harness.report.text import clean, quantity, short
from harness.report.ticks import has_place, limits, set_axis, tick_text

if TYPE_CHECKING:  # harness.laws imports jax, which drawing does not need
    from harness.laws.plots import Contour, Layer, Plot

MOST_POINTS = 1500  # of a picture, each about 130 bytes of SVG; a point with error bars counts twice
MOST_VERTICES = 6000  # of a picture's lines
MOST_LEVELS = 9
MOST_NAMES = 18  # in a key
MOST_CELLS = 160  # of a contour's grid, along each axis
SIZE = (4.6, 3.4)  # inches; text of 8.5 points is then 9 pixels high at 400 pixels of page width, 14 at 1280
KEY_WIDTH = 3.9  # inches
_NARROW = frozenset(" fijlrtI.,:;|!'()[]-/")


def picture(plot: Plot, name: str | None = None, most_points: int = MOST_POINTS) -> Picture:
    """The plot as a picture of the page, called `name` (by default the plot's), with about `most_points` points.

    What has no place on its axes (not finite; not positive where they are logarithmic) is left out, and crowds of points
    are thinned; the caption says how many. Layers of one label share a colour and an entry in the key.
    """
    scene = _arrange(plot, most_points)
    caption = " ".join(part for part in (plot.caption.strip(), *scene.notes) if part)
    return Picture(
        name=file_name(plot.name if name is None else name),
        title=plot.title,
        alt=clean(plot.alt or _description(plot, scene)),
        caption=caption,
        draw=lambda figure, palette: _draw(figure, palette, scene),
        size=(SIZE[0], SIZE[1] + 0.17 * max(0, -(-len(scene.key) // scene.key_columns) - 1)),
    )


def file_name(name: str) -> str:
    """Letters, digits, - and _ of a name, at most 60: it names a file."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:60] or "plot"


@dataclass(frozen=True)
class Scene:
    """A plot with only what is drawn. layers: thinned. x, y: ends of the axes. notes: sentences on what is left out."""

    plot: Plot
    layers: tuple[Layer, ...]
    contour: Contour | None
    log: tuple[bool, bool]
    x: tuple[float, float]
    y: tuple[float, float]
    looks: Looks
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Labels that are in the key."""
        heads = self.looks.heads
        return heads if len(heads) <= MOST_NAMES else heads[: MOST_NAMES - 1]

    @property
    def key(self) -> list[str]:
        """The key's texts: labels, how many more there are, companions of many labels, the level lines."""
        more = len(self.looks.heads) - len(self.names)
        texts = [_name(label) for label in self.names if label.strip()] + ([f"and {more} more"] if more else [])
        texts += [_name(text) for text, _ in self.looks.companions]
        return [*texts, _level_name(self.contour)] if self.contour is not None else texts

    @property
    def key_columns(self) -> int:
        """As many as fit, with 0.36 inches for a symbol and the gap."""
        widths = [_text_width(text) for text in self.key]
        for columns in (4, 3, 2):
            if sum(0.36 + part.max() for part in np.array_split(widths, columns) if part.size) <= KEY_WIDTH:
                return columns
        return 1


def _name(label: str) -> str:
    text = short(label, 44)
    return f"\u200a{text}" if text.startswith("_") else text  # matplotlib 3.9 hides labels that start with _


def _text_width(text: str) -> float:
    """About its inches at 8 points."""
    return sum(
        0.112 if east_asian_width(c) in "WF" else 0.04 if c in _NARROW else 0.068 if c.islower() else 0.076
        for c in text
    )


def _level_name(contour: Contour) -> str:
    return f"level lines: {short(contour.label, 32)}" if contour.label.strip() else "level lines"


def _arrange(plot: Plot, most_points: int) -> Scene:
    log = (plot.log_x or plot.contour is not None, plot.log_y or plot.contour is not None)
    placed = [_placed(layer, *log) for layer in plot.layers]
    absent = sum(missing for _, missing in placed)
    layers = [layer for layer, _ in placed if np.isfinite(layer.y).any()]
    contour = _grid(plot.contour) if plot.contour is not None else None
    x = limits(_joined([*(one.x for one in layers), *([contour.x] if contour else [])]), log[0])
    bands = _joined([end for one in layers for end in (one.low, one.high) if end is not None])
    y = limits(_joined([*(one.y for one in layers), *([contour.y] if contour else [])]), log[1], bands)
    thinned = _thinned(layers, log, most_points)
    before, after = (sum(one.x.size for one in some if one.kind == "points") for some in (layers, thinned))
    notes = [] if contour is not None or plot.contour is None else ["The surface has no level lines."]
    if absent:
        are = "value has" if absent == 1 else "values have"
        positive = ", or not positive where the axis is logarithmic" if any(log) else ""
        notes.append(f"{absent:,} {are} no place on these axes (not finite{positive}).")
    if after < before:
        notes.append(f"{after:,} of {before:,} points are drawn, one of each small area.")
    return Scene(plot, tuple(thinned), contour, log, x, y, looks(layers, contour is not None), tuple(notes))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0)


def _placed(layer: Layer, log_x: bool, log_y: bool) -> tuple[Layer, int]:
    """The layer with what its axes can show (lines keep gaps), and how many values they cannot."""
    x, y = (np.asarray(values, np.float64).ravel() for values in (layer.x, layer.y))
    ends = [None if end is None else np.asarray(end, np.float64).ravel() for end in (layer.low, layer.high)]
    shown = has_place(x, log_x) & has_place(y, log_y)
    if layer.kind == "points":
        x, y = x[shown], y[shown]
        ends = [None if end is None else end[shown] for end in ends]
    else:
        x, y = (np.where(shown, values, np.nan) for values in (x, y))
    return replace(layer, x=x, y=y, low=ends[0], high=ends[1]), int((~shown).sum())


def _grid(contour: Contour) -> Contour | None:
    """Its rows and columns that logarithmic axes can show, at most `MOST_CELLS` of each; None if no level lines are left."""
    x, y, z = (np.asarray(values, np.float64) for values in (contour.x, contour.y, contour.z))
    columns, rows = (np.flatnonzero(has_place(values, True)) for values in (x, y))
    columns, rows = (
        kept[np.unique(np.linspace(0, kept.size - 1, min(kept.size, MOST_CELLS)).astype(int))] if kept.size else kept
        for kept in (columns, rows)
    )
    z = np.where(has_place(z, False), z, np.nan)[np.ix_(rows, columns)]
    if min(z.shape) < 2 or not _levels(z):
        return None
    return replace(contour, x=x[columns], y=y[rows], z=z)


def _thinned(layers: Sequence[Layer], log: tuple[bool, bool], most_points: int) -> list[Layer]:
    """Layers with no more points and vertices than a page can carry; each has a share by its size."""
    cost = {i: one.x.size * (1 if one.low is None else 2) for i, one in enumerate(layers) if one.kind == "points"}
    share = min(1.0, most_points / max(sum(cost.values()), 1))
    lines = sum(one.kind == "line" for one in layers)
    kept = []
    for one in layers:
        if one.kind == "points":
            index = _apart(one, max(10, int(share * one.x.size)), log) if share < 1 else np.arange(one.x.size)
        else:
            index = _envelope(one.y, max(30, min(1000, MOST_VERTICES // lines)))
        ends = (None if end is None else end[index] for end in (one.low, one.high))
        low, high = ends
        kept.append(replace(one, x=one.x[index], y=one.y[index], low=low, high=high))
    return kept


def _apart(layer: Layer, most: int, log: tuple[bool, bool]) -> np.ndarray:
    """Indices of one point of each cell of the finest grid that has no more than `most` occupied: outliers stay."""
    scaled = []
    for values, is_log in zip((layer.x, layer.y), log, strict=True):
        place = np.log10(values) if is_log else values
        scaled.append((place - place.min()) / (np.ptp(place) or 1.0))
    kept = np.arange(layer.x.size)
    cells = 512.0
    while kept.size > most:
        columns, rows = (np.floor(place * cells).astype(np.int64) for place in scaled)
        kept = np.sort(np.unique(columns * 1024 + rows, return_index=True)[1])
        cells /= 1.15
    return kept


def _envelope(y: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most about `most` vertices that keep the line's ends, peaks and troughs."""
    if y.size <= most:
        return np.arange(y.size)
    kept = {0, y.size - 1}
    for part in np.array_split(np.arange(y.size), most // 3):
        kept.add(int(part[0]))
        if np.isfinite(y[part]).any():
            kept |= {int(part[np.nanargmin(y[part])]), int(part[np.nanargmax(y[part])])}
    return np.array(sorted(kept))


def _description(plot: Plot, scene: Scene) -> str:
    """Words for a plot that has none: what is against what, and each label's range."""
    said = []
    for label in scene.names:
        mine = [one for one in scene.layers if one.label == label]
        y = _joined([one.y[np.isfinite(one.y)] for one in mine])
        said.append(f"{short(label, 44) or 'values'} from {quantity(y.min(), 4)} to {quantity(y.max(), 4)}")
    if scene.contour is not None:
        z = scene.contour.z[np.isfinite(scene.contour.z)]
        said.append(f"{_level_name(scene.contour)} from {quantity(z.min(), 4)} to {quantity(z.max(), 4)}")
    return f"{plot.title}: {plot.y_label} against {plot.x_label}; {', '.join(said) or 'nothing to draw'}."


def _draw(figure: Figure, palette: Palette, scene: Scene) -> None:
    ax = axes(figure, palette)
    set_axis(ax, "x", scene.x, scene.log[0])
    set_axis(ax, "y", scene.y, scene.log[1])
    ax.set_xlabel(_axis_label(scene.plot.x_label, scene.log[0], 50))
    ax.set_ylabel(_axis_label(scene.plot.y_label, scene.log[1], 40))
    if not scene.layers and scene.contour is None:
        ax.set(xticks=[], yticks=[])
        ax.text(0.5, 0.5, "nothing to draw", transform=ax.transAxes, ha="center", color=palette["muted"])
        return
    if not scene.log[1] and scene.y[0] < 0 < scene.y[1] and all(np.any(one.y != 0) for one in scene.layers):
        ax.axhline(0, color=palette["muted"], linewidth=0.9, zorder=1)
    if scene.contour is not None:
        _draw_contour(ax, palette, scene.contour)
    for layer in scene.layers:
        (_draw_points if layer.kind == "points" else _draw_line)(ax, palette, layer, scene)
    if handles := _key(palette, scene):
        legend(ax, palette, handles, columns=scene.key_columns)


def _axis_label(text: str, log: bool, length: int) -> str:
    if not log or "log scale" in text:
        return short(text, length)
    return f"{short(text, length - 10)}, log scale"


def _draw_line(ax: Axes, palette: Palette, layer: Layer, scene: Scene) -> None:
    look = scene.looks.of[layer.label]
    colour = look.colour(palette)
    crowded = any(_crowded(one, scene) for one in scene.layers)
    alone = np.isfinite(layer.y).sum() == 1
    ax.plot(
        layer.x,
        layer.y,
        color=colour,
        linewidth=1.1 if look.plain else 1.6,
        linestyle=look.dash,
        marker=look.marker if alone else None,
        zorder=5 if crowded else 3,
    )
    if layer.low is not None and layer.high is not None:
        low, high = _inside(layer.low, scene), _inside(layer.high, scene)
        bands = sum(one.kind == "line" and one.low is not None for one in scene.layers)
        ax.fill_between(layer.x, low, high, color=colour, alpha=0.18 if bands < 3 else 0.1, linewidth=0, zorder=2)


def _draw_points(ax: Axes, palette: Palette, layer: Layer, scene: Scene) -> None:
    look = scene.looks.of[layer.label]
    colour, crowded = look.colour(palette), _crowded(layer, scene)
    if layer.low is not None and layer.high is not None:
        low, high = _inside(layer.low, scene), _inside(layer.high, scene)
        width, alpha = (0.7, 0.3) if crowded else (1.1, 1.0)
        ax.vlines(layer.x, low, high, color=colour, linewidth=width, alpha=alpha, zorder=3.5)
    size, alpha, edge = (2.8, 0.65, 0.0) if crowded else (4.8 if layer.x.size > 3 else 6.5, 1.0, 0.4)
    ax.plot(
        layer.x,
        layer.y,
        look.marker,
        color=colour,
        markersize=size,
        alpha=alpha,
        markeredgewidth=edge,
        markeredgecolor=palette["paper"],
        zorder=3.8 if crowded else 4 if layer.x.size > 3 else 5.5,
    )


def _crowded(layer: Layer, scene: Scene) -> bool:
    """Whether its points are drawn small and translucent; a few points among many others are not."""
    points = sum(one.x.size for one in scene.layers if one.kind == "points")
    return layer.kind == "points" and layer.x.size > 40 and points > 150


def _inside(values: np.ndarray, scene: Scene) -> np.ndarray:
    """Ends of bars and bands, cut a little outside the axes; those beyond every number too."""
    low, high = scene.y
    below, above = (low / 2, high * 2) if scene.log[1] else (2 * low - high, 2 * high - low)
    return np.clip(values, below, above)


def _draw_contour(ax: Axes, palette: Palette, contour: Contour) -> None:
    levels = _levels(contour.z)
    colours = [palette.scale(i, len(levels)) for i in range(len(levels))]
    z = np.ma.masked_invalid(contour.z)
    lines = ax.contour(contour.x, contour.y, z, levels=levels, colors=colours, linewidths=1.1, zorder=2)
    ax.clabel(lines, fmt={level: tick_text(level) for level in levels}, fontsize=7.5, inline_spacing=4, zorder=4.5)
    for label in lines.labelTexts:
        label.set_bbox(
            {"facecolor": palette["paper"], "edgecolor": "none", "alpha": 0.75, "boxstyle": "square,pad=0.1"}
        )


def _levels(z: np.ndarray) -> list[float]:
    """Up to `MOST_LEVELS` short numbers that divide the picture into parts of about equal area."""
    values = z[np.isfinite(z)]
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if not low < high:
        return []
    wanted = np.quantile(values, np.linspace(0.04, 0.96, MOST_LEVELS))
    levels: list[float] = []
    for digits in range(2, 8):
        rounded = {float(f"{value:.{digits - 1}e}") for value in wanted}
        levels = sorted(value for value in rounded if low < value < high)
        if len(levels) >= MOST_LEVELS - 2:
            break
    return levels


def _key(palette: Palette, scene: Scene) -> list[Artist]:
    handles: list[Artist] = []
    for label in scene.names:
        kinds = {layer.kind for layer in scene.layers if layer.label == label}
        look = scene.looks.of[label]
        if label.strip():
            marker = look.marker if "points" in kinds else "none"
            dash: Any = look.dash if "line" in kinds else "none"
            handles.append(Line2D([], [], color=look.colour(palette), linestyle=dash, marker=marker, markersize=4.8))
    if len(scene.looks.heads) > len(scene.names):
        handles.append(Line2D([], [], linestyle="none"))
    handles += [Line2D([], [], color=look.colour(palette), linestyle=look.dash) for _, look in scene.looks.companions]
    if scene.contour is not None:
        handles.append(Line2D([], [], color=palette.scale(1, 3), linewidth=1.1))
    for handle, text in zip(handles, scene.key, strict=True):
        handle.set_label(text)
    return handles
