"""What a benchmark measures: timings of about equal length, taken in turns; medians with the least favourable repeat.

Imports no JAX, because worker processes of other kinds use it too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Sense = Literal["at least", "at most", "exactly"]


@dataclass(frozen=True)
class Target:
    """What the median of a measure must reach."""

    sense: Sense
    bound: float

    def met(self, value: float) -> bool:
        """False for NaN, whatever the sense."""
        match self.sense:
            case "at least":
                return value >= self.bound
            case "at most":
                return value <= self.bound
            case "exactly":
                return value == self.bound


@dataclass(frozen=True)
class Measure:
    """One line of the table. repeats: a value per round, in order."""

    name: str
    unit: str
    repeats: Sequence[float]
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.repeats)

    @property
    def worst(self) -> float:
        """The largest repeat of a cost (a time, an error, an overhead), the smallest of everything else."""
        cost = self.unit in COSTS or (self.target is not None and self.target.sense == "at most")
        return max(self.repeats) if cost else min(self.repeats)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        return None if self.target is None else self.target.met(self.median)

    def to_json(self) -> dict[str, Any]:
        target = None if self.target is None else {"sense": self.target.sense, "bound": self.target.bound}
        numbers = {"median": self.median, "worst": self.worst, "repeats": list(self.repeats)}
        return {"name": self.name, "unit": self.unit, **numbers, "target": target, "met": self.met}


COSTS = ("s", "ms", "us", "%")


@dataclass
class Section:
    """A part of the benchmark. notes: what a reader must know to read the numbers."""

    name: str
    title: str
    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, name: str, unit: str, repeats: Sequence[float], target: Target | None = None) -> None:
        self.measures.append(Measure(name, unit, tuple(repeats), target))

    @property
    def met(self) -> bool:
        return all(measure.met is not False for measure in self.measures)

    def to_json(self) -> dict[str, Any]:
        measures = [measure.to_json() for measure in self.measures]
        named = {"name": self.name, "title": self.title, "seconds": self.seconds, "met": self.met}
        return {**named, "measures": measures, "notes": self.notes}


@dataclass
class Timer:
    """Seconds per step (per trial-step if a step advances several `trials`), timed over about `seconds`.

    run(steps) trains `steps` steps, at most `most`, and returns the seconds that took. The number of steps is chosen at
    the first call, after a warm-up, and kept.
    """

    run: Callable[[int], float]
    seconds: float
    most: int
    trials: int = 1
    steps: int = 0

    def __call__(self) -> float:
        if not self.steps:
            self.steps = self._choose()
        return self.run(self.steps) / (self.steps * self.trials)

    def _choose(self) -> int:
        self.run(1)
        steps, spent = 1, self.run(1)
        while spent < self.seconds / 8 and steps < self.most:
            steps = min(4 * steps, self.most)
            spent = self.run(steps)
        return max(1, min(self.most, round(steps * self.seconds / spent)))


def interleave(timers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every timer once a round, in alternating order, so that slow drifts of the machine touch all alike."""
    values: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(rounds):
        for name in list(timers)[:: 1 if turn % 2 == 0 else -1]:
            values[name].append(timers[name]())
    return values


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def scaled(values: Sequence[float], factor: float) -> list[float]:
    return [factor * value for value in values]


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes; it must end synchronised with the device."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
