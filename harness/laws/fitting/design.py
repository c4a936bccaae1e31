"""Which points a comparison of laws fits and holds out.

Backtests mimic the question. To forecast `reach` times the largest size, each backtest fits the sizes up to a cut and is
judged on all sizes up to `reach` times the cut; the last such cut is the outer backtest, and the inner ones use only the
points that the outer one fits. Tables too short for that are cut closer together, and the design says how far it reaches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.laws.fitting.backtest import MOST_FOLDS, Fold, leave_one_out
from workloads.base import BadInput

LEAST_SIZES = 3  # sizes under a cut: two make a line through any noise, unless there are several points of each
LEAST_FOLDS = 3  # inner backtests wanted at the full reach before the cuts move closer together


class Design(NamedTuple):
    """outer: the backtest reported. inner: those that choose, smallest first, with weights (K,), the last one's 1. reach: the
    mean ratio of the largest size predicted to the largest fitted, over all backtests.
    """

    outer: Fold
    inner: list[Fold]
    weight: np.ndarray
    reach: float

    @property
    def folds(self) -> list[Fold]:
        return [self.outer, *self.inner]

    def fits(self, n: int) -> list[np.ndarray]:
        """Masks of the points of every fit: all, the outer backtest's, the inner ones'."""
        return [np.ones(n, bool), *(fold.train for fold in self.folds)]


def size_design(size: np.ndarray, reach: float) -> Design:
    """Backtests along `size` (n,) that predict up to `reach` times the sizes they fit; the reach shrinks, by square roots,
    until LEAST_FOLDS inner ones exist, at the least to the next size; one is then enough.

    The weight of an inner backtest halves with every held-out span (in log size) by which it lies before the last:
    the forecast asked for continues the curve where the last ones end, not where it began.
    """
    sizes = np.unique(size)
    least = LEAST_SIZES if size.size < 2 * sizes.size else LEAST_SIZES - 1
    span = float(np.log(reach))
    while True:
        cuts = _cuts(sizes, span, least)
        inner = _cuts(sizes[sizes <= cuts[-1][0]], span, least) if cuts else []
        if len(inner) >= LEAST_FOLDS or span == 0.0:
            break
        span = span / 2 if span > np.log(sizes[1:] / sizes[:-1]).min() else 0.0
    if not inner:
        raise BadInput(
            f"{sizes.size} distinct sizes are too few to choose a law by backtests: {least + 2} are needed; "
            "fit one law (law=power_law) and read its own backtest"
        )
    inner = _thinned(inner)
    width = np.log([end / cut for cut, end in inner]).mean()
    weight = 0.5 ** (np.log(inner[-1][0] / np.array([cut for cut, _ in inner])) / width)
    folds = [_fold(size, cuts[-1][0], sizes[-1]), *(_fold(size, *pair) for pair in inner)]
    far = np.mean([np.log(fold.name["predicted_to"] / fold.name["fitted_to"]) for fold in folds])
    return Design(folds[0], folds[1:], weight, float(np.exp(far)))


def curve_design(curve: np.ndarray, step: np.ndarray) -> Design:
    """Inner: each curve predicted from the others, equal weights; outer: the longest curve, predicted from all others."""
    names = np.unique(curve)
    lengths = [np.max(step[curve == name]) for name in names]
    last = names[len(lengths) - 1 - int(np.argmax(lengths[::-1]))]
    rest = curve != last
    inner = [Fold(f.name, f.train & rest, f.test) for f in leave_one_out(curve) if f.name["left_out"] != str(last)]
    if len(inner) < 3:
        raise BadInput(f"{names.size} curves are too few to choose a law by leaving curves out: 4 are needed")
    return Design(Fold({"left_out": str(last)}, rest, ~rest), inner, np.ones(len(inner)), 1.0)


def _cuts(sizes: np.ndarray, span: float, least: int) -> list[tuple[float, float]]:
    """(largest size fitted, largest size predicted) of every backtest of the sorted `sizes` with `least` under the cut."""
    cuts, ends = sizes[least - 1 : -1], sizes[least:]
    pairs = [(float(cut), float(max(cut * np.exp(span), end))) for cut, end in zip(cuts, ends, strict=True)]
    return [(cut, end) for cut, end in pairs if end <= sizes[-1] * (1 + 1e-9)]


def _thinned(cuts: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST_FOLDS of the cuts, spread evenly in log size, the last among them."""
    if len(cuts) <= MOST_FOLDS:
        return cuts
    at = np.log([cut for cut, _ in cuts])
    wanted = np.linspace(at[0], at[-1], MOST_FOLDS)
    return [cuts[i] for i in np.unique(np.abs(at - wanted[:, None]).argmin(1))]


def _fold(size: np.ndarray, cut: float, end: float) -> Fold:
    train, test = size <= cut, (size > cut) & (size <= end * (1 + 1e-9))
    name = {"sizes_fitted": int(np.unique(size[train]).size), "fitted_to": cut, "predicted_to": float(size[test].max())}
    return Fold(name, train, test)
