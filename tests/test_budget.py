"""Every way to say "how long" against numbers worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from harness.budget import DEFAULT_STEPS, UNITS, Budget, Rates, evaluation_steps, steps_of
from tests.trials import small_trial
from workloads.base import BadInput
from workloads.regression import Regression

# 16 examples of 64 tokens a step; an epoch of 160 examples is 10 steps
RATES = Rates(examples=16, tokens=1024, epoch=160, flops=lambda: 2e6, seconds=lambda: 0.25)
ENDLESS = replace(RATES, epoch=sys.maxsize)

HORIZONS = [
    ({}, 200),
    ({"steps": 37}, 37),
    ({"steps": 37.9}, 37),
    ({"examples": 500}, 31),  # 500 / 16 = 31.25
    ({"tokens": 2e5}, 195),  # 2e5 / 1024 = 195.3
    ({"epochs": 2.55}, 25),  # 2.55 x 10
    ({"flops": 1e9}, 500),  # 1e9 / 2e6
    ({"seconds": 60}, 240),  # 60 / 0.25
]


@pytest.mark.parametrize(("given", "steps"), HORIZONS)
def test_every_unit_becomes_a_horizon(given: dict[str, float], steps: int) -> None:
    horizon = Budget(**given).horizon(RATES)
    assert horizon == steps
    assert isinstance(horizon, int)
    assert Budget(**given).amount() == next(iter(given.items()), ("steps", 200.0))


def test_every_unit_has_a_row_and_a_field() -> None:
    assert {unit for given, _ in HORIZONS for unit in given} == set(UNITS) == set(vars(Budget()))
    assert DEFAULT_STEPS == 200


@pytest.mark.parametrize("unit", UNITS)
def test_one_step_is_enough_and_less_is_refused(unit: str) -> None:
    one = RATES.per_step(unit)
    assert Budget(**{unit: one}).horizon(RATES) == 1
    with pytest.raises(BadInput, match=rf"budget.{unit}=.* is less than one step \(.* {unit}\); raise the budget"):
        Budget(**{unit: 0.9 * one}).horizon(RATES)


@pytest.mark.parametrize("unit", UNITS)
def test_a_whole_number_of_steps_loses_none_to_rounding(unit: str) -> None:
    for batches in range(1, 200):
        rates = replace(RATES, examples=3, tokens=21, epoch=3 * batches, flops=lambda: 0.1, seconds=lambda: 0.7)
        for epochs in (1, 2, 3):
            steps = epochs * batches
            amount = epochs if unit == "epochs" else steps * rates.per_step(unit)
            assert Budget(**{unit: amount}).horizon(rates) == steps
            assert steps_of(f"{amount!r} {unit}", steps, rates) == pytest.approx(steps, rel=1e-11)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("amount", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_positive_number_is_refused(unit: str, amount: float) -> None:
    with pytest.raises(BadInput, match=rf"budget.{unit}=.* must be a positive number"):
        Budget(**{unit: amount}).horizon(RATES)


@pytest.mark.parametrize("unit", UNITS)
def test_too_much_is_refused(unit: str) -> None:
    with pytest.raises(BadInput, match=rf"budget.{unit}=1e\+30 is .* steps; the most is 1e\+09"):
        Budget(**{unit: 1e30}).horizon(RATES)


def test_two_units_are_refused_with_the_fix() -> None:
    with pytest.raises(BadInput, match=r"budget\.steps and budget\.tokens are both set; keep one"):
        Budget(steps=10, tokens=1e5).horizon(RATES)


def test_only_the_unit_in_question_is_measured() -> None:
    """Step time costs a compile, so budgets in other units must not ask for it."""

    def never() -> float:
        raise AssertionError

    rates = replace(RATES, flops=never, seconds=never)
    for unit in ("steps", "examples", "tokens", "epochs"):
        assert Budget(**{unit: 1e5}).horizon(rates) > 0
        assert steps_of(f"1e-3 {unit}", 100, rates) >= 0


def test_epochs_of_data_that_never_repeat_are_refused() -> None:
    for call in (lambda: Budget(epochs=1).horizon(ENDLESS), lambda: steps_of("1 epochs", 100, ENDLESS)):
        with pytest.raises(BadInput, match="no epochs; give the length in steps, examples or tokens"):
            call()
    trial = replace(small_trial(), workload=Regression(), budget=Budget(epochs=1))
    with pytest.raises(BadInput, match="no epochs"):
        trial.validate()
    assert replace(trial, budget=Budget(examples=160)).horizon == 10


DURATIONS = ["20 steps", "10%", "320 examples", "20480 tokens", "2 epochs", "4e7 flops", "5 seconds"]


@pytest.mark.parametrize(
    "text", [*DURATIONS, "20steps", "  2e1 steps ", "+20 steps", "2epochs", "320examples", "2E1steps"]
)
def test_durations_in_every_unit_are_the_same_steps(text: str) -> None:
    assert steps_of(text, 200, RATES) == 20.0


def test_durations_cover_every_unit() -> None:
    assert {text.split()[-1] for text in DURATIONS} - {"10%"} == set(UNITS)


def test_durations_are_not_rounded_and_may_be_nothing_or_everything() -> None:
    assert steps_of("12.5%", 100, RATES) == 12.5
    assert steps_of("0 steps", 100, RATES) == steps_of("0%", 100, RATES) == 0.0
    assert steps_of("100%", 100, RATES) == steps_of("100 steps", 100, RATES) == 100.0


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("17", "write an amount and a unit, such as '10%' or '100 steps'"),
        ("steps", "write an amount and a unit"),
        ("", "write an amount and a unit"),
        ("ten steps", "write an amount and a unit"),
        ("1.2.3 steps", "write an amount and a unit"),
        ("nan steps", "write an amount and a unit"),
        ("inf steps", "write an amount and a unit"),
        ("1e999 steps", "write an amount and a unit"),
        ("10 percent", "unknown unit of duration 'percent'. .*Valid names: .*tokens"),
        ("10 step", "Did you mean 'steps'"),
        ("-1 steps", "must lie between 0 and the horizon of 100 steps"),
        ("-5%", "must lie between 0 and the horizon"),
        ("101 steps", "must lie between 0 and the horizon"),
        ("101%", "must lie between 0 and the horizon"),
        ("11 epochs", "is 110 steps; it must lie between"),
    ],
)
def test_bad_durations_name_the_fix(text: str, fix: str) -> None:
    with pytest.raises(BadInput, match=fix):
        steps_of(text, 100, RATES)


@pytest.mark.parametrize("horizon", [1, 2, 7, 10, 12, 195, 1000])
@pytest.mark.parametrize("evaluations", [1, 3, 10])
def test_evaluations_are_spread_evenly_and_end_at_the_horizon(horizon: int, evaluations: int) -> None:
    steps = evaluation_steps(horizon, evaluations)
    assert len(steps) == min(horizon, evaluations)
    assert steps[-1] == horizon
    gaps = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
