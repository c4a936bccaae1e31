"""Bits per parameter and where models saturate."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.capacity import Capacity
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict
from harness.laws.procedures.base import Settings
from harness.laws.procedures.bits_per_parameter import CapacityRatio
from tests.laws.rows.row import grid
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=200)
N = np.geomspace(1e6, 1e9, 10)


def bits(size, data, k=2.0, s=3.0, noise=0.02, seed=0):
    exact = ((k * size) ** -s + data**-s) ** (-1 / s)
    return exact * np.exp(noise * np.random.default_rng(seed).normal(size=size.size))


def test_the_law_is_linear_below_the_knee_flat_above_and_nearly_the_minimum():
    size = np.array([1e3, 2.5e7, 1e12])
    law = Capacity()
    value = np.exp(predict(law, Objective(), {"N": size}, np.log([[2.0, 5e7, 100.0]])))[0]
    np.testing.assert_allclose(value, [2e3, 5e7, 5e7], rtol=0.01)
    soft = np.exp(predict(law, Objective(), {"N": size[1:2]}, np.log([[2.0, 5e7, 1.0]])))[0]
    assert soft == pytest.approx([2.5e7])


@pytest.fixture(scope="module")
def found():
    return CapacityRatio().run({"N": N, "bits": bits(N, 1e8)}, SETTINGS)


def test_bits_per_parameter_and_the_saturation_size_cover_their_truth(found):
    values = json.loads(json.dumps(found.values, allow_nan=False))
    assert values["ci95"][0] < 2.0 < values["ci95"][1] < 2.2
    assert values["ceiling_ci95"][0] < 1e8 < values["ceiling_ci95"][1]
    knee = values["saturation"][0]
    assert knee["ci95"][0] < 5e7 < knee["ci95"][1]
    assert knee["within_sizes"]
    assert values["exponent_ci95"][0] < 1.01
    assert values["exponent_ci95"][1] > 0.99
    assert not found.warnings


def test_known_data_bits_share_the_ratio_over_data_sets():
    table = grid(N=N[::2], data_bits=np.array([1e7, 1e8]))
    result = CapacityRatio().run({**table, "bits": bits(table["N"], table["data_bits"])}, SETTINGS)
    assert result.values["ci95"][0] < 2.0 < result.values["ci95"][1]
    assert [knee["data_bits"] for knee in result.values["saturation"]] == [1e7, 1e8]
    assert result.values["saturation"][1]["N"] == pytest.approx(5e7, rel=0.1)


def test_without_large_models_the_ceiling_is_not_claimed():
    small = np.geomspace(1e6, 1e7, 10)
    result = CapacityRatio().run({"N": small, "bits": bits(small, 1e9)}, SETTINGS)
    assert result.values["ceiling_bits"] is None
    assert result.values["saturation"] == []
    assert any("ceiling" in w for w in result.warnings)


def test_without_small_models_there_is_no_ratio():
    large = np.geomspace(1e9, 1e10, 10)
    with pytest.raises(BadInput, match="too small for"):
        CapacityRatio().run({"N": large, "bits": bits(large, 1e8)}, SETTINGS)


def test_more_bits_than_the_data_hold_is_a_mistake_of_units():
    with pytest.raises(BadInput, match="unit"):
        CapacityRatio().run({"N": N, "bits": bits(N, 1e8), "data_bits": np.full(10, 1e7)}, SETTINGS)
