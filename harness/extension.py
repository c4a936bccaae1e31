"""What an undecided learning-rate transfer asks to be run next, as points of the study's sweep.

An optimum at the grid's edge gets learning rates beyond it, a grid too coarse rates between its own, an interval too wide
more seeds. Rates that were tried at one scale are left at that scale; seeds are added at every scale, because scales are
compared on the same seeds, at the rates within two octaves of the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.analysis import LEARNING_RATE, label
from harness.sweep import Point
from harness.transfer import Transfer
from harness.transfer.basin import OCTAVES

ROUNDS = 3  # extensions of a study at most: each is another look at the same question
_BEYOND = 2  # learning rates that are added at an edge
_MOST = 4.0  # times the seeds, in one round


def extension(points: Sequence[Point], found: Mapping[str, Transfer], axis: str) -> list[Point]:
    """The points that would help the undecided series to a verdict; none where nothing practical would."""
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(label(point, axis), []).append(point)
    wanted = [
        point
        for name, transfer in found.items()
        if transfer.verdict == "undecided"
        for point in _of_series(series[name], transfer, axis)
    ]
    known = [*points]
    return [point for i, point in enumerate(wanted) if point not in known and point not in wanted[:i]]


def _of_series(points: Sequence[Point], transfer: Transfer, axis: str) -> Iterator[Point]:
    for scale, remedy in transfer.remedies.items():
        mine = [point for point in points if float(point[axis]) == scale]
        if remedy == "seeds":
            yield from _more_seeds(mine, 2.0)
            continue
        rates = np.log2(sorted({float(point[LEARNING_RATE]) for point in mine}))
        step = float(np.min(np.diff(rates))) if rates.size > 1 else 1.0
        added = {
            "lower": rates[0] - step * np.arange(1, _BEYOND + 1),
            "higher": rates[-1] + step * np.arange(1, _BEYOND + 1),
            "finer": (rates[1:] + rates[:-1]) / 2,
        }[remedy]
        for seed_point in _one_a_seed(mine):
            yield from ({**seed_point, LEARNING_RATE: float(2.0**rate)} for rate in added)
    if np.isfinite(transfer.seeds_factor):
        near = [point for point in points if _near(point, transfer, axis)]
        yield from _more_seeds(near, min(transfer.seeds_factor, _MOST))


def _near(point: Point, transfer: Transfer, axis: str) -> bool:
    """Whether the learning rate is within two octaves of its scale's best; True where the scale has none."""
    best = transfer.best_lr[np.flatnonzero(transfer.scales == float(point[axis]))[0]]
    return not np.isfinite(best) or abs(np.log2(point[LEARNING_RATE] / best)) <= OCTAVES + 1e-6


def _one_a_seed(points: Sequence[Point]) -> list[Point]:
    return list({point.get("seed", 0): point for point in points}.values())


def _more_seeds(points: Sequence[Point], times: float) -> Iterator[Point]:
    """The points again on fresh seeds, so that there are `times` as many."""
    seeds = sorted({int(point.get("seed", 0)) for point in points})
    fresh = range(seeds[-1] + 1, seeds[-1] + 1 + int(np.ceil((times - 1.0) * len(seeds)))) if seeds else range(0)
    for point in points:
        if point.get("seed", 0) == seeds[0]:
            yield from ({**point, "seed": seed} for seed in fresh)
