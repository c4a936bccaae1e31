"""From a study's base and sweep to its trials."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from harness.config import COMPONENTS, StudyConfig, compose_config, trial_from, with_values
from harness.overrides import quoted
from harness.registry import nearest
from harness.trial import Trial
from workloads.base import BadInput

Point = dict[str, Any]
PointKey = tuple[Any, ...]

_AXES = {"log2", "range"}
_SEEDS = {"seed", "data_seed"}


def values_of(key: str, axis: Any) -> list[Any]:
    """The values of one sweep axis: a list, {log2: [low, high]} or {log2: [low, high, step]}, {range: [first, last]}.

    log2 is in octaves: {log2: [-9, -4]} is 2^-9, 2^-8 ... 2^-4.
    """
    match axis:
        case list() if axis:
            return axis
        case {"log2": [low, high, *rest], **others} if len(rest) <= 1 and not others:
            step = float(rest[0]) if rest else 1.0
            if step <= 0 or high < low:
                raise BadInput(
                    f"sweep.{key}: log2 needs [low, high] or [low, high, step] with low <= high and step > 0"
                )
            return [2.0 ** (low + i * step) for i in range(int((high - low) / step + 1e-9) + 1)]
        case {"range": [int(first), int(last)], **others} if first <= last and not others:
            return list(range(first, last + 1))
        case int() | float() | str() | bool():
            return [axis]
    raise BadInput(
        f"sweep.{key}={axis} is not an axis; write a list, {{log2: [low, high]}} or {{range: [first, last]}}, one of them"
    )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Point:
    """{"budget": {"tokens": 1e5}} -> {"budget.tokens": 1e5}; dotted keys stay, axes such as {"log2": ...} too.

    Later entries win, so that a nested one from the command line replaces a dotted one of the study's file.
    """
    flat: Point = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and not _AXES & value.keys():
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def points_of(sweep: Mapping[str, Any], also: Sequence[Mapping[str, Any]] = ()) -> list[Point]:
    """The product of all axes, the last one varying fastest; then, for each of `also`, the product with its axes replaced.

    Every point once. Raises BadInput if `also` names an axis that is not swept.
    """
    axes = flatten(sweep)
    points: list[Point] = []
    for replaced in ({}, *map(flatten, also)):
        for key in replaced:
            if key not in axes:
                raise BadInput(f"study.also names {key}, which is not an axis of the sweep. {nearest(key, axes)}")
        values = {key: values_of(key, axis) for key, axis in (axes | replaced).items()}
        combinations = itertools.product(*values.values())
        points += [dict(zip(values, combination, strict=True)) for combination in combinations]
    first: dict[PointKey, Point] = {}
    for point in points:
        first.setdefault(_key(point), point)
    return list(first.values())


def by_point(points: Sequence[Point], trials: Sequence[Trial]) -> dict[PointKey, Trial]:
    """The trials of these points, for `trials_of` to find."""
    return dict(zip(map(_key, points), trials, strict=True))


def trials_of(
    study: StudyConfig, points: Sequence[Point], known: Mapping[PointKey, Trial] | None = None
) -> list[Trial]:
    """One validated trial for every point; those `known` already are not made again.

    Groups (workload, optimizer, ...) are composed once per combination. Points that differ in their seeds only share all the
    rest, and a trial whose seeds and whose rest were each validated in other trials is not validated again: no rule looks at
    a seed and at something else.
    """
    base = flatten(study.base)
    composed: dict[PointKey, Trial] = {}
    without_seeds: dict[PointKey, Trial] = {}
    valid: set[PointKey] = set()
    trials = []
    for point in points:
        found = known.get(_key(point)) if known else None
        if found is not None:
            trials.append(found)
            continue
        seeds = {key: value for key, value in point.items() if key in _SEEDS}
        rest = {key: value for key, value in point.items() if key not in _SEEDS}
        key = _key(rest)
        if key not in without_seeds:
            groups = {name: value for name, value in (base | rest).items() if name in COMPONENTS}
            start = _composed(composed, groups, base)
            without_seeds[key] = with_values(start, {name: v for name, v in rest.items() if name not in COMPONENTS})
        trial = with_values(without_seeds[key], seeds)
        parts = {("seeds", *_key(seeds)), ("rest", *key)}
        if not parts <= valid:
            trial.validate()
            valid |= parts
        trials.append(trial)
    return trials


def _composed(done: dict[PointKey, Trial], groups: Point, base: Point) -> Trial:
    """The base's trial with these groups; kept in `done`."""
    key = _key(groups)
    if key not in done:
        values = {name: value for name, value in base.items() if name not in COMPONENTS}
        overrides = [f"{name}={_text(value)}" for name, value in (groups | values).items()]
        done[key] = trial_from(compose_config("train", overrides))
    return done[key]


def _key(point: Point) -> PointKey:
    """Equal for equal points with their axes in one order; lists and the like by how they are written."""
    return tuple((key, value if isinstance(value, Hashable) else repr(value)) for key, value in point.items())


def _text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, str) and not value.isidentifier():
        return quoted(value)
    return str(value)
