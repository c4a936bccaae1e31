"""What is known of the learning-curve laws: the equations they solve, their limits, and their derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.laws import Objective, PowerLaw, PowerLawOffset
from harness.laws.bnsl import BrokenNeuralScalingLaw
from harness.laws.fitting.solver import predict
from harness.laws.m3 import M3
from harness.laws.m4 import M4, logit_share

N = np.geomspace(1e4, 1e10, 25)
M4_TRUTH = {"e_inf": 0.3, "span": 2.0, "a": 1.6, "b": 3e3, "c": -0.6}


def response(law, sizes=N, **params):
    theta = np.array([kind.internal(params[name]) for name, kind in law.parameters.items()])
    return np.exp(predict(law, Objective(), {"N": sizes}, theta[None])[0])


def test_m1_is_power_law():
    np.testing.assert_allclose(response(PowerLaw(), A=7.0, alpha=0.2), 7.0 * N**-0.2, rtol=1e-13)


def test_m2_is_power_law_offset():
    np.testing.assert_allclose(response(PowerLawOffset(), E=0.4, A=7.0, alpha=0.2), 0.4 + 7.0 * N**-0.2, rtol=1e-13)


def test_m3_is_its_equation_and_m1_without_a_plateau():
    np.testing.assert_allclose(response(M3(), b=20.0, g=1e-7, c=0.3), 20.0 * (1 / N + 1e-7) ** 0.3, rtol=1e-13)
    np.testing.assert_allclose(
        response(M3(), b=20.0, g=1e-30, c=0.3), response(PowerLaw(), A=20.0, alpha=0.3), rtol=1e-12
    )


@pytest.mark.parametrize("a", [1e-3, 0.1, 1.0, 1.6, 30.0])
def test_m4_solves_its_equation(a):
    truth = {**M4_TRUTH, "a": a}
    y = response(M4(), **truth)
    e_0 = truth["e_inf"] + truth["span"]
    inside = (y - truth["e_inf"] > 1e-9) & (e_0 - y > 1e-9)  # elsewhere the differences cancel
    left = np.log(y[inside] - truth["e_inf"]) - a * np.log(e_0 - y[inside])
    assert inside.sum() >= 5
    np.testing.assert_allclose(left, np.log(truth["b"] * N[inside] ** truth["c"]), atol=1e-6 * (1 + a))
    assert (np.diff(y) <= 0).all()


def test_m4_with_a_one_is_a_logistic_curve_in_log_size():
    power = 3e3 * N**-0.6
    np.testing.assert_allclose(response(M4(), **{**M4_TRUTH, "a": 1.0}), 0.3 + 2.0 * power / (1 + power), rtol=1e-12)


def test_m4_with_a_distant_ceiling_is_m2():
    span, a = 1e9, 0.7
    y = response(M4(), e_inf=0.4, span=span, a=a, b=7.0 * span**-a, c=-0.2)
    np.testing.assert_allclose(y, response(PowerLawOffset(), E=0.4, A=7.0, alpha=0.2), rtol=1e-8)


def test_m4_goes_from_its_ceiling_to_its_floor():
    y = response(M4(), np.array([1e-15, 1e30]), **M4_TRUTH)
    np.testing.assert_allclose(y, [2.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize("a", [1e-3, 0.05, 0.99, 1.0, 3.0, 30.0])
def test_m4_is_solved_everywhere(a):
    height = np.linspace(-100, 100, 2001)
    with jax.enable_x64(True):
        u = np.asarray(logit_share(jnp.asarray(height), jnp.asarray(a)))
    np.testing.assert_allclose(a * np.logaddexp(0, u) - np.logaddexp(0, -u), height, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("a", [0.02, 0.5, 1.6])
def test_m4_first_and_second_derivatives_are_right(a):
    law = M4()
    theta = np.array([kind.internal({**M4_TRUTH, "a": a}[name]) for name, kind in law.parameters.items()])
    with jax.enable_x64(True):

        @jax.jit
        def value(t):
            return law.log_loss(law.unpack(t), N=jnp.asarray(N[::6]))

        first, second = jax.jit(jax.jacfwd(value)), jax.jit(jax.jacfwd(jax.jacfwd(value)))
        for i, unit in enumerate(np.eye(5)):
            slope = (np.asarray(value(theta + 1e-5 * unit)) - np.asarray(value(theta - 1e-5 * unit))) / 2e-5
            np.testing.assert_allclose(np.asarray(first(theta))[:, i], slope, rtol=1e-6, atol=1e-8)
            bend = (np.asarray(first(theta + 1e-5 * unit)) - np.asarray(first(theta - 1e-5 * unit))) / 2e-5
            np.testing.assert_allclose(np.asarray(second(theta))[:, :, i], bend, rtol=1e-5, atol=1e-8)


def test_broken_law_is_its_equation_and_turns_at_the_break():
    y = response(BrokenNeuralScalingLaw(), a=0.5, b=30.0, c0=0.2, c1=0.3, d1=1e6, f1=0.5)
    np.testing.assert_allclose(y, 0.5 + 30 * N**-0.2 * (1 + (N / 1e6) ** 2) ** -0.15, rtol=1e-12)
    slope = np.diff(np.log(y - 0.5)) / np.diff(np.log(N))
    np.testing.assert_allclose(slope[[0, -1]], [-0.2, -0.5], atol=1e-3)


@pytest.mark.parametrize("law", [M3(), M4(), BrokenNeuralScalingLaw()], ids=lambda law: law.name)
def test_starts_are_finite_and_as_many_for_any_data(law):
    rng = np.random.default_rng(0)
    flat, rising = np.full(6, 0.7) * np.exp(1e-3 * rng.normal(size=6)), np.linspace(0.1, 0.9, 6)
    counts = set()
    for loss in (flat, rising, rising[::-1], 1e-6 * flat):
        starts = law.start_points({"N": N[:6]}, loss)
        assert np.isfinite(starts).all()
        counts.add(starts.shape)
    assert len(counts) == 1
