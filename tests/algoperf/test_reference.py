"""The reference of a submission's time limit: a registered optimizer in the form of a submission trains as in the engine."""

from __future__ import annotations

import math
from dataclasses import replace

from harness import algoperf
from harness.algoperf.reference import Reference, step_seconds
from harness.config import WORKLOADS
from harness.submissions import load_submission
from tests.trials import small_trial

TINY = WORKLOADS["image_mlp"](width=8, depth=1, batch_size=16)


def test_it_trains() -> None:
    optimizer = load_submission("adamw").optimizer(learning_rate=1e-2)
    run = algoperf.train(Reference.of(optimizer), TINY, {}, 60, 2, seed=0)
    assert run.ended == "steps"
    first, last = run.evaluations
    assert math.log(10) > first.loss > last.loss


def test_a_step_takes_time() -> None:
    (seconds,) = step_seconds([replace(small_trial(), workload=TINY)])
    assert 0 < seconds < 1
