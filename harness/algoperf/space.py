"""AlgoPerf's tuning_search_space.json: intervals, sets of values, or a list of points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from harness.records.files import read_json
from harness.tuning import Axis
from workloads.base import BadInput

FILE = "tuning_search_space.json"
_EXAMPLE = '{"learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"}}'
Axes = Mapping[str, Axis | tuple[float, ...]]


def read_points(path: Path, count: int, seed: int) -> list[dict[str, float]]:
    """`count` points: scrambled Halton in the intervals and sets, or the first of a list. Raises BadInput on other files."""
    content = read_json(path)
    if isinstance(content, list):
        if count > len(content):
            raise BadInput(
                f"{path} lists {len(content)} points where {count} are to be tried; list more, or set trials="
            )
        return [_point(entry, path) for entry in content[:count]]
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path} is no search space; write {_EXAMPLE} or a list of points")
    axes: Axes = {name: _axis(name, entry, path) for name, entry in content.items()}
    shares = qmc.Halton(len(axes), scramble=True, rng=np.random.default_rng(seed)).random(count)
    return [{name: _at(axis, share) for (name, axis), share in zip(axes.items(), row, strict=True)} for row in shares]


def _point(entry: Any, path: Path) -> dict[str, float]:
    if not isinstance(entry, dict):
        raise BadInput(f"{path} lists {json.dumps(entry)}, which is no point; write {{name: number}}")
    return {name: _number(name, value, path) for name, value in entry.items()}


def _axis(name: str, entry: Any, path: Path) -> Axis | tuple[float, ...]:
    match entry:
        case {"feasible_points": [*values]} if values:
            return tuple(_number(name, value, path) for value in values)
        case {"min": low, "max": high, **rest}:
            scaling = rest.get("scaling", "linear")
            if scaling not in ("linear", "log"):
                raise BadInput(f"{path}: scaling '{scaling}' of {name} must be linear or log")
            return Axis(float(_number(name, low, path)), float(_number(name, high, path)), scaling)
    raise BadInput(f"{path}: {name} needs min and max, or feasible_points; e.g. {_EXAMPLE}")


def _number(name: str, value: Any, path: Path) -> float:
    """As it was written: whole numbers and switches stay such, as in AlgoPerf."""
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise BadInput(f"{path}: {name} holds {json.dumps(value)}, which is no finite number")
    return value


def _at(axis: Axis | tuple[float, ...], share: float) -> float:
    if isinstance(axis, Axis):
        return float(axis.at(share))
    return axis[min(int(share * len(axis)), len(axis) - 1)]
