"""law=all: the right law wins, the outer backtest stays out of the choice, and what does not apply is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws import Objective, PowerLaw, PowerLawOffset
from harness.laws.chinchilla import Chinchilla
from harness.laws.fitting.backtest import fit_subsets
from harness.laws.fitting.combine import combine, prequential
from harness.laws.fitting.design import curve_design, size_design
from harness.laws.fitting.select import select
from harness.laws.m3 import M3
from workloads.base import BadInput

LAWS = ("power_law", "power_law_offset", M3())
N = 1e6 * 2.0 ** np.arange(12)


def noisy(loss, seed=0, sd=1e-3):
    return loss * np.exp(sd * np.random.default_rng(seed).normal(size=np.shape(loss)))


def offset_curve(size):
    return 0.5 + 30.0 * size**-0.25


@pytest.fixture(scope="module")
def selection():
    return select(LAWS, {"N": N}, noisy(offset_curve(N)))


def test_the_true_law_is_chosen_and_extrapolates(selection):
    assert selection.chosen == "power_law_offset" == selection.rows[0].law
    ahead = N[-1] * np.array([1.5, 2.0])
    np.testing.assert_allclose(selection.forecast({"N": ahead}), offset_curve(ahead), rtol=3e-3)
    assert selection.outer[selection.recommended] < 3e-3 < selection.rows[-1].outer_error
    assert not selection.warnings


def test_rows_are_ranked_by_inner_error_and_weights_sum_to_one(selection):
    inner = [row.inner_error for row in selection.rows]
    assert inner == sorted(inner)
    assert sum(row.weight for row in selection.rows) == pytest.approx(1.0)
    best = min(selection.rows, key=lambda row: row.aic)
    assert best.law == "power_law_offset"
    assert best.objective == min(row.objective for row in selection.rows)


def test_it_is_json(selection):
    entry = json.loads(json.dumps(selection.to_json(), allow_nan=False))
    assert entry["chosen"] == "power_law_offset"
    assert {row["law"] for row in entry["laws"]} == {"power_law", "power_law_offset", "m3"}
    assert entry["reach"] == pytest.approx({"asked": 2.0, "backtested": 2.0})


def test_of_laws_as_good_the_one_with_fewest_parameters():
    assert select(LAWS, {"N": N}, noisy(30.0 * N**-0.25)).chosen == "power_law"


def test_the_outer_backtest_takes_no_part_in_the_choice(selection):
    loss = noisy(offset_curve(N))
    loss[-1] *= 1.5
    broken = select(LAWS, {"N": N}, loss)
    assert broken.chosen == selection.chosen
    assert broken.inner == pytest.approx(selection.inner, rel=1e-6)
    assert broken.outer["choice"] == pytest.approx(np.log(1.5), rel=0.05)
    assert any("far above" in warning for warning in broken.warnings)


def test_errors_are_those_of_separate_fits(selection):
    loss = noisy(offset_curve(N))
    outer = N[-1] > N
    theta = fit_subsets(PowerLaw(), Objective(), {"N": N}, loss, np.ones(12), [outer]).best()
    a, alpha = PowerLaw.natural(theta[0])
    row = next(row for row in selection.rows if row.law == "power_law")
    assert row.outer_error == pytest.approx(abs(np.log(a * N[-1] ** -alpha / loss[-1])), rel=1e-6)


@pytest.mark.parametrize("reach", [1.0, 2.0, 4.0])
def test_backtests_predict_as_far_as_asked(reach):
    design = size_design(N, reach)
    for fold in (design.outer, *design.inner):
        assert fold.name["predicted_to"] / fold.name["fitted_to"] == max(reach, 2.0)
        assert N[fold.train].max() == fold.name["fitted_to"] < N[fold.test].min()
    outer = design.outer.name["fitted_to"]
    assert max(fold.name["predicted_to"] for fold in design.inner) <= outer
    assert design.weight[-1] == 1.0
    assert (np.diff(design.weight) > 0).all()


def test_a_backtest_one_span_older_weighs_half():
    design = size_design(N, 4.0)
    assert design.weight[-3] == pytest.approx(0.5)


def test_dense_tables_keep_a_dozen_backtests():
    design = size_design(np.linspace(1, 100, 300), 2.0)
    assert len(design.inner) <= 12
    assert design.inner[-1].name["fitted_to"] == pytest.approx(25, abs=0.5)


def test_a_short_table_is_backtested_less_far_and_says_so():
    size = np.geomspace(1, 3, 12)
    found = select(LAWS, {"N": size}, noisy(2 * size**-0.3), reach=10.0)
    assert found.reach["backtested"] < 3
    assert any("10 times" in warning for warning in found.warnings)


def test_six_sizes_are_enough_for_three_parameters():
    found = select(("power_law", "power_law_offset"), {"N": N[::2]}, noisy(offset_curve(N[::2])))
    assert found.chosen == "power_law_offset"
    assert found.reach["backtested"] == pytest.approx(4.0)
    assert found.warnings == ("the choice rests on 2 inner backtests",)


def test_laws_that_do_not_apply_say_why():
    found = select([*LAWS, "chinchilla"], {"N": N}, noisy(offset_curve(N)))
    row = found.rows[-1]
    assert row.law == "chinchilla"
    assert "missing ['D']" in row.reason
    assert row.inner_error is None


def test_a_smaller_law_stands_in_where_points_are_too_few():
    size = N[:7]  # inner backtests on 3, 4 and 5 sizes: the three-parameter law fits two of them
    found = select(("power_law", "power_law_offset"), {"N": size}, noisy(offset_curve(size)))
    first = found.backtest["inner"][0]["error"]
    assert first["power_law_offset"] == first["power_law"]
    assert found.backtest["inner"][1]["error"]["power_law_offset"] != found.backtest["inner"][1]["error"]["power_law"]
    assert any("3 inner backtests" in warning for warning in found.warnings)


def test_laws_of_two_columns_are_compared_with_laws_of_one():
    size, data = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 4)))
    loss = noisy(1.8 + 480 * size**-0.35 + 2100 * data**-0.37)
    found = select(["power_law", "joint_power_law", Chinchilla()], {"N": size, "D": data}, loss)
    assert found.chosen == "chinchilla"
    ahead = {"N": np.array([2e10]), "D": np.array([1e12])}
    np.testing.assert_allclose(found.forecast(ahead), 1.8 + 480 * 2e10**-0.35 + 2100 * 1e12**-0.37, rtol=5e-3)


@pytest.mark.parametrize(
    ("columns", "loss", "options", "match"),
    [
        ({"N": N[:4]}, N[:4] ** -0.1, {}, "5 are needed"),
        ({"N": N}, N**-0.1, {"reach": 0.5}, "at least 1"),
        ({"N": N}, N**-0.1, {"size": "width"}, "columns: N"),
        ({"N": N}, N**-0.1, {"response": "accuracy"}, "predicts loss, not accuracy"),
        ({"N": N}, np.where(np.arange(12) == 3, np.nan, 1.0), {}, r"loss\[3\]"),
        ({"D": N}, N**-0.1, {}, "does not read D"),
    ],
)
def test_bad_input(columns, loss, options, match):
    with pytest.raises(BadInput, match=match):
        select(LAWS, columns, loss, **options)


def test_curves_are_left_out_whole_and_the_longest_is_the_outer_one():
    curve = np.repeat(["a", "b", "c", "d"], 5)
    step = np.tile(np.arange(1.0, 6.0), 4) * np.repeat([1, 3, 2, 1], 5)
    design = curve_design(curve, step)
    assert design.outer.name == {"left_out": "b"}
    assert [fold.name["left_out"] for fold in design.inner] == ["a", "c", "d"]
    for fold in design.inner:
        assert not (fold.train & (curve == "b")).any()
        assert not (fold.train & fold.test).any()
    with pytest.raises(BadInput, match="4 are needed"):
        curve_design(curve[:15], step[:15])


def test_combination_prefers_the_accurate_and_the_simple():
    rng = np.random.default_rng(0)
    missed = [np.array([[1.0], [1.04], [3.0]]) * 0.01 * rng.choice([-1, 1]) for _ in range(8)]
    found = combine(missed, np.ones(8), np.array([5, 2, 1]))
    assert found.choice == 1
    np.testing.assert_allclose(found.error, [0.01, 0.0104, 0.03])
    expected = np.exp(-4 * (np.array([1.0, 1.04, 3.0]) ** 2 - 1))
    np.testing.assert_allclose(found.weight, expected / expected.sum())


def test_combinations_are_judged_on_what_they_have_not_seen():
    flipped = [np.array([[0.0], [0.1]]), np.array([[0.1], [0.0]])]  # whoever won last time misses
    assert prequential(flipped, np.ones(2), np.array([2, 2])) == pytest.approx({"choice": 0.1, "average": 0.1})


def test_offset_is_needed_for_a_forecast_with_weights():
    weights = np.where(N < 1e8, 0.1, 1.0)
    found = select([PowerLawOffset(), PowerLaw()], {"N": N}, noisy(offset_curve(N)), weights=weights, stderr=None)
    assert found.chosen == "power_law_offset"
