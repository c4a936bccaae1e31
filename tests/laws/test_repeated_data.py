"""The damage of repeated data: the law's peak is where and as high as its parameters say, and edges are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict
from harness.laws.procedures.base import Settings
from harness.laws.procedures.repeat_damage import RepeatedDamage, equal_size, peak_p
from harness.laws.repeated_data import RepeatedData
from tests.laws.rows.row import grid
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=100)
TABLE = grid(N=np.array([1e7, 3e7, 1e8, 3e8]), repeats=np.geomspace(1, 1e4, 13))


def clean(size):
    return 1.7 + 400 * size**-0.34


def loss(size, repeats, worst, height=0.06, p=1.2, q=1.0, noise=2e-3, seed=0):
    x = repeats / worst
    exact = clean(size) * (1 + height * (p + q) / (q * x**-p + p * x**q))
    return exact * np.exp(noise * np.random.default_rng(seed).normal(size=repeats.size))


def test_the_peak_is_at_R_0_of_height_H_and_vanishes_far_away():
    law, repeats = RepeatedData(), np.append(np.geomspace(1, 1e6, 2001), [300.0, 1e-12, 1e18])
    theta = np.log([[2.5, 0.15, 300.0, 1.2, 0.8]])
    value = np.exp(predict(law, Objective(), {"repeats": repeats}, theta))[0]
    assert value.argmax() == 2001 or abs(np.log(repeats[value.argmax()] / 300)) < 0.01
    np.testing.assert_allclose(value[[2001, 2002, 2003]], [2.5 * 1.15, 2.5, 2.5], rtol=1e-6)


@pytest.fixture(scope="module")
def found():
    worst = 50 * (TABLE["N"] / 1e7) ** 0.5
    return RepeatedDamage().run({**TABLE, "loss": loss(TABLE["N"], TABLE["repeats"], worst)}, SETTINGS)


def test_place_and_height_of_the_peak_cover_their_truth(found):
    values = json.loads(json.dumps(found.values, allow_nan=False))
    hits = []
    for row in values["worst"]:
        place = 50 * (row["N"] / 1e7) ** 0.5
        hits += [
            row["repeats_ci95"][0] < place < row["repeats_ci95"][1],
            row["excess_ci95"][0] < 0.06 < row["excess_ci95"][1],
        ]
        assert row["repeats"] == pytest.approx(place, rel=0.2)
    assert np.mean(hits) >= 0.75
    low, high = values["worst_repeats_exponent_ci95"]
    assert low < 0.5 < high


def test_the_damage_in_model_size_is_the_smaller_clean_model_of_equal_loss(found):
    for row in found.values["worst"]:
        smaller = ((1.06 * clean(row["N"]) - 1.7) / 400) ** (-1 / 0.34) / row["N"]
        assert row["effective_share"] == pytest.approx(smaller, rel=0.15)
        assert row["effective_share_ci95"][0] < row["effective_share"] < row["effective_share_ci95"][1] < 1


def test_equal_size_inverts_the_law():
    params = {"E": 1.7, "A": 400.0, "alpha": 0.34}
    assert equal_size(params, clean(4e8)) == pytest.approx(4e8)


def test_a_peak_at_the_edge_is_refused_and_says_where_to_look():
    repeats = TABLE["repeats"][:13]
    with pytest.raises(BadInput, match="try more repeats"):
        RepeatedDamage().run({"repeats": repeats, "loss": loss(1e8, repeats, 1e5)}, SETTINGS)
    with pytest.raises(BadInput, match="try fewer repeats"):
        RepeatedDamage().run({"repeats": 20 * repeats, "loss": loss(1e8, 20 * repeats, 20.0)}, SETTINGS)


def test_noise_has_no_peak():
    repeats, inside = TABLE["repeats"][:13], 0
    for seed in range(40):
        flat = 2.5 * np.exp(2e-3 * np.random.default_rng(seed).normal(size=13))
        inside += peak_p(repeats, flat, 0) < 0.01
    assert inside <= 2
    assert peak_p(repeats, loss(1e8, repeats, 100.0), 0) < 0.001
    flat = 2.5 * np.exp(2e-3 * np.random.default_rng(3).normal(size=13))
    flat[6] = flat.max() * 1.0005
    with pytest.raises(BadInput, match="noise"):
        RepeatedDamage().run({"repeats": repeats, "loss": flat}, SETTINGS)


def test_a_group_without_a_peak_is_left_out_by_name(found):
    worst = np.where(TABLE["N"] == 1e7, 1e5, 50.0)
    table = {**TABLE, "loss": loss(TABLE["N"], TABLE["repeats"], worst)}
    result = RepeatedDamage().run(table, SETTINGS)
    assert [row["N"] for row in result.values["worst"]] == [3e7, 1e8, 3e8]
    assert any("1e+07 left out" in w for w in result.warnings)
    assert sum(result.dropped.values()) == 13


@pytest.mark.parametrize(
    ("repeats", "message"), [(np.array([0.5, 1, 2, 4, 8, 16, 32]), "below 1"), (np.array([1.0, 2, 4]), "at least 6")]
)
def test_bad_repeats_are_refused(repeats, message):
    with pytest.raises(BadInput, match=message):
        RepeatedDamage().run({"repeats": repeats, "loss": np.linspace(2, 3, repeats.size)}, SETTINGS)
