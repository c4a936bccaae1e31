"""When a curve first meets its target."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.scoring import NEVER, Hit, first_hit
from workloads.base import BadInput

NAN = math.nan
CASES = {
    "smaller is better": ([3, 2, 1, 0.5], 1.0, "minimize", Hit(2, 30.0)),
    "larger is better": ([0.1, 0.7, 0.9, 0.8], 0.8, "maximize", Hit(2, 30.0)),
    "exactly the target": ([0.1, 0.8, 0.9, 0.8], 0.8, "maximize", Hit(1, 20.0)),
    "never": ([3, 2, 1.5, 1.01], 1.0, "minimize", NEVER),
    "NaN before": ([NAN, NAN, 1.0, 0.5], 1.0, "minimize", Hit(2, 30.0)),
    "NaN throughout": ([NAN] * 4, 1.0, "maximize", NEVER),
    "infinite loss": ([math.inf, 2, math.inf, -math.inf], 1.0, "minimize", Hit(3, 40.0)),
    "left again": ([0.9, 2, 2, 2], 1.0, "minimize", Hit(0, 10.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_first_hit(case):
    values, target, direction, expected = CASES[case]
    assert first_hit(values, [10.0, 20.0, 30.0, 40.0], target, direction) == expected
    assert expected.met == (expected.index >= 0)


def test_no_evaluations_meet_nothing():
    assert first_hit([], [], 1.0, "minimize") == NEVER


@pytest.mark.parametrize(
    ("values", "times", "target", "direction"),
    [
        ([1], [1, 2], 1.0, "minimize"),
        ([1], [1], NAN, "minimize"),
        ([1], [1], 1.0, "down"),
        ([[1]], [[1]], 1.0, "minimize"),
    ],
)
def test_bad_curves(values, times, target, direction):
    with pytest.raises(BadInput):
        first_hit(np.array(values, float), np.array(times, float), target, direction)
