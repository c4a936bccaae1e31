"""Limits in size, in ensemble members, and in both."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.ensemble import Ensemble
from harness.laws.procedures.asymptote import Asymptote, inner_limits
from harness.laws.procedures.base import Settings
from tests.laws.rows.row import grid
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=200)
BOTH = grid(N=np.array([1.5e8, 3e8, 6e8, 1.4e9]), K=np.array([1.0, 2, 3, 4, 6, 8]))


def noisy(loss, scale=1e-3, seed=0):
    return loss * np.exp(scale * np.random.default_rng(seed).normal(size=loss.size))


def double(table, limit=3.17):
    billions = table["N"] / 1e9
    return limit + 0.05 / billions + 0.25 / table["K"] * billions**-0.1


@pytest.fixture(scope="module")
def found():
    """Both limits, at the size of the paper's tables: N then has the exponent 1 that it reports."""
    return Asymptote(members="one").run({**BOTH, "loss": noisy(double(BOTH))}, SETTINGS)


def test_the_double_limit_covers_its_truth_and_lies_below_the_single_ones(found):
    values = json.loads(json.dumps(found.values, allow_nan=False))
    low, high = values["ci95"]
    assert low < 3.17 < high
    assert high - low < 0.05
    assert values["limit_of"] == "K, then N"
    assert values["determined"]
    members = {row["N"]: row for row in values["members"]}
    assert set(members) == set(BOTH["N"])
    for size, row in members.items():
        truth = 3.17 + 0.05 / (size / 1e9)
        assert abs(row["limit"] - truth) < 4 * row["stderr"] < 0.05
        assert row["limit"] > values["asymptote"]


def test_the_pictures_and_tables_show_the_limit(found):
    assert found.plots[0].layers[2].y[0] == found.values["asymptote"]
    assert found.tables[0].rows[0][1] == found.values["asymptote"]


def test_the_limit_of_members_is_exact_without_noise():
    limits = inner_limits(Ensemble(), BOTH["K"], BOTH["N"], double(BOTH), SETTINGS)
    np.testing.assert_allclose(limits.value, 3.17 + 0.05 / (limits.outer / 1e9), rtol=1e-7)
    assert limits.dof == 4 * (6 - 2)


def test_one_size_is_the_limit_in_members_and_several_data_are_apart():
    one = BOTH["N"] == 3e8
    table = {"K": np.tile(BOTH["K"][one], 2), "N": np.full(12, 3e8), "D": np.repeat([2e8, 4e8], 6)}
    loss = np.concatenate([noisy(double({"N": 3e8 * np.ones(6), "K": BOTH["K"][one]}, e), seed=1) for e in (3.17, 3.0)])
    result = Asymptote(members="one").run({**table, "loss": loss}, SETTINGS)
    for data, limit in (("2e+08", 3.17), ("4e+08", 3.0)):
        low, high = result.values["by_data"][data]["ci95"]
        assert low < limit + 0.05 / 0.3 < high
        assert result.values["by_data"][data]["limit_of"] == "K"


def test_overfitted_runs_have_no_limit():
    table = {"N": np.geomspace(1e8, 1e9, 6), "loss": np.array([3.8, 3.75, 3.72, 3.74, 3.8, 3.9])}
    with pytest.raises(BadInput, match="does not fall with N"):
        Asymptote().run(table, SETTINGS)


def test_an_undetermined_limit_is_said_to_be():
    size = np.geomspace(1e8, 4e8, 6)
    result = Asymptote().run({"N": size, "loss": noisy(20 * size**-0.1, 3e-3)}, SETTINGS)
    low, high = result.values["ci95"]
    assert high - low > np.ptp(20 * size**-0.1)
    assert any("not determined" in w or "says almost nothing" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"loss": np.ones(4)}, "column N"),
        ({"loss": np.ones(4), "N": np.full(4, 1e8)}, "several values"),
        ({"loss": np.array([3.0, 2.9, np.nan]), "K": np.array([1.0, 2, 4])}, "finite"),
        (
            {"loss": np.array([3.0, 2.9, 2.8, 2.7]), "K": np.array([1.0, 1, 2, 2]), "N": np.array([1.0, 2, 1, 2])},
            "3 of them",
        ),
    ],
)
def test_bad_tables_are_refused_with_the_fix(table, message):
    with pytest.raises(BadInput, match=message):
        Asymptote(members="one").run(table, SETTINGS)


def test_an_unknown_option_is_refused():
    with pytest.raises(BadInput, match="free"):
        Asymptote(members="two")
