"""Step times: of trials whose schedules do not fit into the few steps that are timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import pytest

from harness.engine import cost
from harness.engine.compiler import Program, compile_program
from harness.engine.cost import compare_step_seconds, step_seconds
from harness.optimizers import OPTIMIZERS
from harness.schedules import SCHEDULES
from harness.trial import Trial
from tests.trials import small_trial


@pytest.mark.parametrize("rate", [1e-3, 1e9])
def test_what_diverges_is_timed_to_its_end(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stop, and so seem to be fast."""
    ends = []

    def compiled(*arguments: Any) -> Program:
        program = compile_program(*arguments)

        def chunk(*given: Any) -> Any:
            result = program.chunk(*given)
            ends.append([int(step) for step in jax.tree.leaves([lane.step for lane in result[0]])[0]])
            return result

        return replace(program, chunk=chunk)

    monkeypatch.setattr(cost, "compile_program", compiled)
    sgd = OPTIMIZERS["sgd"](learning_rate=rate)
    compare_step_seconds([replace(small_trial(), optimizer=sgd)], rounds=1, steps=8)
    assert ends == [[8]]


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_durations_in_steps_are_no_obstacle(name: str) -> None:
    schedule = SCHEDULES[name]()
    trial: Trial = replace(small_trial(), schedule=replace(schedule, **dict.fromkeys(schedule.durations, "5 steps")))
    trial.validate()
    found = compare_step_seconds([trial, trial], rounds=2)
    assert len(found) == 2
    assert found[0] == found[1]  # one program
    assert all(0 < seconds < 1 for seconds in (*found, step_seconds(trial)))
