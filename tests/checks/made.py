"""Studies that were never trained: members with made-up rows and curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np

from harness.analysis import Cell
from harness.checks import Member
from harness.config import with_values
from tests.trials import small_trial

STEPS = np.arange(1, 9) * 20.0


def members(
    axes: Mapping[str, Iterable[Any]],
    row: Callable[[dict[str, Any]], dict[str, Any]],
    curve: Callable[[dict[str, Any]], dict[str, np.ndarray]] = lambda point: {},
    **base: Any,
) -> list[Member]:
    """One for every combination of the axes. row(point) and curve(point): what is recorded beside the configuration."""
    made = []
    for values in product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        groups = {key: value for key, value in point.items() if "." in key or key == "seed"}
        trial = with_values(small_trial(budget__steps=160, **base), groups)
        facts = {**trial.config(), "status": "ok", "initial_loss": 5.0, **point, **row(point)}
        columns = {"step": STEPS, "eval_loss": np.ones(8), "lr": np.full(8, 0.01), **curve(point)}
        made.append(Member(Cell(point, facts), trial, columns))
    return made
