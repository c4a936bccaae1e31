"""Known facts of the laws of size and data: limits, relations to each other, numbers that the papers state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.laws import Objective
from harness.laws.chinchilla import Chinchilla
from harness.laws.data_constrained import DataConstrained, log_effective
from harness.laws.fitting.solver import predict
from harness.laws.kaplan import Kaplan
from harness.laws.linear_terms import log_coefficients
from harness.laws.over_training import OverTraining

KAPLAN = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}  # Kaplan et al. 2020, table 2
PUBLISHED = {  # the fit released with Muennighoff et al. 2023
    "E": np.exp(0.6254804),
    "A": np.exp(6.255414),
    "B": np.exp(7.3049974),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}


def value(law, params, **columns):
    """The law's losses at natural parameters; columns are numbers or arrays."""
    columns = dict(zip(columns, np.broadcast_arrays(*map(np.atleast_1d, columns.values())), strict=True))
    theta = np.array([kind.internal(params[name]) for name, kind in law.parameters.items()])
    return np.exp(predict(law, Objective(), law.features(columns), theta[None])[0])


def test_kaplan_with_unlimited_data_or_size_is_a_power_law():
    size, data = np.array([1e6, 1e9]), np.array([1e8, 1e11])
    np.testing.assert_allclose(value(Kaplan(), KAPLAN, N=size, D=1e40), (6.4e13 / size) ** 0.076, rtol=1e-9)
    np.testing.assert_allclose(value(Kaplan(), KAPLAN, N=1e50, D=data), (1.8e13 / data) ** 0.103, rtol=1e-9)


def test_kaplan_two_percent_overfitting_at_the_paper_s_data_size():
    """Kaplan et al. 2020, eq. 4.4: to stay within the 2% of seed noise D must exceed about 5e3 N^0.74."""
    size = np.array([1e7, 1e9])
    limited, unlimited = (value(Kaplan(), KAPLAN, N=size, D=data) for data in (5e3 * size**0.74, 1e40))
    np.testing.assert_allclose(limited / unlimited - 1, 0.02, atol=0.003)


def test_over_training_is_chinchilla_with_one_exponent():
    p = {"E": 1.8, "a": 500.0, "b": 2400.0, "eta": -0.35}
    size, multiplier = np.array([1e7, 1e8, 1e9]), np.array([5.0, 80.0, 640.0])
    tied = {"E": 1.8, "A": 500.0, "alpha": 0.35, "beta": 0.35, "B": 2400.0 * 6**-0.175}
    expected = value(Chinchilla(), tied, N=size, D=size * multiplier)
    np.testing.assert_allclose(value(OverTraining(), p, N=size, M=multiplier), expected, rtol=1e-12)


def test_over_training_is_the_paper_s_form_in_compute_and_multiplier():
    p = {"E": 1.8, "a": 500.0, "b": 2400.0, "eta": -0.35}
    size, multiplier = np.array([1e7, 1e8, 1e9]), np.array([5.0, 80.0, 640.0])
    compute, h = 6 * size**2 * multiplier, 0.175
    a, b = 500.0 * 6**h, 2400.0
    paper = 1.8 + (a * multiplier**h + b * multiplier**-h) * compute**-h
    np.testing.assert_allclose(value(OverTraining(), p, N=size, M=multiplier), paper, rtol=1e-12)


def test_data_constrained_gives_the_authors_own_numbers():
    found = value(DataConstrained(), PUBLISHED, N=np.array([6.34e9, 8.67e9]), D=np.array([242e9, 178e9]), U=25e9)
    np.testing.assert_allclose(found, [2.2256440889984477, 2.2269634075087867], rtol=1e-9)


def test_unique_data_and_small_models_are_chinchilla():
    size, data = np.array([1e8, 1e9]), np.array([1e11, 1e12])
    expected = value(Chinchilla(), PUBLISHED, N=size, D=data)
    for unique in (data, 50 * data):
        np.testing.assert_allclose(value(DataConstrained(), PUBLISHED, N=size, D=data, U=unique), expected, rtol=1e-12)


def test_parameters_beyond_the_compute_optimal_ones_saturate():
    """Endless parameters are worth 1 + R* times U_N, the optimum for U tokens of Hoffmann et al. 2022, eq. 4."""
    p, unique = {**PUBLISHED, "alpha": 0.3, "beta": 0.4}, 1e10
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    product = (g * unique) ** ((p["alpha"] + p["beta"]) / p["alpha"])  # N D of the budget whose optimal D is U
    enough = g * product ** (p["beta"] / (p["alpha"] + p["beta"]))
    assert enough * unique == pytest.approx(product, rel=1e-9)
    expected = p["E"] + p["A"] * (6.309743 * enough) ** -0.3 + p["B"] * unique**-0.4
    for available in (unique, 50 * unique):
        found = value(DataConstrained(), p, N=1e25, D=unique, U=available)
        assert found[0] == pytest.approx(expected, rel=1e-9), "tokens that are never seen change nothing"


def test_repeats_are_worth_what_the_paper_says():
    """Four epochs are worth almost as much as new data, forty are not; endless ones are worth 1 + R* epochs in all."""

    def worth(epochs):
        with jax.enable_x64(True):
            return float(jnp.exp(log_effective(jnp.log(1e9 * epochs), jnp.log(1e9), jnp.asarray(15.387756))) / 1e9)

    assert worth(1.0) == pytest.approx(1.0, rel=1e-12)
    assert worth(4.0) == pytest.approx(1 + 15.387756 * (1 - np.exp(-3 / 15.387756)), rel=1e-9)
    assert worth(4.0) > 0.93 * 4
    assert worth(40.0) < 0.5 * 40
    assert worth(1e6) == pytest.approx(16.387756, rel=1e-9)


@pytest.mark.parametrize("unique", [1e-30, 1e30])
@pytest.mark.parametrize("worth", [1e-2, 1e4])
def test_extreme_data_have_finite_derivatives(unique, worth):
    law, params = DataConstrained(), {**PUBLISHED, "R_D": worth, "R_N": worth}
    theta = np.array([kind.internal(params[name]) for name, kind in law.parameters.items()])
    with jax.enable_x64(True):
        features = law.features({"N": np.array([1.0, 1e30]), "D": np.array([1e30, 1.0]), "U": np.full(2, unique)})

        def log_loss(t):
            return law.log_loss(law.unpack(t), **features)

        assert np.isfinite(jax.jacfwd(log_loss)(jnp.asarray(theta))).all()
        assert np.isfinite(jax.jacfwd(jax.jacfwd(log_loss))(jnp.asarray(theta))).all()


def test_linear_coefficients_are_positive_and_scale_free():
    x = np.geomspace(1, 1e4, 9)
    terms = np.stack([np.zeros(9), -0.5 * np.log(x), np.log(x) / 3], axis=1)
    found = log_coefficients(terms, 2.0 + 3.0 * x**-0.5)
    np.testing.assert_allclose(np.exp(found[:2]), [2, 3], rtol=1e-6)
    assert np.exp(found[2] + terms[:, 2]).max() == pytest.approx(1e-4 * 2.03, rel=0.01), "a term that is not there"
    scaled = log_coefficients(terms + 7.0, 1e5 * (2.0 + 3.0 * x**-0.5))
    np.testing.assert_allclose(scaled, found + np.log(1e5) - 7.0, rtol=1e-9)
