"""Curvature: against dense Hessians, matrices with known spectra, and the optimizers themselves."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from harness.optimizers import OPTIMIZERS
from harness.transfer import sharpness
from harness.transfer.sharpness import hessian, top_eigenpairs
from tests.trials import LM
from workloads.base import BadInput

KEY = jax.random.key(0)
K = 5
ANYWHERE = np.float32(np.random.default_rng(9).normal(size=40))


class Trained(NamedTuple):
    """A language model after 20 and 40 steps of Adam, its optimizer state, and a fixed batch."""

    early: object
    late: object
    state: object
    probe: object


@pytest.fixture(scope="module")
def trained():
    data = {name: jnp.asarray(array) for name, array in LM.load().arrays.items()}
    adam = optax.adam(1e-2)

    def step(carry, i):
        params, state = carry
        grads = jax.grad(lambda p: LM.loss(p, LM.batch(data, KEY, i), KEY)[0])(params)
        updates, state = adam.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry, start: jax.lax.scan(step, carry, start + jnp.arange(20))[0])
    params = LM.init(KEY)
    early, state = train((params, adam.init(params)), 0)
    late, state = train((early, state), 20)
    return Trained(early, late, state, LM.batch(data, jax.random.key(1), jnp.int32(0)))


@pytest.fixture(scope="module")
def dense(trained):
    """The Hessian of the late model, (n, n) float64."""
    flat, unravel = ravel_pytree(trained.late)
    gradient = jax.grad(lambda x: LM.loss(unravel(x), trained.probe, KEY)[0])
    matrix = np.asarray(jax.jit(jax.jacfwd(gradient))(flat), np.float64)
    return (matrix + matrix.T) / 2


@partial(jax.jit, static_argnames="steps")
def language_model_spectrum(params, probe, start, preconditioner, steps):
    operator = hessian(lambda p: LM.loss(p, probe, KEY)[0], params, preconditioner)
    return top_eigenpairs(operator, KEY, k=K, steps=steps, start=start)


def ones(params):
    return jax.tree.map(jnp.ones_like, params)


def random_vectors(params):
    return jax.tree.map(lambda p: jax.random.normal(KEY, (1, *p.shape)), params)


def matrix(values, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors in columns."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return (basis * np.asarray(values)) @ basis.T, basis


def quadratic(a):
    """Operator of x'Ax / 2 where x is a tree."""
    params = {"a": jnp.ones(a.shape[0] - 2, a.dtype), "b": {"c": jnp.ones((2, 1), a.dtype)}}

    def loss(p):
        x = ravel_pytree(p)[0]
        return x @ a @ x / 2

    return hessian(loss, params)


@partial(jax.jit, static_argnames=("k", "steps"))
def eigenpairs(a, start, k, steps):
    """Eigenpairs of a dense matrix; start (n,)."""
    operator = quadratic(a)
    return top_eigenpairs(operator, KEY, k=k, steps=steps, start=jax.vmap(operator.unravel)(start[None]))


def columns(vectors):
    """(n, k) from a tree with a leading axis k."""
    return np.asarray(jax.vmap(lambda v: ravel_pytree(v)[0])(vectors)).T


def test_lanczos_agrees_with_a_dense_hessian(trained, dense):
    found = language_model_spectrum(trained.late, trained.probe, random_vectors(trained.late), ones(trained.late), 100)
    values = np.linalg.eigvalsh(dense)[::-1][:K]
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-4)
    v = columns(found.vectors)
    np.testing.assert_allclose(v.T @ v, np.eye(K), atol=1e-5)
    assert np.linalg.norm(dense @ v - v * values, axis=0).max() < 1e-3 * values[0]
    assert np.all(found.residuals < 1e-4 * values[0])


def test_preconditioned_sharpness_agrees_with_a_dense_hessian(trained, dense):
    diagonal = sharpness.adam_preconditioner(trained.state, b2=0.999)
    found = language_model_spectrum(trained.late, trained.probe, random_vectors(trained.late), diagonal, 100)
    p = np.asarray(ravel_pytree(diagonal)[0], np.float64)
    values = np.linalg.eigvals(dense / p[:, None]).real
    np.testing.assert_allclose(found.eigenvalues, np.sort(values)[::-1][:K], rtol=1e-4)


def test_monitoring_from_the_vectors_of_20_steps_before(trained, dense):
    before = language_model_spectrum(
        trained.early, trained.probe, random_vectors(trained.early), ones(trained.early), 100
    )
    now = language_model_spectrum(
        trained.late, trained.probe, before.vectors, ones(trained.late), sharpness.MONITOR_STEPS
    )
    value = np.linalg.eigvalsh(dense)[-1]
    assert abs(before.eigenvalues[0] / value - 1) > 0.05  # there was something to follow
    np.testing.assert_allclose(now.eigenvalues[0], value, rtol=0.02)
    assert now.residuals[0] < 0.02 * value


SPECTRA = {
    "one outlier": [1000.0, *np.linspace(0, 1, 39)],
    "negative": [*np.linspace(-50, 2, 40)],
    "cluster at the top": [10.0, 9.999, 9.99, *np.linspace(0, 5, 37)],
    "repeated": [3.0, 3.0, 3.0, *([1.0] * 37)],
    "zero": [0.0] * 40,
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name):
    """As many steps as parameters find every eigenvalue as often as it occurs, without ghosts."""
    values = np.sort(SPECTRA[name])[::-1]
    found = eigenpairs(np.float32(matrix(values)[0]), ANYWHERE, 40, 1000)
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-5 * max(1, np.abs(values).max()))
    v = columns(found.vectors)
    np.testing.assert_allclose(v.T @ v, np.eye(40), atol=1e-5)


def test_float64_is_exact_to_its_own_precision():
    values = np.sort(np.random.default_rng(1).normal(size=40))[::-1]
    with jax.enable_x64(True):
        found = eigenpairs(matrix(values)[0], np.float64(ANYWHERE), 40, 40)
        assert found.eigenvalues.dtype == jnp.float64
        np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-12, atol=1e-13)


def test_residuals_are_those_of_the_vectors():
    a, _ = matrix(np.linspace(0, 1, 40))
    found = eigenpairs(np.float32(a), ANYWHERE, 2, 8)
    v = columns(found.vectors)
    truth = np.linalg.norm(a @ v - v * np.asarray(found.eigenvalues), axis=0)
    assert truth.min() > 0.005  # not converged, and it says so
    np.testing.assert_allclose(found.residuals, truth, rtol=1e-3)


def test_warm_start_saves_products():
    a, basis = matrix([1.05, *np.linspace(0, 1, 39)])
    near = basis[:, 0] + 0.05 * np.random.default_rng(2).normal(size=40)
    warm, cold = (eigenpairs(np.float32(a), np.float32(start), 2, 8).eigenvalues[0] for start in (near, ANYWHERE))
    assert abs(warm - 1.05) < abs(cold - 1.05) / 3


def test_warm_start_finds_a_direction_that_has_become_the_sharpest():
    """Products of the old vector alone never reach it: the matrix is diagonal and the vector has no part along it."""
    values = np.float32([*np.linspace(0, 1, 38), 1.5, 2.0])
    stale = np.float32([*np.full(38, 0.05), 1.0, 0.0])
    found = eigenpairs(np.diag(values), stale, 2, 8)
    np.testing.assert_allclose(found.eigenvalues[0], 2.0, rtol=0.02)


def test_lanczos_maps_over_trials():
    stacked = jnp.asarray(np.stack([matrix([scale, *np.linspace(0, 1, 39)])[0] for scale in (2.0, 7.0)]), jnp.float32)
    found = jax.jit(jax.vmap(lambda a: top_eigenpairs(quadratic(a), KEY, steps=20).eigenvalues[0]))(stacked)
    np.testing.assert_allclose(found, [2.0, 7.0], rtol=1e-5)


def test_trace_of_known_matrices():
    """Unbiased with an honest standard error: the variance of one probe is 2 sum_{i != j} a_ij^2."""
    a, _ = matrix(np.linspace(-1, 3, 40))
    estimate = jax.jit(lambda a, keys: jax.lax.map(lambda key: sharpness.trace(quadratic(a), key, 16), keys))
    found = estimate(np.float32(a), jax.random.split(KEY, 40))
    errors = (found.value - 40.0) / found.stderr
    assert abs(errors.mean()) < 4 / np.sqrt(40)
    assert 0.7 < errors.std() < 1.5
    off_diagonal = a - np.diag(np.diag(a))
    np.testing.assert_allclose(np.mean(found.stderr), np.sqrt(2 * np.sum(off_diagonal**2) / 16), rtol=0.15)
    diagonal = estimate(np.diag(np.arange(40, dtype=np.float32)), jax.random.split(KEY, 40))
    np.testing.assert_allclose(diagonal.value, 780.0, rtol=1e-6)
    np.testing.assert_allclose(diagonal.stderr, 0.0, atol=1e-3)


def test_quadrature_has_the_moments_and_the_mass_of_the_spectrum():
    values = np.concatenate([np.full(30, 5.0), np.linspace(-1, 1, 270)])
    a, _ = matrix(values)
    found = jax.jit(lambda a: sharpness.spectral_quadrature(quadratic(a), KEY, probes=16, steps=20))(np.float32(a))
    assert found.nodes.shape == (16, 20)
    for power, tolerance in ((0, 1e-5), (1, 0.1), (2, 0.1)):
        np.testing.assert_allclose(jnp.sum(found.counts * found.nodes**power), np.sum(values**power), rtol=tolerance)
    grid = jnp.linspace(-3, 8, 2000)
    density = sharpness.spectral_density(found, grid, 0.1)
    spacing = grid[1] - grid[0]
    np.testing.assert_allclose(jnp.sum(density) * spacing, 300, rtol=1e-3)
    np.testing.assert_allclose(jnp.sum(density[grid > 3]) * spacing, 30, rtol=0.15)


def test_batch_sharpness_of_least_squares():
    rng = np.random.default_rng(3)
    x, theta = rng.normal(size=(6, 4, 10)), rng.normal(size=10)
    h = np.einsum("bni,bnj->bij", x, x) / 4
    g = h @ theta
    ratios = np.einsum("bi,bij,bj->b", g, h, g) / np.sum(g**2, axis=1)

    def loss(params, batch):
        return jnp.mean((batch @ params["w"]) ** 2) / 2

    params, batches = {"w": jnp.asarray(theta, jnp.float32)}, jnp.asarray(x, jnp.float32)
    found = jax.jit(lambda p, b: sharpness.batch_sharpness(loss, p, b))(params, batches)
    np.testing.assert_allclose(found, (ratios.mean(), ratios.std(ddof=1) / np.sqrt(6)), rtol=1e-4)
    one = sharpness.batch_sharpness(loss, params, batches[:1])
    assert np.isfinite(one.value)
    assert np.isnan(one.stderr)


@pytest.mark.parametrize("name", ["adam", "adamw", "nadamw"])
def test_adam_preconditioner_is_what_optax_divides_by(name):
    """Without momentum Adam's update is -eta g / P."""
    optimizer = OPTIMIZERS[name](learning_rate=0.1, b1=0.0, b2=0.9, eps=1e-3)
    chain = optax.chain(optax.clip_by_global_norm(1e3), optimizer.build(0.1))
    params = {"w": jnp.ones(3), "u": jnp.ones((2, 2))}
    state = chain.init(params)
    for scale in (1.0, -2.0, 0.5):
        grads = {"w": scale * jnp.arange(1.0, 4.0), "u": scale * jnp.full((2, 2), 0.1)}
        updates, state = chain.update(grads, state, params)
    found = sharpness.adam_preconditioner(state, b2=0.9, eps=1e-3)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5), found, jax.tree.map(lambda g, u: -0.1 * g / u, grads, updates)
    )
    scaled = sharpness.adam_preconditioner(state, b2=0.9, eps=1e-3, lr_scale={"w": 2.0, "u": 1.0})
    np.testing.assert_allclose(scaled["w"], found["w"] / 2)
    np.testing.assert_allclose(scaled["u"], found["u"])


def test_bad_input_names_the_fix():
    operator = quadratic(jnp.eye(5))
    params = {"w": jnp.ones(3)}
    with pytest.raises(BadInput, match="1 <= k <= 5"):
        top_eigenpairs(operator, KEY, k=6)
    with pytest.raises(BadInput, match="at least 2"):
        sharpness.trace(operator, KEY, 1)
    with pytest.raises(BadInput, match="at least 1"):
        sharpness.spectral_quadrature(operator, KEY, probes=0)
    for transform in (optax.sgd(0.1), optax.chain(optax.scale_by_adam(), optax.scale_by_adam())):
        with pytest.raises(BadInput, match="exactly one"):
            sharpness.adam_preconditioner(transform.init(params), b2=0.999)
    with pytest.raises(BadInput, match="positive"):
        sharpness.steps_between(1.0, 0.0)


def test_the_interval_keeps_the_share():
    steps = sharpness.steps_between(0.15, 0.0041)
    assert 0.15 / (steps * 0.0041) <= sharpness.MONITOR_SHARE < 0.15 / ((steps - 1) * 0.0041)
    assert sharpness.steps_between(1e-9, 1.0) == 1
