"""Compute-optimal allocation: closed forms, intervals, and what has no optimum."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import harness.laws.data_constrained
import harness.laws.over_training  # noqa: F401
from harness.laws import LAWS, Objective, fit
from harness.laws.allocation import allocate
from harness.laws.fitting.solver import predict
from tests.laws.rows.row import grid
from workloads.base import BadInput

ND = grid(N=np.geomspace(1e7, 1e10, 6), D=np.geomspace(1e9, 1e12, 6))
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
COMPUTE = np.geomspace(1e19, 1e22, 4)
LARGEST = 6 * 1e10 * 1e12


def internal(law, truth):
    return np.array([kind.internal(truth[name]) for name, kind in law.parameters.items()])


@pytest.fixture(scope="module")
def chinchilla():
    law = LAWS["chinchilla"]()
    loss = np.exp(predict(law, Objective(), ND, internal(law, TRUTH)[None])[0])
    return fit(law, ND, loss * np.exp(0.003 * np.random.default_rng(0).normal(size=loss.size)), bootstrap=200)


def as_if_fitted(template, name, truth):
    """A fit of another law at `truth`, its refits nearby: an allocation reads no more of a fit."""
    law = LAWS[name]()
    theta = internal(law, truth)
    spread = 0.01 * np.random.default_rng(0).normal(size=(50, theta.size))
    return replace(template, law=law, theta=theta, refits=replace(template.refits, theta=theta + spread))


def closed_form(p, compute):
    """Hoffmann et al. 2022, eq. 4."""
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    a = p["beta"] / (p["alpha"] + p["beta"])
    return g * (compute / 6) ** a, (compute / 6) ** (1 - a) / g, a


def test_chinchilla_agrees_with_the_closed_form(chinchilla):
    found = allocate(chinchilla, COMPUTE, columns=ND)
    size, data, a = closed_form(chinchilla.params, COMPUTE)
    np.testing.assert_allclose(found.N, size, rtol=1e-6)
    np.testing.assert_allclose(found.D, data, rtol=1e-6)
    np.testing.assert_allclose(6 * found.N * found.D, COMPUTE, rtol=1e-12)
    np.testing.assert_allclose(found.loss, chinchilla.predict({"N": size, "D": data}).mean, rtol=1e-12)
    assert found.exponents["N"].value == pytest.approx(a, abs=1e-7)
    assert found.exponents["N"].value + found.exponents["D"].value == pytest.approx(1, abs=1e-12)


def test_every_refit_agrees_with_the_closed_form(chinchilla):
    found = allocate(chinchilla, COMPUTE, columns=ND)
    refits = chinchilla.natural_refits()
    size, _, a = closed_form({k: v[:, None] for k, v in refits.items()}, COMPUTE)
    np.testing.assert_allclose(found.N_ci95, np.quantile(size, [0.025, 0.975], axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.exponents["N"].ci95, np.quantile(a, [0.025, 0.975]), rtol=1e-6)
    assert found.exponents["N"].stderr == pytest.approx(np.std(a, ddof=1), rel=1e-5)


def test_intervals_hold_the_truth_and_the_estimate(chinchilla):
    found = allocate(chinchilla, COMPUTE, columns=ND)
    size, data, a = closed_form(TRUTH, COMPUTE)
    for name, truth in {"N": size, "D": data}.items():
        low, high = getattr(found, f"{name}_ci95")
        assert np.all((low < truth) & (truth < high))
        assert np.all((low < getattr(found, name)) & (getattr(found, name) < high))
    low, high = found.exponents["N"].ci95
    assert low < a < high


def test_flops_per_parameter_and_token_are_an_option(chinchilla):
    twice, once = (
        allocate(chinchilla, COMPUTE * 2, columns=ND, flops_per=12.0),
        allocate(chinchilla, COMPUTE, columns=ND),
    )
    np.testing.assert_allclose(twice.N, once.N, rtol=1e-7)


def test_extrapolation_is_counted_and_warned_of(chinchilla):
    inside = allocate(chinchilla, COMPUTE, columns=ND)
    assert not any("largest budget" in w for w in inside.warnings)
    beyond = allocate(chinchilla, [LARGEST / 4, LARGEST * 50], columns=ND)
    np.testing.assert_allclose(beyond.extrapolation, [0.25, 50])
    assert any("50 times" in w for w in beyond.warnings)


def test_one_budget_has_the_exponents_about_it(chinchilla):
    found, several = allocate(chinchilla, 1e21), allocate(chinchilla, COMPUTE)
    assert found.N.shape == (1,)
    assert found.exponents["N"].value == pytest.approx(several.exponents["N"].value, abs=1e-6)


def test_without_the_fitted_points_extrapolation_is_unknown_and_said_to_be(chinchilla):
    found = allocate(chinchilla, 1e21)
    assert found.to_json()["budgets"][0]["extrapolation"] is None
    assert any("not given" in w for w in found.warnings)


def test_json_and_plot_are_plain(chinchilla):
    found = allocate(chinchilla, COMPUTE, columns=ND)
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [budget["compute"] for budget in entry["budgets"]] == pytest.approx(COMPUTE.tolist())
    assert entry["exponent_N_ci95"][0] < entry["exponent_N"] < entry["exponent_N_ci95"][1]
    assert {layer.label for layer in found.plot().layers} == {"N", "D"}


def test_one_exponent_means_one_multiplier(chinchilla):
    truth = {"E": 1.8, "a": 500.0, "b": 2400.0, "eta": -0.35}
    result = as_if_fitted(chinchilla, "over_training", truth)
    found = allocate(result, COMPUTE, columns=grid(N=np.geomspace(1e7, 1e10, 5), M=np.geomspace(2, 640, 6)))
    multiplier = (2400.0 * 6**-0.175 / 500.0) ** (1 / 0.35)
    np.testing.assert_allclose(found.multiplier, multiplier, rtol=1e-6)
    assert found.exponents["N"].value == pytest.approx(0.5, abs=1e-6)
    assert found.extrapolation[-1] == pytest.approx(1e22 / (6 * 640 * 1e20))


def test_scarce_data_are_repeated(chinchilla):
    truth = {"E": 1.87, "A": 520.0, "B": 1490.0, "alpha": 0.35, "beta": 0.37, "R_D": 15.4, "R_N": 5.3}
    result = as_if_fitted(chinchilla, "data_constrained", truth)
    plenty, scarce = (allocate(result, 1e21, given={"U": unique}) for unique in (1e12, 1e9))
    size, data, _ = closed_form(truth, 1e21)
    assert plenty.N[0] == pytest.approx(size, rel=1e-5)
    assert scarce.D[0] > data, "the paper: epochs rather than parameters"
    assert scarce.loss[0] > plenty.loss[0]
    with pytest.raises(BadInput, match="also reads U"):
        allocate(result, 1e21)


def test_a_law_without_an_optimum_is_refused(chinchilla):
    result = as_if_fitted(chinchilla, "joint_power_law", {"A": 20.0, "alpha": 0.07, "beta": 0.05})
    with pytest.raises(BadInput, match="no allocation is best"):
        allocate(result, COMPUTE)


def test_refits_without_an_optimum_widen_the_interval_and_are_counted(chinchilla):
    theta = chinchilla.refits.theta.copy()
    theta[:20, list(chinchilla.law.parameters).index("beta")] *= -1
    found = allocate(replace(chinchilla, refits=replace(chinchilla.refits, theta=theta)), COMPUTE)
    assert any("10.0% of the refits have no optimum" in w for w in found.warnings)
    assert np.all(found.D_ci95[0] < 1.01)


def test_a_law_of_one_column_is_refused(chinchilla):
    result = as_if_fitted(chinchilla, "power_law_offset", {"E": 1.5, "A": 80.0, "alpha": 0.2})
    with pytest.raises(BadInput, match="reads N: an allocation needs"):
        allocate(result, 1e21)


@pytest.mark.parametrize("bad", [{"compute": -1e20}, {"compute": np.nan}, {"compute": 3.0}, {"flops_per": 0.0}])
def test_bad_budgets(chinchilla, bad):
    options = {"compute": 1e20, **bad}
    with pytest.raises(BadInput):
        allocate(chinchilla, **options)
