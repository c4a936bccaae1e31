"""Budgets and durations: every way to say "how long" becomes a number of steps here, and only here."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

from harness.registry import nearest
from workloads.base import BadInput

DEFAULT_STEPS = 200
_MAX_STEPS = 10**9
_ROUNDING = 1e-12  # 1 / (1 / 93) is 92.99...: an exact number of steps must not lose one
_DURATION = re.compile(r"\s*([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-z%]+)\s*")


@dataclass(frozen=True)
class Rates:
    """What one training step consumes, the exchange rate between units and steps.

    examples: examples per step. tokens: tokens per step. epoch: examples in one epoch (sys.maxsize: they never repeat).
    flops: FLOPs per step. seconds: isolated step time on this device; a function, because measuring costs a compile.
    """

    examples: int
    tokens: int
    epoch: int
    flops: Callable[[], float]
    seconds: Callable[[], float]

    def per_step(self, unit: str) -> float:
        """How much of `unit` one step consumes."""
        match unit:
            case "steps":
                return 1.0
            case "examples":
                return float(self.examples)
            case "tokens":
                return float(self.tokens)
            case "epochs":
                if self.epoch == sys.maxsize:
                    raise BadInput(
                        "this workload draws fresh examples at every step, so it has no epochs; "
                        "give the length in steps, examples or tokens"
                    )
                return self.examples / self.epoch
            case "flops":
                return self.flops()
            case "seconds":
                return self.seconds()
        raise BadInput(f"unknown unit of duration '{unit}'. {nearest(unit, UNITS)}")


UNITS = ("steps", "examples", "tokens", "epochs", "flops", "seconds")


@dataclass(frozen=True)
class Budget:
    """How long a trial trains: exactly one field is set; none set means 200 steps."""

    name: ClassVar[str] = "budget"

    steps: float | None = None
    examples: float | None = None
    tokens: float | None = None
    epochs: float | None = None
    flops: float | None = None
    seconds: float | None = None

    def amount(self) -> tuple[str, float]:
        """(unit, amount). Raises BadInput unless exactly one unit is set, to a positive number."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None]
        if len(given) > 1:
            names = " and ".join(f"budget.{unit}" for unit, _ in given)
            raise BadInput(f"{names} are both set; keep one (set the other to null)")
        unit, amount = given[0] if given else ("steps", float(DEFAULT_STEPS))
        if not (math.isfinite(amount) and amount > 0):
            raise BadInput(f"budget.{unit}={amount:g} must be a positive number")
        return unit, amount

    def horizon(self, rates: Rates) -> int:
        """The budget in steps, rounded down: a trial never spends more than it was given."""
        unit, amount = self.amount()
        # e.g. tokens: 2e5 tokens / (16 examples x 64 tokens) = 195.3 -> 195 steps
        steps = amount / rates.per_step(unit) * (1.0 + _ROUNDING)
        if steps < 1:
            one = rates.per_step(unit)
            raise BadInput(
                f"budget.{unit}={amount:g} is less than one step ({one:g} {unit}); "
                "raise the budget or lower workload.batch_size"
            )
        if steps > _MAX_STEPS:
            raise BadInput(f"budget.{unit}={amount:g} is {steps:.3g} steps; the most is {_MAX_STEPS:g}")
        return int(steps)


def steps_of(duration: str, horizon: int, rates: Rates) -> float:
    """A duration in text ("10%" of the horizon, "100 steps", "1e5 tokens", "2 epochs") as a number of steps.

    Raises BadInput if the text is not an amount with a unit, is negative, or is longer than the horizon.
    """
    match = _DURATION.fullmatch(str(duration))
    try:
        amount, unit = (float(match[1]), match[2]) if match else (math.nan, "")
    except ValueError:
        amount, unit = math.nan, ""
    if not math.isfinite(amount):
        raise BadInput(
            f"'{duration}' is not a duration; write an amount and a unit, such as '10%' or '100 steps' "
            f"({', '.join(UNITS)})"
        )
    steps = amount / 100 * horizon if unit == "%" else amount / rates.per_step(unit)
    if not 0 <= steps <= horizon * (1.0 + _ROUNDING):
        raise BadInput(
            f"the duration '{duration}' is {steps:g} steps; it must lie between 0 and the horizon of {horizon} steps"
        )
    return steps


def evaluation_steps(horizon: int, evaluations: int) -> list[int]:
    """The steps after which a trial is evaluated: `evaluations` of them evenly spread, the last at the horizon."""
    count = min(evaluations, horizon)
    return [round(horizon * (k + 1) / count) for k in range(count)]
