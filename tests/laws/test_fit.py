"""Fits: what they say about themselves, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws import Objective, PowerLaw, PowerLawOffset, fit, straight_line
from workloads.base import BadInput

N = np.array([1.2e4, 2.4e4, 4e4, 8e4, 1.3e5, 2.8e5])
NOISE = np.array([0.3, -1.1, 0.8, 0.5, -0.9, 0.4])
LOSS = (1.5 + 8 * N**-0.35) * np.exp(0.001 * NOISE)


def offset(loss, **options):
    return fit(PowerLawOffset(), {"N": N}, loss, bootstrap=200, **options)


def test_json_has_the_documented_keys_and_round_trips():
    entry = json.loads(json.dumps(offset(LOSS).to_json(), allow_nan=False))
    assert set(entry) == {
        "law", "n", "objective", "loss", "params", "stderr", "ci95", "identifiable", "backtest", "seconds",
        "bootstrap", "residuals", "information", "profile", "variants", "starts",
    }  # fmt: skip
    assert entry["loss"] == {"kind": "huber", "delta": 0.02, "reduction": "sum", "space": "log", "asymmetry": 0.5}
    assert set(entry["params"]) == set(entry["stderr"]) == set(entry["ci95"]) == {"E", "A", "alpha"}
    assert entry["n"] == 6


def test_intervals_hold_the_truth_and_the_estimate():
    result = offset(LOSS)
    for name, truth in {"E": 1.5, "A": 8.0, "alpha": 0.35}.items():
        low, high = result.ci95[name]
        assert low < truth < high
        assert low < result.params[name] < high
        assert 0 < result.stderr[name] < np.inf


def test_same_seed_same_intervals():
    assert offset(LOSS, seed=3).ci95 == offset(LOSS, seed=3).ci95
    assert offset(LOSS, seed=3).ci95 != offset(LOSS, seed=4).ci95


def test_precise_data_are_identifiable():
    report = offset((1.5 + 8 * N**-0.35) * np.exp(1e-5 * NOISE)).identifiable
    assert report.ok
    assert not report.loose
    assert not report.bounds_hit


def test_a_pure_power_law_has_no_offset_to_find():
    report = offset(5 * N**-0.11).identifiable
    assert not report.ok
    assert any(hit.startswith("E ->") for hit in report.bounds_hit)


def test_the_flat_direction_is_named():
    report = offset((1.5 + 8 * N**-0.35) * np.exp(0.01 * NOISE)).identifiable
    assert "A" in report.loose
    assert max(report.flat_direction, key=lambda k: abs(report.flat_direction[k])) == "log_A"
    assert report.flat_stderr > 0.5


def test_backtest_rolls_forward_beside_simpler_laws():
    result = offset(1.5 + 8 * N**-0.35).backtest
    assert [fold["sizes_fitted"] for fold in result["folds"]] == [3, 4, 5]
    assert [fold["size_predicted"] for fold in result["folds"]] == N[3:].tolist()
    error = result["mean_abs_error"]
    assert error["power_law_offset"] < 1e-6
    assert error["power_law"] > error["straight_line"] > 1e-3


def test_backtest_does_not_see_the_held_out_point():
    moved = LOSS.copy()
    moved[-1] *= 1.3
    error, shifted = (offset(loss).backtest["folds"][-1]["error"]["power_law_offset"] for loss in (LOSS, moved))
    assert error - shifted == pytest.approx(np.log(1.3), abs=1e-6)


def test_huber_bounds_the_pull_of_a_broken_run():
    loss = 5 * N**-0.11
    loss[2] *= 1.5
    least_squares = -np.polyfit(np.log(N), np.log(loss), 1)[0]
    huber = fit(PowerLaw(), {"N": N}, loss, bootstrap=200).params["alpha"]
    assert abs(huber - 0.11) < abs(least_squares - 0.11) / 3


def test_standard_errors_weight_the_points():
    loss = 5 * N**-0.11
    loss[0] *= 1.05
    stderr = 0.001 * loss
    stderr[0] = 0.5 * loss[0]
    assert fit(PowerLaw(), {"N": N}, loss, stderr=stderr, bootstrap=200).params["alpha"] == pytest.approx(
        0.11, abs=1e-4
    )


def test_equal_standard_errors_are_no_weights_in_linear_space():
    loss = (1.5 + 8 * N**-0.35) * np.exp(0.01 * NOISE)
    linear = Objective("mse", space="linear")
    with_errors = fit(PowerLaw(), {"N": N}, loss, stderr=np.full(6, 0.01), objective=linear, bootstrap=200)
    without = fit(PowerLaw(), {"N": N}, loss, objective=linear, bootstrap=200)
    assert with_errors.params == pytest.approx(without.params, rel=1e-6)


def test_residuals_beyond_the_standard_errors_are_reported():
    loss = (1.5 + 8 * N**-0.35) * np.exp(0.01 * NOISE)
    assert any("exceed" in w for w in offset(loss, stderr=1e-4 * loss).warnings)
    assert not offset(loss, stderr=0.01 * loss).warnings


def test_linear_space_fits_the_loss_itself():
    result = fit(PowerLaw(), {"N": N}, 5 * N**-0.11, objective=Objective("mse", space="linear"), bootstrap=200)
    assert result.params["alpha"] == pytest.approx(0.11, rel=1e-6)
    assert result.to_json()["loss"] == Objective("mse", space="linear").to_json()
    assert result.to_json()["loss"]["delta"] is None


def test_straight_line_is_exact_on_a_power_law_and_averages_repeats():
    size = np.array([10.0, 20, 40, 40])
    loss = 3 * size**-0.2 * np.array([9.0, 1, 1.1, 1 / 1.1])
    assert straight_line(size, loss, 80.0) == pytest.approx(3 * 80**-0.2)


def with_value(value):
    loss = LOSS.copy()
    loss[1] = value
    return loss


BAD = {
    "nan": ({"N": N}, with_value(np.nan), {}, "drop diverged"),
    "inf": ({"N": N}, with_value(np.inf), {}, "drop diverged"),
    "zero": ({"N": N}, with_value(0.0), {}, "positive"),
    "negative size": ({"N": -N}, LOSS, {}, "positive"),
    "one size": ({"N": np.full(6, 1e4)}, LOSS, {}, "same N"),
    "two sizes": ({"N": np.repeat(N[:2], 3)}, LOSS, {}, "2 distinct points"),
    "too few": ({"N": N[:2]}, LOSS[:2], {}, "fewer parameters"),
    "no freedom": ({"N": N[:3]}, LOSS[:3], {}, "exactly"),
    "missing column": ({"D": N}, LOSS, {}, "missing"),
    "lengths": ({"N": N}, LOSS[:5], {}, "6 points"),
    "stderr": ({"N": N}, LOSS, {"stderr": np.zeros(6)}, "stderr"),
    "stderr dof": ({"N": N}, LOSS, {"stderr": LOSS, "stderr_dof": 0}, "stderr_dof"),
    "bootstrap": ({"N": N}, LOSS, {"bootstrap": 5}, "bootstrap"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_the_fix(case):
    inputs, loss, options, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        fit(PowerLawOffset(), inputs, loss, **options)


def test_as_many_points_as_parameters_needs_and_uses_standard_errors():
    result = fit(PowerLawOffset(), {"N": N[:3]}, LOSS[:3], stderr=0.002 * LOSS[:3], bootstrap=200)
    assert any("as many points" in w for w in result.warnings)
    assert np.isfinite(result.predict({"N": 5e4}).low).all()
