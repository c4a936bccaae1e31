"""The run to be decided about: the model it is counted in, and what an optimizer costs there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.config import WORKLOADS
from harness.judging.joint import Joint
from harness.judging.target import Target, at_target, count, grown
from harness.optimizers import OPTIMIZERS
from workloads.image_mlp import ImageMLP

TARGET = Target(7e9, 1.4e11, 4e6)


def test_a_transformer_grows_as_large_ones_are_built():
    """A 7B model: about 4,096 wide and 32 layers deep."""
    workload, shapes = grown(WORKLOADS["language_model"](), 7e9)
    assert 3800 < workload.width < 4600
    assert workload.depth == workload.width // 128
    assert 0.9 * 7e9 < count(shapes) <= 7e9


def test_others_grow_in_width():
    workload, shapes = grown(ImageMLP(depth=3), 1e8)
    assert workload.depth == 3
    assert 0.9e8 < count(shapes) <= 1e8
    assert grown(ImageMLP(), 10)[0].width == 64  # the smallest


@pytest.mark.parametrize(("name", "share"), [("adamw", 20 / 24e6), ("muon", 0.004)])
def test_what_an_optimizer_costs_at_7b(name, share):
    """Muon: 5 iterations of 6 m FLOPs a parameter, m the smaller side of a matrix, which is about the width."""
    found = at_target(TARGET, name, WORKLOADS["language_model"](), OPTIMIZERS[name](), None)
    assert found.flops_share == pytest.approx(share, rel=0.1)
    assert math.isnan(found.speed_up)


def test_the_joint_law_is_asked_at_the_target():
    """Twice as good use of data: half the steps, whatever the size; minus what the optimizer itself takes."""
    values = np.array([1.0, 5.0, 0.3, 5.0, 0.3, 0.0, math.log(2.0)])
    joint = Joint(
        ("adamw", "mine"),
        ("E", "log_A", "alpha", "log_B", "beta", "log_a", "log_b"),
        values,
        values[None],
        1e6,
        20.0,
        3,
    )
    found = at_target(TARGET, "mine", ImageMLP(), OPTIMIZERS["adamw"](), joint)
    assert found.speed_up == pytest.approx(2.0)
    assert found.ci95 == pytest.approx((2.0, 2.0))
    assert found.in_flops == pytest.approx(2.0 / (1 + found.flops_share))
