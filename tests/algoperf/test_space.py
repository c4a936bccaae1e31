"""AlgoPerf's search spaces: intervals, sets, lists of points."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.algoperf import read_points
from workloads.base import BadInput


@pytest.fixture
def points(tmp_path):
    def read(content, count=4, seed=0):
        path = tmp_path / "tuning_search_space.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_points(path, count, seed)

    return read


def test_intervals_and_sets_are_covered(points):
    space = {
        "learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"},
        "dropout_rate": {"min": 0.0, "max": 0.5},
        "warmup_factor": {"feasible_points": [0.02, 0.05, 0.1]},
    }
    found = points(space, 60)
    rate = np.array([point["learning_rate"] for point in found])
    assert rate.min() >= 1e-4
    assert rate.max() <= 1e-2
    assert np.mean(rate < 1e-3) == pytest.approx(0.5, abs=0.05)
    assert {point["warmup_factor"] for point in found} == {0.02, 0.05, 0.1}
    assert np.mean([point["dropout_rate"] for point in found]) == pytest.approx(0.25, abs=0.02)
    assert found == points(space, 60) != points(space, 60, seed=1)


def test_the_first_points_of_a_list(points):
    assert points([{"learning_rate": 1}, {"learning_rate": 2.0}, {}], 2) == [
        {"learning_rate": 1.0},
        {"learning_rate": 2.0},
    ]


def test_whole_numbers_and_switches_stay_such(points):
    listed = points([{"inner": 2, "nesterov": True, "rate": 1.0}], 1)[0]
    assert [type(value) for value in listed.values()] == [int, bool, float]
    drawn = points({"inner": {"feasible_points": [1, 2]}, "rate": {"min": 1, "max": 2}}, 1)[0]
    assert [type(value) for value in drawn.values()] == [int, float]


def test_words_nulls_and_constants(points):
    space = {
        "schedule": {"feasible_points": ["cosine", "linear"]},
        "clip": {"feasible_points": [None, 1.0]},
        "rate": {"min": 1e-3, "max": 1e-3, "scaling": "log"},
    }
    found = points(space, 40)
    assert {(point["schedule"], point["clip"]) for point in found} == {
        (schedule, clip) for schedule in ("cosine", "linear") for clip in (None, 1.0)
    }
    assert {point["rate"] for point in found} == {1e-3}
    assert points([{"schedule": "cosine", "clip": None}], 1) == [{"schedule": "cosine", "clip": None}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"learning_rate": 1e-3}], "lists 1 points where 4"),
        ([1, 2, 3, 4], "no point"),
        ({}, "no search space"),
        ({"learning_rate": 3}, "needs min and max"),
        ({"learning_rate": {"min": 1, "max": 2, "scaling": "cubic"}}, "must be linear or log"),
        ({"learning_rate": {"min": 0, "max": 2, "scaling": "log"}}, "json: learning_rate: .*must start above 0"),
        ({"learning_rate": {"feasible_points": [[1]]}}, "json: learning_rate: .*no finite number, word"),
        ({"learning_rate": {"min": True, "max": 2}}, "json: learning_rate: true is no finite number"),
        ({"class": {"feasible_points": [1]}}, "json: class: .*no word of Python"),
        ([{"lambda": 1}] * 4, "json: lambda: .*no word of Python"),
        ("[", "JSON"),
    ],
)
def test_anything_else_names_the_fix(points, content, words):
    with pytest.raises(BadInput, match=words):
        points(content)
