"""L(N, S, B): the implicit loss, its derivatives, its limits, and what one batch size cannot tell."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.optimize import brentq

from harness.laws import Objective, fit
from harness.laws.fitting.solver import jacobian, predict
from harness.laws.min_steps import MinSteps
from harness.laws.time_batch import TimeBatch, critical_batch_at, least_compute, least_steps, trajectory
from tests.laws.rows.time_batch import ROWS
from workloads.base import BadInput

LAW, TRUTH = TimeBatch(), dict(ROWS["time_batch"].truth)
COLUMNS = dict(ROWS["time_batch"].columns)
NOISE = np.random.default_rng(0).normal(size=COLUMNS["N"].size)


def internal(params, law=LAW):
    return np.array([kind.internal(params[name]) for name, kind in law.parameters.items()])


def losses(columns, params=TRUTH):
    return np.exp(predict(LAW, Objective(), columns, internal(params)[None])[0])


@jax.jit
def hessian(theta, columns):
    return jax.hessian(lambda t: LAW.log_loss(LAW.unpack(t), **columns)[0])(theta)


def root(theta, n, s, b):
    """log L by bracketing, in plain Python."""
    p = dict(zip(LAW.parameters, np.exp(theta), strict=True))

    def miss(x):
        least = s / (1 + p["B_star"] * np.exp(-x / p["a_B"]) / b)
        return x - np.log((p["N_c"] / n) ** p["a_N"] + (p["S_c"] / least) ** p["a_S"])

    return brentq(miss, -20, 60, xtol=1e-14, rtol=1e-14)


def test_the_loss_solves_its_equation():
    loss = losses(COLUMNS)
    least = least_steps(TRUTH, COLUMNS["S"], COLUMNS["B"], loss)
    explicit = (TRUTH["N_c"] / COLUMNS["N"]) ** TRUTH["a_N"] + (TRUTH["S_c"] / least) ** TRUTH["a_S"]
    np.testing.assert_allclose(loss, explicit, rtol=1e-12)


@pytest.mark.parametrize("batch", [1.0, 3e5, 1e12])
@pytest.mark.parametrize("a_b", [0.05, 0.21, 2.0])
def test_first_and_second_derivatives_are_those_of_the_root(batch, a_b):
    theta, point = internal({**TRUTH, "a_B": a_b}), (1e8, 1e4, batch)
    columns = {k: np.array([v]) for k, v in zip("NSB", point, strict=True)}
    analytic = jacobian(LAW, Objective(), columns, theta)[0]
    step, eye = 1e-5, np.eye(theta.size)
    first = [(root(theta + step * e, *point) - root(theta - step * e, *point)) / (2 * step) for e in eye]
    np.testing.assert_allclose(analytic, first, rtol=1e-6, atol=1e-8)
    with jax.enable_x64(True):
        second = np.asarray(hessian(theta, columns))
    numeric = [
        (jacobian(LAW, Objective(), columns, theta + step * e) - jacobian(LAW, Objective(), columns, theta - step * e))[
            0
        ]
        / (2 * step)
        for e in eye
    ]
    np.testing.assert_allclose(second, numeric, rtol=1e-5, atol=1e-6)


def test_an_infinite_batch_is_the_law_of_least_steps():
    columns = {**COLUMNS, "B": np.full_like(COLUMNS["B"], 1e30)}
    least = {k: TRUTH[k] for k in MinSteps.parameters}
    expected = predict(
        MinSteps(), Objective(), {"N": columns["N"], "S_min": columns["S"]}, internal(least, MinSteps())[None]
    )[0]
    np.testing.assert_allclose(np.log(losses(columns)), expected, rtol=1e-12)


def test_the_published_numbers():
    """Kaplan et al. 2020, sect. 5.1: at B_crit twice the least steps and twice the least compute are spent."""
    loss = 3.0
    batch = critical_batch_at(TRUTH, loss)
    assert batch == pytest.approx(2.1e8 / 3.0 ** (1 / 0.21))
    assert least_steps(TRUTH, 1e4, batch, loss) == pytest.approx(5e3)
    assert least_compute(TRUTH, 1.0, batch, loss) == pytest.approx(0.5)


def test_extreme_values_stay_finite():
    columns = {"N": np.array([1.0, 1e15, 1e8]), "S": np.array([1.0, 1e12, 1e-3]), "B": np.array([1e-9, 1e25, 1.0])}
    for a_b in (0.02, 5.0):
        theta = internal({**TRUTH, "a_B": a_b})
        assert np.isfinite(predict(LAW, Objective(), columns, theta[None])).all()
        assert np.isfinite(jacobian(LAW, Objective(), columns, theta)).all()


def test_one_batch_size_is_refused():
    one = {**COLUMNS, "B": np.full_like(COLUMNS["B"], 3e5)}
    with pytest.raises(BadInput, match="same B"):
        fit(LAW, one, losses(one))


def near(batch, steps, noise):
    """The identifiability report of curves at batches within 0.5% of one."""
    columns = {**COLUMNS, "S": steps * COLUMNS["S"], "B": batch * (COLUMNS["B"] / 3e5) ** 1e-3}
    return fit(LAW, columns, losses(columns) * np.exp(noise * NOISE), bootstrap=100).identifiable


def test_one_batch_below_the_critical_one_tells_only_the_product_of_two_scales():
    report = near(1e4, 10.0, 3e-3)
    assert not report.ok
    assert set(report.loose) == {"S_c", "B_star"}
    flat = report.flat_direction
    assert flat["log_S_c"] == pytest.approx(-flat["log_B_star"], rel=0.2)
    assert max(abs(flat[k]) for k in ("log_N_c", "log_a_N", "log_a_S", "log_a_B")) < 0.1


def test_one_batch_above_the_critical_one_does_not_tell_it():
    report = near(1e9, 1.0, 1e-4)
    assert {"B_star", "a_B"} <= set(report.loose)
    assert not {"N_c", "a_N", "S_c", "a_S"} & set(report.loose)


def test_three_batch_sizes_predict_the_whole_curve_of_a_fourth():
    fitted = fit(LAW, COLUMNS, losses(COLUMNS) * np.exp(1e-4 * NOISE), bootstrap=100)
    assert fitted.identifiable.ok
    steps = np.geomspace(3e3, 1e5, 20)
    curve = trajectory(fitted, 3e7, 1e6, steps)
    truth = losses({"N": np.full(20, 3e7), "S": steps, "B": np.full(20, 1e6)})
    np.testing.assert_allclose(curve.mean, truth, rtol=5e-4)
    assert np.mean((curve.low <= truth) & (truth <= curve.high)) >= 0.9


def test_an_exactly_flat_direction_is_not_identifiable_however_tight_the_refits():
    """All batches far below the critical one: only S_c B_star matters."""
    columns = {**COLUMNS, "S": COLUMNS["S"] * 1e5, "B": 3.0 * (1 + 0.005 * np.linspace(-1, 1, COLUMNS["B"].size))}
    noise = np.exp(1e-4 * np.random.default_rng(0).normal(size=COLUMNS["B"].size))
    found = fit(LAW, columns, losses(columns) * noise, bootstrap=100)
    assert not found.identifiable.ok
    assert {"S_c", "B_star"} <= set(found.identifiable.loose)
    assert any("mean nothing" in w for w in found.warnings)
