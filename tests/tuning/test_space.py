"""Search spaces: quasi-random points, edges, files."""

from __future__ import annotations

import numpy as np
import pytest

from harness.optimizers import OPTIMIZERS
from harness.tuning import Axis, Space, default_space, read_space
from workloads.base import BadInput

AXES = [Axis(1e-4, 1e-1), Axis(-1.0, 3.0, "linear"), Axis(0.9, 0.999, "one_minus_log")]


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_and_its_inverse(axis):
    assert axis.at(0.0) == pytest.approx(axis.low)
    assert axis.at(1.0) == pytest.approx(axis.high)
    for share in (0.1, 0.5, 0.9):
        assert axis.share(float(axis.at(share))) == pytest.approx(share)
    assert [axis.edge(float(axis.at(s))) for s in (0.02, 0.5, 0.97)] == ["low", "", "high"]


def test_points_fill_the_space_evenly_and_longer_sequences_begin_alike():
    space = Space({"learning_rate": AXES[0], "b2": AXES[2]})
    points = space.points(64, seed=3)
    assert space.points(16, seed=3) == points[:16]
    assert space.points(16, seed=4) != points[:16]
    for name, axis in space.axes.items():
        shares = np.array([axis.share(point[name]) for point in points])
        assert shares.min() >= 0
        assert shares.max() <= 1
        counts = np.histogram(shares, 8, (0, 1))[0]
        assert counts.min() >= 6  # 8 expected; independent draws vary by 2.6


def test_a_space_widens_by_a_quarter_of_an_axis_at_its_edges():
    space = Space({"learning_rate": Axis(1e-4, 1e-2), "b2": AXES[2]})
    wider = space.widened([("learning_rate", "high"), ("b2", "low"), ("momentum", "low")]).axes
    assert (wider["learning_rate"].low, wider["learning_rate"].high) == (1e-4, pytest.approx(10**-1.5))
    assert (wider["b2"].low, wider["b2"].high) == (pytest.approx(1 - 10**-0.5), 0.999)
    assert space.edges({"learning_rate": 9.9e-3, "b2": 0.99}) == {"learning_rate": "high"}


@pytest.mark.parametrize(
    ("name", "axis", "edge", "ends"),
    [
        ("momentum", Axis(0.8, 0.99, "linear"), "high", (0.8, 0.995)),
        ("learning_rate", Axis(0.1, 0.9, "linear"), "high", (0.1, 1.1)),
        ("learning_rate", Axis(0.0, 1.0, "linear"), "low", (0.0, 1.0)),
        ("b1", Axis(0.1, 0.99, "one_minus_log"), "low", (0.0, 0.99)),
        ("momentum", Axis(0.8, 0.9999, "linear"), "high", (0.8, 0.9999)),
    ],
)
def test_no_axis_widens_to_values_that_mean_nothing(name, axis, edge, ends):
    wider = Space({name: axis}).widened([(name, edge)]).axes[name]
    assert (wider.low, wider.high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))


def test_more_points_lie_outside_of_what_was_tried_or_continue_it():
    space = Space({"learning_rate": AXES[0], "b2": AXES[2]})
    wider = space.widened([("learning_rate", "high"), ("b2", "high")])
    more = wider.more_points(space, done=8, count=16, seed=0)
    assert len(more) == 16
    assert all(wider.holds(point) and not space.holds(point) for point in more)
    past = [sum(point[name] > space.axes[name].high for point in more) for name in space.axes]
    assert min(past) >= 6  # of 9 expected
    assert space.more_points(space, done=8, count=3, seed=0) == space.points(11, 0)[8:]


@pytest.mark.parametrize("name", ["adamw", "nadamw", "nesterov", "muon", "lion", "schedule_free_adamw"])
def test_every_optimizer_has_a_space_that_makes_it(name):
    optimizer = OPTIMIZERS[name]
    space = default_space(optimizer())
    for point in space.points(4, 0):
        optimizer(**point).validate()
        assert space.holds(point)


def test_spaces_are_read_from_files(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("learning_rate: {log: [1e-4, 1.0e-1]}\nb1: {linear: [0.5, 0.9]}\n")
    assert read_space(path, OPTIMIZERS["adamw"]()).axes["b1"] == Axis(0.5, 0.9, "linear")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: {log: [1, 2]}", "Did you mean 'learning_rate'"),
        ("learning_rate: [1, 2]", "is no axis"),
        ("learning_rate: {log: [2, 1]}", "low < high"),
        ("learning_rate: {log: [0, 1]}", "must start above 0"),
        ("b1: {linear: [0.5, 0.9]}", "has no axis learning_rate"),
        ("learning_rate: {log: [1]}", r"needs \[low, high\]"),
        (": [", "cannot read"),
        ("!!python/object/apply:os.system ['true']", "cannot read"),
    ],
)
def test_malformed_spaces_name_the_fix(tmp_path, text, words):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_space(path, OPTIMIZERS["adamw"]())
