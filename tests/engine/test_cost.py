"""Step times: of trials whose schedules do not fit into the few steps that are timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.engine.cost import compare_step_seconds, step_seconds
from harness.schedules import SCHEDULES
from harness.trial import Trial
from tests.trials import small_trial


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_durations_in_steps_are_no_obstacle(name: str) -> None:
    schedule = SCHEDULES[name]()
    trial: Trial = replace(small_trial(), schedule=replace(schedule, **dict.fromkeys(schedule.durations, "5 steps")))
    trial.validate()
    found = compare_step_seconds([trial, trial], rounds=2)
    assert len(found) == 2
    assert found[0] == found[1]  # one program
    assert all(0 < seconds < 1 for seconds in (*found, step_seconds(trial)))
