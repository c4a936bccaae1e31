"""One row per schedule; every row buys the tests that hold for all, and its closed form is checked at several steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import components
from harness.budget import Rates, steps_of
from harness.engine.program import learning_rate
from harness.schedules import SCHEDULES, Schedule
from tests.trials import small_trial
from workloads.base import BadInput

HORIZON = 200
RATES = Rates(examples=16, tokens=1024, epoch=160, flops=lambda: 2e6, seconds=lambda: 0.25)
TWENTY_STEPS = ("10%", "20 steps", "320 examples", "20480 tokens", "2 epochs", "4e7 flops", "5 seconds")


@dataclass(frozen=True)
class Row:
    """values: fields, not defaults. closed: multiplier after a warmup of 20 of 200 steps. end: at the horizon."""

    values: dict[str, Any]
    closed: Callable[[float], float]
    end: float


ROWS = {
    "constant": Row({}, lambda t: 1.0, 1.0),
    "linear": Row({"final": 0.1}, lambda t: 1.0 - 0.9 * (t - 20) / 180, 0.1),
    "cosine": Row({"final": 0.1}, lambda t: 0.1 + 0.45 * (1.0 + math.cos(math.pi * (t - 20) / 180)), 0.1),
    "wsd": Row({"cooldown": "25%", "final": 0.1}, lambda t: 1.0 if t <= 150 else 1.0 - 0.9 * (t - 150) / 50, 0.1),
    "rsqrt": Row({"timescale": "60 steps"}, lambda t: math.sqrt(60 / (60 + t - 20)), 0.5),
}
NAMES = sorted(SCHEDULES)


def make(name: str, **values: Any) -> Schedule:
    return SCHEDULES[name](**(ROWS[name].values | values))


def curve(schedule: Schedule, horizon: int = HORIZON) -> np.ndarray:
    """Multiplier at the steps 0, 1, ..., horizon, computed as the engine does, with everything traced."""
    lengths = {name: steps_of(getattr(schedule, name), horizon, RATES) for name in schedule.durations}
    erased = components.erase(schedule)
    erased = replace(erased, **dict.fromkeys(schedule.durations, ""))

    @jax.jit
    def multipliers(values: Any, steps: Any, horizon: Any, lengths: Any) -> Any:
        bound = components.bind(erased, values)
        return jax.vmap(lambda step: bound.multiplier(step, horizon, lengths))(steps)

    steps = np.arange(horizon + 1, dtype=np.float32)
    return np.asarray(multipliers(components.traced(schedule), steps, float(horizon), lengths))


def test_every_schedule_has_a_row() -> None:
    assert set(NAMES) == set(ROWS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", ["0 steps", "20 steps", "12.5 steps", "0.3 steps", "100%"])
def test_stays_between_zero_and_one_and_never_rises_after_warmup(name: str, warmup: str) -> None:
    for horizon in (1, 7, HORIZON):
        if "steps" in warmup and float(warmup.split()[0]) > horizon:
            continue
        found = curve(make(name, warmup=warmup, **({"timescale": "30%"} if name == "rsqrt" else {})), horizon)
        assert np.isfinite(found).all()
        assert (found[:-1] > 0).all()
        assert (found >= 0).all()
        assert (found <= 1).all()
        start = math.ceil(steps_of(warmup, horizon, RATES))
        assert (np.diff(found[start:]) <= 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_warmup_is_linear_and_ends_at_one(name: str) -> None:
    found = curve(make(name, warmup="20 steps"))
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20, rtol=1e-6)
    assert found[19] == found[20] == 1.0
    assert curve(make(name, warmup="0 steps"))[0] == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_is_its_closed_form_after_warmup(name: str) -> None:
    found = curve(make(name, warmup="20 steps"))
    for step in (20, 21, 65, 110, 149, 150, 151, 175, 199, 200):
        assert found[step] == pytest.approx(ROWS[name].closed(step), abs=2e-6), step


@pytest.mark.parametrize("name", NAMES)
def test_ends_at_its_final_value(name: str) -> None:
    found = curve(make(name, warmup="20 steps"))
    assert found[HORIZON] == pytest.approx(ROWS[name].end, abs=1e-6)
    if hasattr(make(name), "final"):
        assert curve(make(name, final=0.0))[HORIZON] == pytest.approx(0.0, abs=1e-6)
        assert curve(make(name, final=1.0))[HORIZON] == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_lasts_as_long_in_every_unit(name: str) -> None:
    """Each duration of each schedule, given as 20 steps in all units: the same curve, bitwise."""
    for field in make(name).durations:
        curves = [curve(make(name, **{field: text})) for text in TWENTY_STEPS]
        assert all(np.array_equal(curves[0], other) for other in curves[1:])
        assert not np.array_equal(curves[0], curve(make(name, **{field: "30 steps"}))) or name == "constant" != field


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["20", "-1 steps", "101%", "3 parsecs"])
def test_bad_durations_are_refused_before_anything_compiles(name: str, text: str) -> None:
    for field in SCHEDULES[name].durations:
        trial = replace(small_trial(), schedule=SCHEDULES[name](**{field: text}))
        with pytest.raises(BadInput, match="duration"):
            trial.validate()


@pytest.mark.parametrize("final", [-0.1, 1.1, float("nan")])
def test_bad_final_values_are_refused(final: float) -> None:
    for name in NAMES:
        if hasattr(SCHEDULES[name](), "final"):
            with pytest.raises(BadInput, match=r"schedule\.final"):
                SCHEDULES[name](final=final).validate()


def test_default_schedules_are_valid() -> None:
    for name in NAMES:
        assert replace(small_trial(), schedule=SCHEDULES[name]()).validate() is None


def test_the_cooldown_of_wsd_starts_where_it_says() -> None:
    found = curve(SCHEDULES["wsd"](warmup="20 steps", cooldown="40 steps"))
    assert (found[19:161] == 1.0).all()
    np.testing.assert_allclose(found[160:], 1 - np.arange(41) / 40, atol=1e-6)


def test_the_engine_multiplies_the_peak_rate() -> None:
    trial = small_trial(optimizer__learning_rate=0.5, schedule__warmup="4 steps")
    rate = jax.jit(lambda hparams, step: learning_rate(trial.static(), hparams, step))
    found = [float(rate(trial.hparams(), jnp.int32(step))) for step in range(13)]
    # cosine over the 8 steps after warmup, of a horizon of 12
    expected = [0.125, 0.25, 0.375, 0.5] + [0.25 * (1 + math.cos(math.pi * k / 8)) for k in range(9)]
    assert found == pytest.approx(expected, abs=1e-6)
