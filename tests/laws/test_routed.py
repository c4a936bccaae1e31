"""The routed law against what Clark et al. 2022 state of it."""

from __future__ import annotations

import numpy as np
import pytest

from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict
from harness.laws.routed import Routed, effective_experts, effective_size
from workloads.base import BadInput

LAW = Routed()
TRUTH = {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "E_start": 1.847, "E_max": 314.478}


def loss(size, experts, params=TRUTH):
    theta = np.array([kind.internal(params[name]) for name, kind in LAW.parameters.items()])
    size, experts = np.atleast_1d(np.asarray(size, float)), np.atleast_1d(np.asarray(experts, float))
    features = LAW.features({"N": size, "experts": experts})
    return np.exp(predict(LAW, Objective(), features, theta[None])[0])


def test_the_expert_count_saturates_from_start_to_most():
    counts = np.array([1.0, 1e12])
    np.testing.assert_allclose(effective_experts(counts, 1.847, 314.478), [1.847, 314.478], rtol=1e-6)


def test_one_expert_is_a_power_law_in_base_ten():
    slope = TRUTH["a"] + TRUTH["c"] * np.log10(1.847)
    level = TRUTH["d"] + TRUTH["b"] * np.log10(1.847)
    np.testing.assert_allclose(loss([1e7, 1e9], [1, 1]), 10 ** (level + slope * np.array([7.0, 9.0])), rtol=1e-6)


def test_losses_are_plausible_and_the_gain_of_experts_vanishes_with_size():
    assert 2.0 < loss(1.3e9, 1)[0] < 2.6
    gain = np.log(loss([1e8, 1e11], [1, 1]) / loss([1e8, 1e11], [256, 256]))
    assert gain[0] > gain[1] > 0
    none = 10 ** (-TRUTH["b"] / TRUTH["c"])
    np.testing.assert_allclose(loss([none, none], [1, 512])[0], loss(none, 512)[0], rtol=1e-9)


def test_the_effective_size_is_the_dense_size_of_equal_loss():
    size = effective_size(TRUTH, np.array([1e8, 1e8]), np.array([1.0, 64.0]))
    assert size[0] == pytest.approx(1e8)
    assert size[1] > 3e8
    assert loss(size[1], 1)[0] == pytest.approx(loss(1e8, 64)[0], rel=1e-6)


def test_no_gain_from_size_has_no_equivalent():
    with pytest.raises(BadInput, match="not negative"):
        effective_size({**TRUTH, "a": 0.1}, np.array([1e8]), np.array([2.0]))


def test_fewer_than_one_expert_is_refused():
    with pytest.raises(BadInput, match="1 expert"):
        LAW.features({"N": np.array([1e8]), "experts": np.array([0.5])})
