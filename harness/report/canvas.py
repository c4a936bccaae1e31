"""From a drawing function to an inline SVG that follows the page's colour scheme, and a PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness.records.files import atomic_path
from harness.report.palette import LIGHT, SENTINELS, SYMBOLIC, Palette

Draw = Callable[[Figure, Palette], None]
SIZE = (5.2, 3.7)  # inches; text of 8.5 points is readable from 400 to 1280 pixels of page width
PNG_DPI = 200

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Picture:
    """One figure of the page. name: of its PNG. alt: what a reader who cannot see it must know. caption: below it."""

    name: str
    title: str
    alt: str
    caption: str
    draw: Draw
    size: tuple[float, float] = SIZE

    @property
    def wide(self) -> bool:
        """Whether it takes the page's whole width: its text would be too small beside another."""
        return self.size[0] > 6

    def svg(self) -> Markup:
        """The picture as an SVG element; every colour is a custom property of the page."""
        stream = io.StringIO()
        with _style(self.name):
            figure = self._figure(SYMBOLIC)
            FigureCanvasSVG(figure).print_svg(stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return _inline(stream.getvalue(), self.name, self.alt)

    def write_png(self, folder: Path) -> Path:
        """The picture in light colours; returns its path."""
        path = folder / f"{self.name}.png"
        with _style(self.name):
            figure = self._figure(LIGHT)
            figure.set_facecolor(LIGHT["paper"])
            with atomic_path(path) as temporary:
                FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
        return path

    def _figure(self, palette: Palette) -> Figure:
        figure = Figure(figsize=self.size, dpi=PNG_DPI, layout="constrained")
        figure.set_facecolor("none")
        self.draw(figure, palette)
        return figure


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """Text as text, no mathtext (labels may hold "$"), ids that differ between pictures, rare scripts allowed."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


_VARIABLES = {colour: f"var(--{name})" for name, colour in SENTINELS.items()}


def _inline(document: str, name: str, alt: str) -> Markup:
    """A matplotlib SVG document as an element of an HTML page: no prologue, no size, no ids but those referred to."""
    body = document[document.index("<svg") :]
    size = re.search(r'viewBox="([-0-9. ]+)"', body)
    inside = body[body.index(">") + 1 : body.rindex("</svg>")]
    inside = re.sub(r"<style[^>]*>.*?</style>", "", inside, count=1, flags=re.DOTALL)
    inside = re.sub(r'<g id="[^"]*">', "<g>", inside)
    inside = re.sub(r"font-family: [^;\"]*;", "", inside)
    inside = re.sub(r"#a7[0-9a-f]{2}5d", lambda found: _VARIABLES.get(found[0], found[0]), inside)
    inside = re.sub(r"\s*\n\s*", "\n", inside)
    opening = Markup('<svg viewBox="{}" role="img" aria-label="{}" data-figure="{}">').format(
        size[1] if size else "", alt, name
    )
    return opening + Markup(inside) + Markup("</svg>")


def axes(figure: Figure, palette: Palette, *position: int) -> Axes:
    """Quiet axes: no box, grid behind, all in the palette's ink."""
    ax = figure.add_subplot(*position)
    dress(ax, palette)
    return ax


def dress(ax: Axes, palette: Palette) -> None:
    ax.set_facecolor("none")
    ax.set_axisbelow(True)
    ax.grid(True, color=palette["grid"], linewidth=0.7)
    ax.tick_params(which="both", colors=palette["faint"], labelcolor=palette["muted"], length=3)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette["faint"])
    ax.xaxis.label.set_color(palette["ink"])
    ax.yaxis.label.set_color(palette["ink"])
    ax.title.set_color(palette["ink"])


def legend(ax: Axes, palette: Palette, handles: list[Artist], columns: int = 4) -> None:
    """A one-line key above the axes."""
    key = ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        frameon=False,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.2,
        borderaxespad=0.1,
    )
    for text in key.get_texts():
        text.set_color(palette["muted"])


def spread(positions: np.ndarray, gap: float) -> np.ndarray:
    """(n,) label positions moved as little as needed to be `gap` apart, order kept (pool adjacent violators)."""
    order = np.argsort(positions, kind="stable")
    blocks: list[tuple[float, int]] = []  # mean of position - rank * gap, and how many
    for rank, position in enumerate(positions[order]):
        blocks.append((float(position) - rank * gap, 1))
        while len(blocks) > 1 and blocks[-1][0] < blocks[-2][0]:
            (a, m), (b, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * m + b * n) / (m + n), m + n))
    values = np.concatenate([np.full(count, mean) for mean, count in blocks]) if blocks else np.empty(0)
    placed = np.empty(positions.size)
    placed[order] = values + gap * np.arange(positions.size)
    return placed
