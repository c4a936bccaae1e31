"""Pictures as plain data: laws say what to draw, `harness.report` draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Layer:
    """Points, or a line, of one label. x, y: (m,); low, high: (m,), error bars of points or the band of a line."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    kind: Literal["points", "line"] = "points"


@dataclass(frozen=True)
class Contour:
    """Level lines of z (rows y, columns x) with logarithmic axes; x (m,), y (k,), z (k, m)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    label: str


@dataclass(frozen=True)
class Plot:
    """One picture. name: of its file. caption: a sentence below it. alt: what one who cannot see it must know."""

    name: str
    title: str
    x_label: str
    y_label: str
    layers: tuple[Layer, ...]
    contour: Contour | None = None
    log_x: bool = True
    log_y: bool = True
    caption: str = ""
    alt: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A table as coloured cells: values (R, C), written in them; inf is shown as ∞, NaN as an empty cell.

    rows, columns: names. span: values from the palest to the fullest colour, in logarithms. faint: (R, C) cells whose
    number is in parentheses. name, title, caption, alt: as of a Plot.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    span: tuple[float, float]
    faint: np.ndarray
    caption: str = ""
    alt: str = ""
