"""The machinery behind every fit: queue of lanes, resampling, profiles, information criteria, residuals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.laws import LAWS, Objective, PowerLaw, fit
from harness.laws.fitting import solver
from harness.laws.fitting.backtest import MOST_FOLDS, leave_one_out, roll_forward
from harness.laws.fitting.likelihood import information
from harness.laws.fitting.residuals import describe
from workloads.base import BadInput

RNG = np.random.default_rng(0)
N = np.geomspace(1e4, 1e7, 40)
LINE = PowerLaw()
SD = 0.01
LOSS = 5 * N**-0.11 * np.exp(SD * RNG.normal(size=N.size))
MSE = Objective("mse")


def design():
    return np.stack([np.ones_like(N), -np.log(N)], axis=1)


def test_more_fits_than_lanes_give_what_each_gives_alone():
    law = LAWS["power_law_offset"]()
    rng = np.random.default_rng(1)
    target = np.log(1.5 + 8 * N**-0.35) + 0.02 * rng.normal(size=(150, N.size))
    starts = np.stack([law.start_points({"N": N}, np.exp(t)) for t in target])
    together = solver.solve(law, Objective(), {"N": N}, target, np.ones_like(target), starts)
    assert together.objective.shape == starts.shape[:2]
    assert starts.shape[0] * starts.shape[1] > 2 * solver.LANES
    for k in (0, 77, 149):
        alone = solver.solve(law, Objective(), {"N": N}, target[[k]], np.ones((1, N.size)), starts[[k]])
        np.testing.assert_allclose(together.objective[k], alone.objective[0], rtol=1e-9)
        np.testing.assert_allclose(together.best()[k], alone.best()[0], rtol=1e-6)


def test_equal_bounds_hold_a_coordinate():
    bounds = (np.array([[-200.0, 0.2]]), np.array([[200.0, 0.2]]))
    start = LINE.start_points({"N": N}, LOSS)[None]
    found = solver.solve(LINE, MSE, {"N": N}, np.log(LOSS)[None], np.ones((1, N.size)), start, bounds=bounds)
    log_a, alpha = found.best()[0]
    assert alpha == 0.2
    assert log_a == pytest.approx(np.mean(np.log(LOSS) + 0.2 * np.log(N)), rel=1e-9)


def test_points_bootstrap_has_the_sandwich_errors_and_the_parametric_one_the_textbook_ones():
    covariance = SD**2 * np.linalg.inv(design().T @ design())
    textbook = np.sqrt(covariance[1, 1])
    by_points = fit(LINE, {"N": N}, LOSS, objective=MSE, bootstrap=2000, kind="points")
    simulated = fit(LINE, {"N": N}, LOSS, objective=MSE, bootstrap=2000, kind="parametric")
    assert by_points.refits.kind == "points"
    assert by_points.bootstrap_stderr["alpha"] == pytest.approx(by_points.stderr["alpha"], rel=0.1)
    residual = np.log(LOSS) - np.log(simulated.losses)
    estimated = textbook / SD * np.sqrt(np.sum(residual**2) / (N.size - 2))
    assert simulated.bootstrap_stderr["alpha"] == pytest.approx(estimated, rel=0.08)


def clustered(rng, groups, each=6, between=0.03):
    size = np.geomspace(1e4, 1e7, groups * each)
    group = np.arange(size.size) // each  # neighbours in size share their error
    shift = between * rng.normal(size=groups)[group]
    return size, group, 5 * size**-0.11 * np.exp(shift + 1e-3 * rng.normal(size=size.size))


def test_points_of_one_cluster_are_not_independent():
    size, group, loss = clustered(np.random.default_rng(3), 12)
    naive = fit(LINE, {"N": size}, loss, objective=MSE, kind="points", bootstrap=500)
    honest = fit(LINE, {"N": size}, loss, objective=MSE, cluster=group, bootstrap=500)
    assert honest.refits.kind == "cluster"
    assert honest.refits.groups == 12
    assert honest.bootstrap_stderr["A"] > 1.5 * naive.bootstrap_stderr["A"]


def test_few_clusters_are_left_out_in_turn_with_t_tails():
    size, group, loss = clustered(np.random.default_rng(4), 5)
    found = fit(LINE, {"N": size}, loss, objective=MSE, cluster=group, bootstrap=4000)
    assert found.refits.kind == "jackknife"
    assert any("jackknife" in w for w in found.warnings)
    left_out = [
        fit(LINE, {"N": size[group != g]}, loss[group != g], objective=MSE, bootstrap=100).theta[1] for g in range(5)
    ]
    stderr = np.sqrt(4 / 5 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    low, high = found.ci95["alpha"]
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 4) * stderr, rel=0.1)


def test_jackknife_intervals_cover():
    covered = []
    for k in range(60):
        size, group, loss = clustered(np.random.default_rng(100 + k), 5)
        low, high = fit(LINE, {"N": size}, loss, objective=MSE, cluster=group, bootstrap=400).ci95["alpha"]
        covered.append(low <= 0.11 <= high)
    assert 0.88 <= np.mean(covered) <= 1.0


@pytest.mark.parametrize(("kind", "cluster", "message"), [("cluster", None, "COLUMN"), ("rows", None, "unknown")])
def test_bad_resampling(kind, cluster, message):
    with pytest.raises(BadInput, match=message):
        fit(LINE, {"N": N}, LOSS, kind=kind, cluster=cluster)


def test_two_clusters_are_refused():
    with pytest.raises(BadInput, match="at least 3"):
        fit(LINE, {"N": N}, LOSS, cluster=np.arange(N.size) % 2)


def test_the_profile_of_a_linear_parameter_is_the_textbook_interval():
    found = fit(LINE, {"N": N}, LOSS, objective=MSE, bootstrap=100, profiled=["alpha"])
    residual = np.log(LOSS) - np.log(found.losses)
    # the robust ratio's constant is n sum w rho'' / sum psi^2: its variance estimate is sum r^2 / (n - 2)
    stderr = np.sqrt(np.sum(residual**2) / (N.size - 2) * np.linalg.inv(design().T @ design())[1, 1])
    half = stats.t.ppf(0.975, N.size - 2) * stderr
    low, high = found.profile["alpha"]["ci95"]
    assert (low, high) == pytest.approx((found.params["alpha"] - half, found.params["alpha"] + half), rel=0.01)
    assert found.profile["alpha"]["open"] == [False, False]


def test_a_profile_that_never_rises_is_open():
    offset = LAWS["power_law_offset"]()
    found = fit(offset, {"N": N}, LOSS, bootstrap=100, profiled=["E"])
    assert found.profile["E"]["open"][0]
    with pytest.raises(BadInput, match="no parameter 'gamma'"):
        fit(LINE, {"N": N}, LOSS, bootstrap=100, profiled=["gamma"])


def test_information_criteria_of_normal_errors_are_the_closed_form():
    residual = 0.01 * RNG.normal(size=50)
    found = information(MSE, residual, np.ones(50), 2)
    expected = 50 * (np.log(2 * np.pi * np.mean(residual**2)) + 1) + 2 * 3
    assert found["aic"] == pytest.approx(expected, rel=1e-9)
    assert found["bic"] - found["aic"] == pytest.approx(3 * (np.log(50) - 2))
    wide = information(Objective("huber", delta=10.0), residual, np.ones(50), 2)
    assert wide["aic"] == pytest.approx(expected, rel=1e-6)


def test_an_asymmetric_objective_has_no_likelihood_and_leans_to_its_side():
    lower, upper = (Objective("mse", asymmetry=a) for a in (0.98, 0.02))
    below = fit(LINE, {"N": N}, LOSS, objective=lower, bootstrap=100)
    above = fit(LINE, {"N": N}, LOSS, objective=upper, bootstrap=100)
    assert below.information == {}
    assert np.mean(below.losses > LOSS) < 0.15
    assert np.mean(above.losses < LOSS) < 0.15


def test_residuals_tell_autocorrelation_spread_and_far_points():
    size = np.geomspace(1, 1e3, 200)
    rng = np.random.default_rng(5)
    white, warnings = describe(0.01 * rng.normal(size=200), size)
    assert not warnings
    assert abs(white["lag1"]["correlation"]) < 0.2
    wave = np.sin(np.arange(200) / 20)
    assert "neighbouring" in describe(0.01 * wave + 0.002 * rng.normal(size=200), size)[1][0]
    growing = 1e-3 * size**0.5 * rng.normal(size=200)
    assert any("spread grows" in w for w in describe(growing, size)[1])
    broken = 0.01 * rng.normal(size=200)
    broken[17] = 0.5
    summary, warnings = describe(broken, size)
    assert summary["far"] == [17]
    assert any("outliers" in w for w in warnings)


def test_many_sizes_are_grouped_and_no_point_predicts_itself():
    folds = roll_forward(np.geomspace(1, 100, 90), 1, 3)
    assert 5 <= len(folds) < MOST_FOLDS
    for fold in folds:
        assert not np.any(fold.train & fold.test)
        assert np.flatnonzero(fold.train).max() < np.flatnonzero(fold.test).min()


def test_leaving_out_needs_three_groups():
    assert leave_one_out(np.array(["a", "a", "b"])) == []
    names = [fold.name["left_out"] for fold in leave_one_out(np.array(["a", "b", "c", "c"]))]
    assert names == ["a", "b", "c"]
