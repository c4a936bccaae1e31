"""What a law is: an equation, its inputs, its parameters, and where a fit starts.

A law is written in natural terms (`p.alpha`, `p.log_A`); the solver sees one float64 vector `theta`
of *internal coordinates*: the logarithm of a Positive parameter, a Real one as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from harness.laws.fitting.objective import Objective
from harness.registry import Registry
from workloads.base import BadInput

Array = Any  # a jax.Array, or a tracer of one

LIMIT = 200.0  # |theta| of an unbounded coordinate: exp(200) is still finite, as are its products


@dataclass(frozen=True)
class Kind:
    """The kind of a parameter: positive (fitted in its logarithm) or real, with bounds in natural units."""

    positive: bool
    lower: float
    upper: float

    def between(self, lower: float, upper: float) -> Kind:
        return replace(self, lower=lower, upper=upper)

    def internal(self, value: float) -> float:
        """A natural value as an internal coordinate."""
        if not self.positive:
            return max(-LIMIT, min(LIMIT, value))
        return max(-LIMIT, min(LIMIT, math.log(value))) if value > 0 else -LIMIT


Positive = Kind(positive=True, lower=0.0, upper=math.inf)
Real = Kind(positive=False, lower=-math.inf, upper=math.inf)


class Grid:
    """Start points: the product of linspace(low, high, count) over internal coordinates (`log_A`, `alpha`)."""

    def __init__(self, **axes: tuple[float, float, int]) -> None:
        self.axes = axes

    def points(self, coordinates: tuple[str, ...]) -> np.ndarray:
        """(starts, len(coordinates)) in the order of `coordinates`."""
        axes = [np.linspace(*self.axes[name]) for name in coordinates]
        return np.array(list(itertools.product(*axes)))


class Law:
    """Base of all laws: subclasses are frozen dataclasses (hashable: a law is static in the compiled solver).

    inputs: names of the columns that the law reads, one number per point. The first is the *size*: backtests fit small
    sizes and predict larger ones. response: the column it predicts, positive. parameters: name -> Kind. starts: the
    documented grid, unless `start_points` is overridden. simpler: laws shown beside this one in backtests. objective: what
    is minimised unless the user says otherwise. whole_curves: the points are of training curves (columns curve and step;
    rows without a response only describe the schedule); curves, not points, are then left out and resampled.
    extrapolates: where backtests go along the first input: up, down (a loss), or between its values (a law of a peak).
    may_be_constant: inputs that need not vary.
    The class docstring is the equation, its source and its units. Fields of the dataclass are options of the form.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    response: ClassVar[str] = "loss"
    parameters: ClassVar[Mapping[str, Kind]]
    starts: ClassVar[Grid]
    simpler: ClassVar[tuple[str, ...]] = ()
    objective: ClassVar[Objective] = Objective()
    whole_curves: ClassVar[bool] = False
    extrapolates: ClassVar[Literal["up", "down", "between"]] = "up"
    may_be_constant: ClassVar[tuple[str, ...]] = ()

    def features(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `log_loss` reads, from the input columns (n,): arrays whose first axis is the points.

        Here the columns themselves, checked to be positive. Raises BadInput on values that the law cannot take.
        """
        return {name: positive(name, columns[name]) for name in self.inputs}

    def simpler_laws(self) -> tuple[Law, ...]:
        """The laws of `simpler`, with the options that they share with this one."""
        mine = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        found = []
        for cls in (LAWS[name] for name in self.simpler):
            shared = {field.name for field in dataclasses.fields(cls)} & mine.keys()  # type: ignore[arg-type]
            found.append(cls(**{name: mine[name] for name in shared}))
        return tuple(found)

    def variants(self) -> tuple[Law, ...]:
        """The forms among which the fit takes the one of lowest objective (a *profiled* constant); usually one."""
        return (self,)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        """Logarithm of the predicted response, (n,), from the features; `p` holds scalars (see `unpack`)."""
        raise NotImplementedError

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """(starts, P) internal coordinates from which to fit `loss`, (n,); `inputs` are the features."""
        return self.starts.points(self.coordinates())

    @classmethod
    def coordinates(cls) -> tuple[str, ...]:
        """Names of the internal coordinates: `log_A` for a Positive A, `alpha` for a Real alpha."""
        return tuple(f"log_{name}" if kind.positive else name for name, kind in cls.parameters.items())

    @classmethod
    def unpack(cls, theta: Array) -> SimpleNamespace:
        """theta (P,) as named scalars; a Positive parameter A has both `p.A` and `p.log_A`."""
        named = SimpleNamespace()
        for value, (name, kind) in zip(theta, cls.parameters.items(), strict=True):
            setattr(named, name, jnp.exp(value) if kind.positive else value)
            if kind.positive:
                setattr(named, f"log_{name}", value)
        return named

    @classmethod
    def natural(cls, theta: np.ndarray) -> np.ndarray:
        """Internal coordinates (..., P) in natural units."""
        positive = np.array([kind.positive for kind in cls.parameters.values()])
        theta = np.asarray(theta, np.float64)
        return np.where(positive, np.exp(np.where(positive, theta, 0.0)), theta)

    @classmethod
    def bounds(cls) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds (P,) of the internal coordinates."""
        kinds = cls.parameters.values()
        return (
            np.array([kind.internal(kind.lower) for kind in kinds]),
            np.array([kind.internal(kind.upper) for kind in kinds]),
        )


def positive(name: str, column: np.ndarray) -> np.ndarray:
    """The column as float64, or BadInput naming the first value that is not finite and positive."""
    column = np.asarray(column, np.float64)
    bad = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
    if bad.size:
        raise BadInput(
            f"{name}[{bad[0]}] = {column[bad[0]]} ({bad.size} such): drop diverged or broken runs first; "
            "laws need finite, positive numbers"
        )
    return column


LAWS: Registry[Law] = Registry("law")
