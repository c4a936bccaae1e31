"""Splitting frozen dataclasses into a static part (shapes the program) and traced numbers (do not).

The convention (see workloads.base): fields annotated `float` or `float | None` with a number in them are traced,
everything else is static.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

C = TypeVar("C")

_PLAIN = (str, int, float, type(None))


@functools.cache
def _float_fields(cls: type) -> tuple[str, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(f.name for f in dataclasses.fields(cls) if hints[f.name] in (float, float | None))


def traced(component: Any) -> dict[str, float]:
    """The traced numbers of a component: field name -> value."""
    values = {name: getattr(component, name) for name in _float_fields(type(component))}  # type: ignore[arg-type]
    return {name: float(value) for name, value in values.items() if value is not None}


def erase(component: C) -> C:
    """The component with every traced number replaced by 0: equal for trials that share a program."""
    return dataclasses.replace(component, **dict.fromkeys(traced(component), 0.0))  # type: ignore[type-var]


def bind(component: C, values: Mapping[str, Any]) -> C:
    """The component with its traced numbers replaced, e.g. by tracers."""
    return dataclasses.replace(component, **values)  # type: ignore[type-var]


@functools.cache
def _fields(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls))


def as_config(component: Any) -> dict[str, Any]:
    """Name and fields as a plain dict, the form that is recorded and hashed; numbers that are traced as floats."""
    values = {name: getattr(component, name) for name in _fields(type(component))}  # type: ignore[arg-type]
    if not all(isinstance(value, _PLAIN) for value in values.values()):
        values = dataclasses.asdict(component)  # copies what is inside, which takes ten times as long
    return {"name": type(component).name, **values, **traced(component)}
