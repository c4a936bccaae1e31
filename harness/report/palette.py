"""Colours: one name, a light and a dark value.  Colour-blind safe: after Okabe and Ito (2008); plasma for scales."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

SERIES = {  # light, dark; told apart by marker as well
    "series-0": ("#0a6bb0", "#5cb8f0"),
    "series-1": ("#c9520a", "#f59a5c"),
    "series-2": ("#00795a", "#3ccb9f"),
    "series-3": ("#a2458a", "#e29cc9"),
    "series-4": ("#8a6a00", "#e6c34d"),
    "series-5": ("#4a4fb0", "#a6a9f5"),
}
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = {
    "ink": ("#1b2430", "#e8ecf1"),
    "muted": ("#5b6673", "#a3adb9"),
    "faint": ("#c3cad3", "#414b57"),
    "grid": ("#e4e8ed", "#2a323c"),
    "paper": ("#ffffff", "#161b22"),
    "page": ("#f6f7f9", "#0e1217"),
    "line": ("#d9dee5", "#2c3540"),
    "good": ("#00705a", "#43cfa5"),
    "bad": ("#b3361f", "#ff8f73"),
    "unsure": ("#7a5c00", "#e5bf55"),
    "accent": ("#0a5ea8", "#6cbcf5"),
}
_RAMP = {"light": (0.63, 0.02), "dark": (0.42, 0.97)}  # parts of plasma with 3:1 contrast to the paper
RAMP_STEPS = 16


def _ramp() -> dict[str, tuple[str, str]]:
    steps = [colormaps["plasma"](np.linspace(*_RAMP[scheme], RAMP_STEPS)) for scheme in ("light", "dark")]
    return {f"scale-{i}": (to_hex(light), to_hex(dark)) for i, (light, dark) in enumerate(zip(*steps, strict=True))}


COLOURS: dict[str, tuple[str, str]] = {**INK, **SERIES, **_ramp()}


def css(scheme: int) -> str:
    """Custom properties of the light (0) or dark (1) scheme."""
    return " ".join(f"--{name}: {values[scheme]};" for name, values in COLOURS.items())


@dataclass(frozen=True)
class Palette:
    """What a picture draws with. `ink` and friends by name, `series(i)`, `scale(i, n)` (small to large)."""

    values: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def series(self, index: int) -> str:
        return self.values[f"series-{index % len(SERIES)}"]

    def scale(self, index: int, count: int) -> str:
        return self.values[f"scale-{round(index * (RAMP_STEPS - 1) / max(count - 1, 1))}"]


# Each name has an impossible-to-meet colour of its own, which becomes a CSS variable in the SVG.
SENTINELS = {name: f"#a7{index:02x}5d" for index, name in enumerate(COLOURS)}
SYMBOLIC = Palette(SENTINELS)
LIGHT = Palette({name: values[0] for name, values in COLOURS.items()})
