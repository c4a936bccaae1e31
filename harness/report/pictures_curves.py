"""Pictures of training: loss against tokens at each scale's best learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from harness.report.canvas import Picture, axes, legend, spread
from harness.report.palette import Palette
from harness.report.pictures_rates import thinned
from harness.report.pictures_scaling import magnitude, plain_log
from harness.report.text import key_name, quantity, short
from harness.report.text import loss as loss_text
from harness.report.trials import Scale, Series

FALL = 0.04  # of the run: the initial fall of the training loss may leave through the top of the picture

Curves = Mapping[str, Mapping[str, np.ndarray]]  # trial -> column -> (points,)


class Line(NamedTuple):
    """The mean curve of one scale: x (training tokens, or steps), training and validation loss, (points,) each."""

    scale: Scale
    x: np.ndarray
    train: np.ndarray
    evaluated: np.ndarray


def curves_picture(index: int, one: Series, curves: Curves, axis: str | None, unit: str) -> Picture | None:
    """Training and validation loss against tokens at each scale's best learning rate, means over seeds."""
    name = key_name(axis) if axis else "scale"
    scales = [*thinned(one.swept), *([one.predicted] if one.predicted else [])]
    members = {i: [curves[t] for t in s.trial[s.best()] if t in curves] for i, s in enumerate(scales)}
    along = "tokens" if any((m["tokens"] > 0).any() for ms in members.values() for m in ms) else "step"
    lines = [_line(scales[i], found, along) for i, found in members.items() if found]
    if not lines:
        return None
    finals = [f"{name} {quantity(line.scale.value)}: {loss_text(_last(line.evaluated))}" for line in lines]
    parts = [
        "At the learning rate of the grid with the lowest mean loss, means over seeds.",
        "Thin: training loss, averaged over neighbouring steps; points and thick lines: validation loss.",
        f"Star: the predicted {name}." if one.predicted else "",
    ]
    return Picture(
        name=f"training_curves_{index}",
        title=f"{one.name}: training curves",
        alt=f"Training and validation loss against {along} for {short(one.name)} at each {name}'s best learning rate. "
        f"Last validation losses: {'; '.join(finals)}.",
        caption=" ".join(part for part in parts if part),
        draw=lambda figure, palette: _draw_curves(figure, palette, lines, name, unit, along),
    )


def _line(scale: Scale, members: Sequence[Mapping[str, np.ndarray]], along: str) -> Line:
    """The mean over the curves that have the same steps as the longest."""
    step = max((member["step"] for member in members), key=len)
    same = [member for member in members if np.array_equal(member["step"], step)]
    train, evaluated = (np.mean([member[name] for member in same], axis=0) for name in ("train_loss", "eval_loss"))
    return Line(scale, same[0][along], train, evaluated)


def _last(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None


class End(NamedTuple):
    """Where a curve ends, and its label there."""

    x: float
    loss: float
    text: str
    colour: str


def _draw_curves(figure: Figure, palette: Palette, lines: Sequence[Line], name: str, unit: str, along: str) -> None:
    ax = axes(figure, palette)
    ends, losses = [], [np.empty(0)]
    for i, line in enumerate(lines):
        colour = palette.scale(i, len(lines))
        losses.append(_draw_line(ax, line, colour))
        last = _last(line.evaluated) or _last(line.train)
        if last is not None and last > 0:
            ends.append(End(float(line.x[-1]), last, quantity(line.scale.value), colour))
    ax.set_yscale("log")
    values = np.concatenate(losses)
    values = values[values > 0]
    if values.size:
        low, high = values.min(), max(values.max(), 1.01 * values.min())
        ax.set_ylim(low * (low / high) ** 0.08, high * (high / low) ** 0.04)
    right = max((end.x for end in ends), default=1.0)
    ax.set_xlim(0, right * 1.13)
    plain_log(ax)
    _label_ends(ax, palette, ends, right, name)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: magnitude(value)))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlabel("training tokens" if along == "tokens" else "training steps")
    ax.set_ylabel(f"loss{unit}")
    ink = palette["muted"]
    validation = Line2D([], [], color=ink, linewidth=1.8, marker="o", markersize=3.2, label="validation")
    legend(ax, palette, [validation, Line2D([], [], color=ink, linewidth=0.8, label="training")])


def _draw_line(ax: Axes, line: Line, colour: str) -> np.ndarray:
    """Draw one scale's curves; returns the losses that the axes must show: all after the initial fall."""
    centre, smooth = _smooth(line.x, line.train)
    ax.plot(centre, smooth, color=colour, linewidth=0.8, alpha=0.75)
    known = np.isfinite(line.evaluated)
    marker, size = ("-*", 7.0) if line.scale.predicted else ("-o", 3.2)
    ax.plot(line.x[known], line.evaluated[known], marker, color=colour, linewidth=1.8, markersize=size, zorder=4)
    settled = smooth[np.isfinite(smooth) & (centre > FALL * line.x[-1])]
    return np.concatenate([line.evaluated[known], settled])


def _label_ends(ax: Axes, palette: Palette, ends: Sequence[End], right: float, name: str) -> None:
    """The scale of every curve at its right end, and above them what the numbers are."""
    if not ends:
        return
    low, high = np.log(ax.get_ylim())
    heights = spread((np.log([end.loss for end in ends]) - low) / (high - low), 0.052)
    heights = heights + max(0.0, 0.02 - heights.min())
    for (x, y, text, colour), height in zip(ends, heights, strict=True):
        ax.annotate(
            text,
            (x, y),
            (right * 1.035, float(np.exp(low + height * (high - low)))),
            color=colour,
            va="center",
            fontsize=8,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3},
        )
    top = float(np.exp(low + min(heights.max() + 0.062, 0.98) * (high - low)))
    ax.text(right * 1.035, top, short(name, 12), va="center", fontsize=8, color=palette["muted"])


def _smooth(x: np.ndarray, y: np.ndarray, points: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Means over neighbouring points, at most `points` of them."""
    if not x.size:
        return x, y
    starts = np.unique(np.linspace(0, x.size, points + 1).astype(int)[:-1])
    counts = np.diff([*starts, x.size])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(np.asarray(y, np.float64), starts) / counts
