"""When a curve of evaluations first meets its target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workloads.base import BadInput

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Hit:
    """The first evaluation that met a target. index: counted from 0, -1 = never. time: of that evaluation, inf = never."""

    index: int
    time: float

    @property
    def met(self) -> bool:
        return self.index >= 0


NEVER = Hit(-1, math.inf)


def first_hit(
    values: Sequence[float] | np.ndarray, times: Sequence[float] | np.ndarray, target: float, direction: Direction
) -> Hit:
    """The first evaluation at least as good as the target; NaN meets nothing.

    values, times: (n,) of one trial, in the order in which it was evaluated. direction: whether small values of the metric
    are good. Raises BadInput on unequal lengths, a target that is no number, and other directions.
    """
    curve, clock = np.asarray(values, np.float64), np.asarray(times, np.float64)
    if curve.shape != clock.shape or curve.ndim != 1:
        raise BadInput(f"values {curve.shape} and times {clock.shape} must have one entry an evaluation")
    if math.isnan(target):
        raise BadInput("the target is not a number; nothing could meet it")
    if direction not in ("minimize", "maximize"):
        raise BadInput(f"direction '{direction}' is neither minimize nor maximize")
    met = curve <= target if direction == "minimize" else curve >= target
    if not met.any():
        return NEVER
    index = int(met.argmax())
    return Hit(index, float(clock[index]))
