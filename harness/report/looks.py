"""Which colour, marker and dash each label of a plot has: the same for what belongs together, different for the rest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report.palette import MARKERS, SERIES, Palette

if TYPE_CHECKING:  # harness.laws imports jax, which drawing does not need
    from harness.laws.plots import Layer

_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1.2, 1.6)), (0, (5, 1.5, 1.2, 1.5)))
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_UNLIKE_SCALE = (0, 2, 5, 4, 3, 1)  # series in the order of how unlike the scale's colours they are
FEWEST_STEPS = 4


@dataclass(frozen=True)
class Look:
    """index: tells markers and colours apart. steps: of a scale of colours, 0 without one. plain: ink, no colour."""

    index: int = 0
    steps: int = 0
    beside_scale: bool = False
    plain: bool = False
    dash: Any = "-"

    def colour(self, palette: Palette) -> str:
        if self.plain:
            return palette["muted"]
        if self.steps:
            return palette.scale(self.index, self.steps)
        return palette.series(_UNLIKE_SCALE[self.index % len(SERIES)] if self.beside_scale else self.index)

    @property
    def marker(self) -> str:
        return MARKERS[(self.index + self.index // len(SERIES)) % len(MARKERS)]


@dataclass(frozen=True)
class Looks:
    """of: label -> look. heads: labels with an entry in the key. companions: (text, look) of the lines of many heads."""

    of: Mapping[str, Look]
    heads: tuple[str, ...]
    companions: tuple[tuple[str, Look], ...]


def looks(layers: Sequence[Layer], levels: bool) -> Looks:
    """Looks of a plot's labels; `levels`: it has level lines.

    A line "A, fit" beside points "A" has their colour, and a dash that all lines "…, fit" share. Straight lines of two
    vertices without a band are for reference, in ink. Four or more labels that differ in a number take their colours
    from a scale, in its order.
    """
    mine: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        mine[layer.label].append(layer)
    companions = {label: label.rpartition(", ")[2] for label in mine if _is_companion(label, mine)}
    suffixes = list(dict.fromkeys(companions.values()))
    heads = [label for label in mine if label not in companions]
    references = [label for label in heads if all(_is_reference(layer) for layer in mine[label])]
    steps = {} if levels else _steps([label for label in heads if label not in references])
    found = {label: Look(place, len(steps)) for label, place in steps.items()}
    found |= {label: Look(plain=True, dash=_DASHES[1 + i % 3]) for i, label in enumerate(references)}
    for i, label in enumerate(label for label in heads if label not in found):
        found[label] = Look(i, beside_scale=levels or bool(steps), dash=_DASHES[i // len(SERIES) % len(_DASHES)])
    dashes = {suffix: _DASHES[i % len(_DASHES)] for i, suffix in enumerate(suffixes)}
    for label, suffix in companions.items():
        head = found[label.rpartition(", ")[0]]
        found[label] = Look(head.index, head.steps, head.beside_scale, dash=dashes[suffix])
    shown = tuple((suffix, Look(plain=True, dash=dash)) for suffix, dash in dashes.items())
    return Looks(found, tuple(heads), shown)


def _is_companion(label: str, mine: Mapping[str, list[Layer]]) -> bool:
    head = label.rpartition(", ")[0]
    return (
        head in mine
        and any(layer.kind == "points" for layer in mine[head])
        and all(layer.kind == "line" for layer in mine[label])
    )


def _is_reference(layer: Layer) -> bool:
    return layer.kind == "line" and layer.x.size == 2 and layer.low is None


def _steps(labels: Sequence[str]) -> dict[str, int]:
    """The largest group of labels that differ in their first number only: label -> place in the order of the numbers."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for label in labels:
        text = label.replace(",", "")
        if number := _NUMBER.search(text):
            groups[f"{text[: number.start()]}#{text[number.end() :]}"][label] = float(number[0])
    largest = max(groups.values(), key=len, default={})
    if len(largest) < FEWEST_STEPS or len(set(largest.values())) < len(largest):
        return {}
    return {label: place for place, label in enumerate(sorted(largest, key=largest.__getitem__))}
