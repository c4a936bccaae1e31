"""AlgoPerf's tuning_search_space.json: intervals, sets of values, or a list of points."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import qmc

from harness.algoperf.records import check_name
from harness.records.files import read_json
from harness.tuning import Axis
from workloads.base import BadInput

FILE = "tuning_search_space.json"
_EXAMPLE = '{"learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"}}'
Values = tuple[Any, ...]  # JSON scalars


def read_points(path: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` points: scrambled Halton in the intervals and sets, or the first of a list. Raises BadInput on other files.

    Values are JSON's scalars as they were written: whole numbers, switches, words and null stay such, as in AlgoPerf.
    """
    content = read_json(path)
    if isinstance(content, list):
        if count > len(content):
            raise BadInput(
                f"{path} lists {len(content)} points where {count} are to be tried; list more, or set trials="
            )
        return [_point(entry, path) for entry in content[:count]]
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path} is no search space; write {_EXAMPLE} or a list of points")
    axes: dict[str, Axis | Values] = {}
    for name, entry in content.items():
        with _about(path, name):
            axes[name] = _axis(name, entry)
    shares = qmc.Halton(len(axes), scramble=True, rng=np.random.default_rng(seed)).random(count)
    return [{name: _at(axis, share) for (name, axis), share in zip(axes.items(), row, strict=True)} for row in shares]


@contextmanager
def _about(path: Path, name: str) -> Iterator[None]:
    """Errors begin with what they are about."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{path}: {name}: {error}") from None


def _point(entry: Any, path: Path) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise BadInput(f"{path} lists {json.dumps(entry)}, which is no point; write {{name: value}}")
    for name, value in entry.items():
        with _about(path, name):
            check_name(name)
            _scalar(value)
    return entry


def _axis(name: str, entry: Any) -> Axis | Values:
    check_name(name)
    match entry:
        case {"feasible_points": [*values]} if values:
            return tuple(_scalar(value) for value in values)
        case {"min": low, "max": high, **rest}:
            scaling = rest.get("scaling", "linear")
            if scaling not in ("linear", "log"):
                raise BadInput(f"scaling '{scaling}' must be linear or log")
            low, high = _number(low), _number(high)
            return (low,) if low == high else Axis(low, high, scaling)
    raise BadInput(f"it needs min and max, or feasible_points; e.g. {_EXAMPLE}")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"{json.dumps(value)} is no finite number")
    return float(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, dict | list) or (isinstance(value, float) and not math.isfinite(value)):
        raise BadInput(f"{json.dumps(value)} is no finite number, word, true, false or null")
    return value


def _at(axis: Axis | Values, share: float) -> Any:
    if isinstance(axis, Axis):
        return float(axis.at(share))
    return axis[min(int(share * len(axis)), len(axis) - 1)]
