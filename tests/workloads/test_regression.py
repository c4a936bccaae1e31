"""Regression on a power-law spectrum: the claimed exponents are the exact ones, and training finds them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from workloads.base import BadInput
from workloads.regression import Regression

KEY = jax.random.key(0)
DATA_KEY = jax.random.key(1)
SMALL = Regression(width=16)


def spectrum(workload):
    """(eigenvalues, coefficients) of the first `width` features, in float64 and from the definition alone."""
    i = np.arange(1, workload.width + 1, dtype=np.float64)
    b = workload.target_exponent
    return i**-workload.spectrum_exponent, np.sqrt(np.r_[1.0, i[:-1] ** -b - i[1:] ** -b])


def features(workload, batch):
    """z of shape (batch, width), in float64: one after the other, as the module's docstring says."""
    b = workload.target_exponent
    _, c = spectrum(workload)
    left, variance, z = np.asarray(batch["signal"], np.float64), 2.0, []
    for i, g in enumerate(np.asarray(batch["innovations"], np.float64).T, start=1):
        after = float(i) ** -b
        z.append(c[i - 1] * left / variance + np.sqrt(after / variance) * g)
        left, variance = left - c[i - 1] * z[-1], after
    return np.stack(z, axis=1)


def optimum(workload):
    eigenvalues, coefficients = spectrum(workload)
    readout = (coefficients / np.sqrt(eigenvalues))[:, None] / workload.output_scale
    return {"readout": {"kernel": jnp.asarray(readout, jnp.float32)}}


def train(workload, optimizer, steps, data_key=DATA_KEY):
    """Risk after `steps` steps of fresh batches."""

    def step(carry, t):
        params, state = carry
        batch = workload.batch({}, data_key, t)
        gradient = jax.grad(lambda p: workload.loss(p, batch, KEY)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = workload.init(KEY)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
    return workload.evaluate(params, {}, "validation")["loss"]


def test_the_optimal_risk_follows_the_claimed_exponent_without_remainder():
    risks = []
    for width in (1, 16, 127):
        workload = dataclasses.replace(SMALL, width=width)
        _, coefficients = spectrum(workload)
        exact = 2.0 - np.sum(coefficients**2) + workload.noise_std**2  # the signal's variance is 2
        assert workload.optimal_loss() == pytest.approx(exact, rel=1e-12)
        assert jax.jit(workload.evaluate, static_argnums=2)(optimum(workload), {}, "test")["loss"] == pytest.approx(
            exact, rel=1e-5
        )
        risks.append(exact - workload.irreducible_loss)
    slopes = np.diff(np.log(risks)) / np.diff(np.log([1, 16, 127]))
    np.testing.assert_allclose(slopes, -SMALL.exponent_width(), rtol=1e-9)


@pytest.mark.parametrize("changes", [{}, {"target_exponent": 1.2, "spectrum_exponent": 0.7}, {"output_scale": 3.0}])
def test_the_population_risk_is_the_mean_of_the_batch_loss(changes):
    workload = dataclasses.replace(SMALL, batch_size=20_000, **changes)
    params = jax.tree.map(lambda w: 0.7 * w, optimum(workload))
    batch = jax.jit(workload.batch)({}, DATA_KEY, 0)
    residual = batch["target"] - 0.7 * features(workload, batch) @ spectrum(workload)[1]
    loss, _ = workload.loss(params, batch, KEY)
    standard_error = float(np.std(np.square(residual))) / 20_000**0.5
    assert abs(loss - workload.evaluate(params, {}, "test")["loss"]) < 4 * standard_error
    assert loss == pytest.approx(float(np.mean(np.square(residual))), rel=1e-4)


def test_batches_have_the_stated_spectrum():
    """Features are uncorrelated with unit variance, Gaussian up to fourth moments, and c is their covariance with y."""
    n = 50_000
    workload = dataclasses.replace(SMALL, batch_size=n, noise_std=0.5)
    batch = jax.jit(workload.batch)({}, DATA_KEY, 3)
    z, target = features(workload, batch), np.asarray(batch["target"], np.float64)
    np.testing.assert_allclose(z.T @ target / n, spectrum(workload)[1], atol=5 * (4.25 / n) ** 0.5)
    np.testing.assert_allclose(z.T @ z / n, np.eye(16), atol=5 * (2 / n) ** 0.5)
    np.testing.assert_allclose(np.mean(z**4, axis=0), 3.0, atol=5 * (96 / n) ** 0.5)
    np.testing.assert_allclose(np.mean(z[:, :-1] ** 2 * z[:, 1:] ** 2, axis=0), 1.0, atol=5 * (8 / n) ** 0.5)
    assert float(np.var(target)) == pytest.approx(2 + 0.25, rel=0.04)


@pytest.mark.parametrize(
    ("workload", "learning_rate", "steps", "seeds"),
    [
        (Regression(width=64, batch_size=8), 0.3, 150, 128),
        (Regression(width=8, batch_size=2), 0.2, 10, 20_000),  # where fourth moments matter
    ],
    ids=["wide", "noisy"],
)
def test_sgd_follows_the_exact_expected_loss(workload, learning_rate, steps, seeds):
    run = jax.jit(jax.vmap(lambda key: train(workload, optax.sgd(learning_rate), steps, key)))
    risk = np.asarray(run(jax.random.split(jax.random.key(2), seeds)), np.float64)
    expected = workload.expected_loss(steps, learning_rate)
    standard_error = risk.std(ddof=1) / seeds**0.5
    assert expected[0] == pytest.approx(2 + workload.noise_std**2)
    assert abs(risk.mean() - expected[-1]) < 4 * standard_error
    assert standard_error < 0.01 * expected[-1], "the interval is narrow enough to fail"


def test_the_risk_falls_with_steps_at_the_claimed_exponent():
    workload = Regression(width=4000, batch_size=10**6, noise_std=0.0)
    risk = workload.expected_loss(8000, learning_rate=0.2)
    steps = np.array([500, 1000, 2000, 4000, 8000])
    slope = np.polyfit(np.log(steps), np.log(risk[steps]), 1)[0]
    assert slope == pytest.approx(-workload.exponent_steps(), abs=0.01)


def test_training_recovers_the_width_exponent():
    widths = np.array([4, 16, 64])
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500))
    risks = []
    for width in widths:
        workload = dataclasses.replace(SMALL, width=int(width))
        risks.append(float(jax.jit(lambda w=workload: train(w, optimizer, 1500))()))
        assert workload.optimal_loss() < risks[-1] < 1.03 * workload.optimal_loss()
    slope = np.polyfit(np.log(widths), np.log(np.array(risks) - SMALL.irreducible_loss), 1)[0]
    assert slope == pytest.approx(-SMALL.exponent_width(), abs=0.02)


def test_batches_depend_on_key_and_step_and_not_on_width():
    draw = jax.jit(lambda workload, key, step: workload.batch({}, key, step), static_argnums=0)
    batch, wide = draw(SMALL, DATA_KEY, 5), draw(dataclasses.replace(SMALL, width=100), DATA_KEY, 5)
    np.testing.assert_array_equal(batch["innovations"], wide["innovations"][:, :16])
    np.testing.assert_array_equal(batch["target"], wide["target"])
    np.testing.assert_array_equal(batch["signal"], wide["signal"])
    assert batch["innovations"].shape == (16, 16)
    assert batch["target"].shape == batch["signal"].shape == (16,)
    for other in (draw(SMALL, DATA_KEY, 6), draw(SMALL, KEY, 5)):
        assert (batch["target"] != other["target"]).all()


def test_floats_are_traced_and_share_one_program():
    traces = []

    @jax.jit
    def risk(alpha, b, sigma, scale):
        traces.append(1)
        traced = dataclasses.replace(
            SMALL, spectrum_exponent=alpha, target_exponent=b, noise_std=sigma, output_scale=scale
        )
        batch = traced.batch({}, DATA_KEY, 0)
        params = {"readout": {"kernel": jnp.ones((16, 1))}}
        return traced.loss(params, batch, KEY)[0], traced.evaluate(params, {}, "test")

    for values in [(1.5, 0.5, 0.2, 1.0), (1.1, 0.9, 0.0, 0.5)]:
        loss, scores = risk(*values)
        assert np.isfinite(loss)
        assert set(scores) == {"loss", "excess_risk"}
        assert float(scores["loss"] - scores["excess_risk"]) == pytest.approx(values[2] ** 2, abs=1e-5)
    assert len(traces) == 1


def test_the_start_is_the_trivial_predictor_with_a_finite_gradient():
    params = SMALL.init(KEY)
    assert jax.tree.map(jnp.shape, params) == {"readout": {"kernel": (16, 1)}}
    assert SMALL.evaluate(params, {}, "validation")["loss"] == pytest.approx(2 + SMALL.noise_std**2, rel=1e-5)
    batch = SMALL.batch({}, DATA_KEY, 0)
    gradient = jax.grad(lambda p: SMALL.loss(p, batch, KEY)[0])(params)["readout"]["kernel"]
    assert np.isfinite(gradient).all()
    assert (gradient != 0).all()


def test_facts():
    data = SMALL.load()
    assert dict(data.arrays) == {}
    assert data.examples > 10**12
    assert SMALL.matmul_flops() == 4 * 16 * 16
    assert (SMALL.metric.name, SMALL.metric.direction) == ("excess_risk", "minimize")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 2}, "use workload.depth=1"),
        ({"width": 0}, "workload.width"),
        ({"spectrum_exponent": 0.0}, "workload.spectrum_exponent"),
        ({"target_exponent": float("nan")}, "workload.target_exponent"),
        ({"noise_std": -0.1}, "workload.noise_std"),
    ],
)
def test_bad_fields_are_named(changes, message):
    SMALL.validate()
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(SMALL, **changes).validate()
