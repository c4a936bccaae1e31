"""Search spaces, and quasi-random points in them, as AlgoPerf's external tuning draws them."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from scipy.stats import qmc

from harness.optimizers.base import Optimizer
from harness.registry import nearest
from workloads.base import BadInput

EDGE = 0.08  # share of an axis' length from its end that counts as the edge
WIDEN = 0.25  # share by which an axis is made longer at an edge where an optimum lies
LEAST = 0.01  # share by which it must become longer to count as longer

Scale = Literal["log", "linear", "one_minus_log"]


@dataclass(frozen=True)
class Axis:
    """An interval of a hyperparameter, sampled uniformly on a scale: log, linear, or the log of 1 - value (for betas)."""

    low: float
    high: float
    scale: Scale = "log"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise BadInput(f"a search axis from {self.low} to {self.high} is none; give [low, high] with low < high")
        if self.scale == "log" and self.low <= 0:
            raise BadInput(f"a logarithmic search axis starts at {self.low}; it must start above 0")
        if self.scale == "one_minus_log" and not self.high < 1:
            raise BadInput(f"a search axis of 1 - value ends at {self.high}; it must end below 1")

    def at(self, share: np.ndarray | float) -> Any:
        """The value at a share of the way from low to high."""
        if self.scale == "linear":
            return self.low + share * (self.high - self.low)
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        return 1.0 - (1.0 - self.low) * ((1.0 - self.high) / (1.0 - self.low)) ** share

    def share(self, value: float) -> float:
        """Where a value lies, 0 at low and 1 at high."""
        if self.scale == "linear":
            return (value - self.low) / (self.high - self.low)
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return math.log((1 - value) / (1 - self.low)) / math.log((1 - self.high) / (1 - self.low))

    def edge(self, value: float) -> Literal["", "low", "high"]:
        """The edge at which the value lies, if it does."""
        share = self.share(value)
        return "low" if share < EDGE else "high" if share > 1 - EDGE else ""

    def longer(self, edge: Literal["low", "high"], share: bool) -> Axis:
        """With a quarter of its length more at an edge, but not below 0. share: values below 1 stay there, as betas must.

        An axis that ends (nearly) where it must is returned as it is.
        """
        low, high = self.low, self.high
        if edge == "low":
            low = float(self.at(-WIDEN))
            low = max(low, 0.0) if self.low >= 0 else low
        else:
            high = float(self.at(1 + WIDEN))
            high = (1 + self.high) / 2 if share and self.high < 1 <= high else high
        if self.share(low) > -LEAST and self.share(high) < 1 + LEAST:
            return self
        return Axis(low, high, self.scale)


@dataclass(frozen=True)
class Space:
    """Axes by hyperparameter name; a name may be dotted ("schedule.warmup" is not: it is the optimizer's own fields)."""

    axes: Mapping[str, Axis]

    def points(self, count: int, seed: int) -> list[dict[str, float]]:
        """`count` points of a scrambled Halton sequence. The first k points of a longer sequence are the shorter one.

        Axes have its dimensions in the order of their names, in whatever order they are written down.
        """
        sampler = qmc.Halton(len(self.axes), scramble=True, rng=np.random.default_rng(seed))
        axes = sorted(self.axes.items())
        shares = sampler.random(count)
        return [{name: float(axis.at(share)) for (name, axis), share in zip(axes, row, strict=True)} for row in shares]

    def widened(self, edges: Collection[tuple[str, Literal["low", "high"]]]) -> Space:
        """A quarter longer at these edges (name of an axis, which edge); those of axes that it lacks change nothing."""
        axes = dict(self.axes)
        for name, edge in edges:
            if name in axes:
                axes[name] = axes[name].longer(edge, share=name != "learning_rate")
        return Space(axes)

    def edges(self, point: Mapping[str, float]) -> dict[str, Literal["low", "high"]]:
        """Axes at whose edge a point lies, and which one."""
        found = {name: axis.edge(point[name]) for name, axis in self.axes.items()}
        return {name: edge for name, edge in found.items() if edge}

    def more_points(self, inner: Space, done: int, count: int, seed: int) -> list[dict[str, float]]:
        """`count` points that lie outside `inner`; if nothing does, those of inner's sequence that follow its first `done`."""
        if self == inner:
            return inner.points(done + count, seed)[done:]
        found: list[dict[str, float]] = []
        drawn = count
        while len(found) < count:
            drawn *= 2
            found = [point for point in self.points(drawn, seed + 1) if not inner.holds(point)][:count]
        return found

    def holds(self, point: Mapping[str, float]) -> bool:
        """Whether a point lies within every axis."""
        return all(axis.low <= point[name] <= axis.high for name, axis in self.axes.items())


@dataclass(frozen=True)
class Points:
    """Hyperparameters written down one by one, AlgoPerf's other kind of search space."""

    listed: tuple[Mapping[str, float], ...]

    def points(self, count: int, seed: int) -> list[dict[str, float]]:
        """The first `count`, whatever the seed. Raises BadInput if there are fewer."""
        if count > len(self.listed):
            raise BadInput(f"the search space lists {len(self.listed)} points where {count} are to be tried; list more")
        return [dict(point) for point in self.listed[:count]]


DEFAULT_AXES = {
    "weight_decay": Axis(5e-3, 1.0),
    "b1": Axis(0.8, 0.98, "one_minus_log"),
    "b2": Axis(0.9, 0.999, "one_minus_log"),
    "momentum": Axis(0.8, 0.98, "one_minus_log"),
}
_RATES = {"sgd": (1e-3, 10.0), "adam": (1e-4, 1e-1), "matrix": (1e-3, 1.0), "other": (1e-4, 1.0)}


def default_space(optimizer: Optimizer) -> Space:
    """Learning rate, by family; momentum, betas and weight decay where the optimizer has them (AlgoPerf's ranges).

    A registered optimizer's weight decay where it is decoupled, a user's own whatever it does with it. Only arguments whose
    defaults are floating-point numbers become axes: weight_decay=0.0, not weight_decay=0.
    """
    axes = {"learning_rate": Axis(*_RATES[optimizer.family]), **DEFAULT_AXES}
    if not (optimizer.decoupled_decay or optimizer.file):
        del axes["weight_decay"]
    return Space({name: axis for name, axis in axes.items() if isinstance(getattr(optimizer, name, None), float)})


def read_space(path: Path, optimizer: Optimizer) -> Space | Points:
    """A YAML of `name: {log|linear|one_minus_log: [low, high]}`, or a list of points. Raises BadInput on anything else."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, a date that is none, a giant number
        raise BadInput(f"cannot read the search space {path}: {str(error).splitlines()[0]}") from None
    return parse_space(content, optimizer, path.name)


def parse_space(content: Any, optimizer: Optimizer, where: str) -> Space | Points:
    """The same from plain dicts and lists; where: what errors call their source."""
    known = [f.name for f in dataclasses.fields(optimizer)]
    if isinstance(content, list):
        return _points(content, optimizer, where)
    axes = {}
    for name, entry in content.items() if isinstance(content, dict) else ():
        if name not in known:
            raise BadInput(f"{where}: the optimizer has no hyperparameter '{name}'. {nearest(str(name), known)}")
        if isinstance(getattr(optimizer, name), bool | int | str):
            raise BadInput(
                f"{where}: the default {name}={getattr(optimizer, name)} is no floating-point number, so it has no axis; write "
                f"it as one if it may be any number, or list points: - {{learning_rate: 3e-3, {name}: ...}}"
            )
        match entry:
            case {**one} if len(one) == 1 and next(iter(one)) in ("log", "linear", "one_minus_log"):
                scale, ends = typing.cast("tuple[Scale, Any]", next(iter(one.items())))
            case _:
                raise BadInput(f"{where}: {name}={entry} is no axis; write {name}: {{log: [1e-4, 1e-1]}}")
        if not (isinstance(ends, list | tuple) and len(ends) == 2):
            raise BadInput(f"{where}: {name} needs [low, high]")
        axes[name] = Axis(_number(ends[0], name, where), _number(ends[1], name, where), scale)
    if "learning_rate" not in axes:
        raise BadInput(f"{where} has no axis learning_rate; every method tunes it")
    return Space(axes)


def _points(content: list[Any], optimizer: Optimizer, where: str) -> Points:
    known = [f.name for f in dataclasses.fields(optimizer)]
    found = []
    for entry in content:
        if not (isinstance(entry, dict) and entry):
            raise BadInput(f"{where}: the point {entry} is none; write - {{learning_rate: 3e-3, b1: 0.9}}")
        for name in entry:
            if name not in known:
                raise BadInput(f"{where}: the optimizer has no hyperparameter '{name}'. {nearest(str(name), known)}")
        found.append({name: _like(getattr(optimizer, name), value, name, where) for name, value in entry.items()})
    if not found:
        raise BadInput(f"{where} lists no points; write - {{learning_rate: 3e-3}}")
    return Points(tuple(found))


def _like(default: Any, value: Any, name: str, where: str) -> Any:
    """A value of the default's kind: a switch, a whole number, or any number."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise BadInput(f"{where}: {name} holds {value}; it is true or false")
        return value
    number = _number(value, name, where)
    if isinstance(default, int):
        if number != int(number):
            raise BadInput(f"{where}: {name} holds {value}, which is no whole number")
        return int(number)
    return number


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{where}: {name} holds {value}, which is no finite number")
    return number
