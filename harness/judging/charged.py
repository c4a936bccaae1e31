"""What a loss costs when tuning is paid for, too.

k runs with points drawn at random take k times a run's tokens, and with probability one half the best of them reaches the loss
`typical_best(losses, k)` (the median of the best-of-k of Dodge et al. 2019, "Show your work", which runs that diverge leave
finite). A method that tunes itself pays for one run, in which its search is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.judging.contest import Tuned
from harness.transfer.plain import plain
from harness.tuning import Points


def typical_best(values: Sequence[float], k: int) -> float:
    """The loss that the best of k of these points, drawn without replacement, reaches with probability one half or more."""
    ordered, n = sorted(values), len(values)
    total = math.comb(n, k)
    return next(v for i, v in enumerate(ordered, 1) if 2 * math.comb(n - i, k) <= total)


@dataclass(frozen=True)
class Charged:
    """One method on one workload, at its largest width. tokens: paid for, ascending (n,); losses: reached for them, falling."""

    workload: str
    method: str
    tokens: np.ndarray
    losses: np.ndarray

    def loss(self, tokens: float) -> float:
        """The loss that these tokens pay for, on straight lines over their logarithm; NaN if for none."""
        if not self.tokens.size or tokens < self.tokens[0] * (1 - 1e-9):
            return math.nan
        return float(np.interp(math.log(tokens), np.log(self.tokens), self.losses))

    def price(self, loss: float) -> float:
        """The fewest tokens that pay for a loss; infinite if none tried do, NaN of a NaN."""
        if math.isnan(loss):
            return math.nan
        if not self.tokens.size or loss < self.losses[-1]:
            return math.inf
        return math.exp(float(np.interp(-loss, -self.losses, np.log(self.tokens))))

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain(vars(self))
        return result


def charged(tuned: Sequence[Tuned]) -> list[Charged]:
    """Of every method on every workload at its largest width: what any number of runs of any horizon pays for."""
    found = []
    for workload in dict.fromkeys(one.setting.workload.name for one in tuned):
        mine = [one for one in tuned if one.setting.workload.name == workload]
        largest = max(one.setting.workload.width for one in mine)
        for method in dict.fromkeys(one.method.name for one in mine):
            bought = [
                (float(k * one.tokens), typical_best([loss for _, loss in one.points], k))
                for one in mine
                if one.method.name == method and one.setting.workload.width == largest
                for k in range(1, _most(one) + 1)
            ]
            found.append(_frontier(workload, method, bought))
    return found


def _most(one: Tuned) -> int:
    """Runs that a method may buy: as many as it has points; those that it lists do not become more by studies."""
    return len(one.method.space.listed) if isinstance(one.method.space, Points) else len(one.points)


def _frontier(workload: str, method: str, bought: Sequence[tuple[float, float]]) -> Charged:
    """The purchases that no cheaper one matches."""
    tokens, losses = [], []
    least = math.inf
    for paid, loss in sorted(bought):
        if loss < least:
            tokens.append(paid)
            losses.append(loss)
            least = loss
    return Charged(workload, method, np.array(tokens), np.array(losses))
