"""A user's own functional form, from a small file: the same solver, the same statistics.

    # my_law.py
    from harness.laws import Positive, Real

    def law(N, D, *, E: Positive, A: Positive, alpha: Real = 0.3, B: Positive, beta: Real = 0.3):
        return E + A * N**-alpha + B * D**-beta

Positional arguments are columns of the table, keyword-only arguments are parameters, a default is where fits start. The
function returns the loss; it is traced by JAX (use jax.numpy). A `Law` subclass works as well, with its own starts.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import math
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from harness.laws.base import LAWS, Array, Kind, Law
from harness.registry import nearest
from workloads.base import BadInput

STARTS = 256
_POSITIVE_SPAN = 12.0  # natural-log units to both sides of where a positive parameter starts
_REAL_SPAN = 2.0


def load_law(name: str, options: Mapping[str, Any]) -> Law:
    """The law of this name with its options, or `FILE.py:ATTRIBUTE`: a Law, its class, or a function as above.

    Raises BadInput on unknown names, options, files and attributes, and on a form that is no law.
    """
    if ".py" not in name:
        return with_options(LAWS[name], options)
    path, _, attribute = name.partition(":")
    found = _attribute(Path(path), attribute or "law")
    if isinstance(found, type) and issubclass(found, Law):
        found.name = getattr(found, "name", found.__name__)
        return with_options(found, options)
    if isinstance(found, Law):
        return found
    if callable(found):
        if options:
            raise BadInput(f"a function has no options, but options={dict(options)}; write a Law subclass for that")
        return from_function(found)
    raise BadInput(f"{name} is a {type(found).__name__}; give a function or a harness.laws.Law")


def with_options(cls: type[Any], options: Mapping[str, Any]) -> Any:
    """The dataclass with these fields, types checked. Raises BadInput naming the valid ones."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key, value in options.items():
        if key not in fields:
            there = nearest(key, fields) if fields else "It has no options."
            raise BadInput(f"'{cls.name}' has no option '{key}'. {there}")
        wanted = hints[key]
        if wanted in (int, float, bool, str) and not isinstance(value, (int, float) if wanted is float else wanted):
            raise BadInput(f"options.{key}={value} must be of type {wanted.__name__}")
    return cls(**options)


def _attribute(path: Path, attribute: str) -> Any:
    if not path.is_file():
        raise BadInput(f"there is no file {path}; law=NAME takes one of {', '.join(LAWS)}, or FILE.py:NAME")
    name = f"windtunnel_user_law.{path.stem}"  # whatever the file is called, it takes no other module's place
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise BadInput(f"{path} has no '{attribute}'. {nearest(attribute, public)}")
    return getattr(module, attribute)


def from_function(function: Any) -> Law:
    """A law from `function(column, ..., *, parameter: Positive | Real, ...) -> loss`.  Raises BadInput on other shapes."""
    signature = inspect.signature(function)
    kinds = inspect.get_annotations(function, eval_str=True)
    columns = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    unkinded = [p.name for p in named if not isinstance(kinds.get(p.name), Kind)]
    if not columns or not named or unkinded:
        raise BadInput(
            f"{function.__name__}{signature} is not a law: columns come first, then after * the parameters, each "
            f"annotated Positive or Real{': ' + ', '.join(unkinded) if unkinded else ''}"
        )

    @dataclasses.dataclass(frozen=True)
    class FunctionLaw(Law):
        name: ClassVar[str] = function.__name__
        inputs: ClassVar[tuple[str, ...]] = tuple(columns)
        parameters: ClassVar[Mapping[str, Kind]] = {p.name: kinds[p.name] for p in named}

        def log_loss(self, p: Any, **inputs: Array) -> Array:
            values = {name: getattr(p, name) for name in self.parameters}
            return jnp.log(function(*(inputs[name] for name in self.inputs), **values))

        def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
            """Sobol points around the defaults: factors of e^12 for positive parameters, +-2 for real ones."""
            low, high = self.bounds()
            center = np.array([_center(p, kinds[p.name], loss) for p in named])
            span = np.array([_POSITIVE_SPAN if kinds[p.name].positive else _REAL_SPAN for p in named])
            unit = qmc.Sobol(len(named), seed=0).random(STARTS)
            spread = np.clip(center + (2 * unit - 1) * span, low, high)
            return np.concatenate([np.clip(center, low, high)[None], spread])

    FunctionLaw.__doc__ = inspect.getdoc(function) or f"{function.__name__}{signature}"
    return FunctionLaw()


def _center(parameter: inspect.Parameter, kind: Kind, loss: np.ndarray) -> float:
    if parameter.default is not parameter.empty:
        return kind.internal(float(parameter.default))
    return math.log(float(np.median(loss))) if kind.positive else 0.0
