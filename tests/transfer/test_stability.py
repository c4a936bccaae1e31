"""Stability bounds: each optimizer run on quadratics just below and just above its bound."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.optimizers import OPTIMIZERS
from harness.transfer import stability
from workloads.base import BadInput

LEARNING_RATE = 0.1
MARGIN = 0.02
START = 1e-15  # so small that the eps of 1 below is all of Adam's preconditioner

ROWS = {
    "gradient descent": OPTIMIZERS["sgd"](),
    "heavy ball": OPTIMIZERS["sgd"](momentum=0.5),
    "heavy ball 0.9": OPTIMIZERS["momentum"](),
    "nesterov": OPTIMIZERS["nesterov"](momentum=0.5),
    "nesterov 0.9": OPTIMIZERS["nesterov"](),
    "adam": OPTIMIZERS["adam"](eps=1.0),
    "adam 0.5": OPTIMIZERS["adam"](eps=1.0, b1=0.5),
    "adamw": OPTIMIZERS["adamw"](eps=1.0, weight_decay=1e-6),
    "nadam": OPTIMIZERS["nadam"](eps=1.0),
    "nadamw 0.5": OPTIMIZERS["nadamw"](eps=1.0, b1=0.5, weight_decay=1e-6),
}


def growth(optimizer, curvature):
    """log10 of how much x (c,) grows in 50 steps on sum(curvature x^2) / 2, late in training (no bias correction)."""
    transform = optimizer.build(LEARNING_RATE)

    def step(carry, _):
        x, state = carry
        updates, state = transform.update(curvature * x, state, x)
        return (x + updates, state), x

    x = jnp.full(curvature.shape, START)
    state = jax.tree.map(lambda leaf: leaf + 1_000_000 if leaf.dtype == jnp.int32 else leaf, transform.init(x))
    path = np.abs(jax.lax.scan(step, (x, state), None, length=80)[1])
    return np.log10(path[70:].max(0) / path[20:30].max(0))


@pytest.mark.parametrize("name", ROWS)
def test_optimizers_are_stable_just_below_their_bound_and_not_just_above(name):
    optimizer = ROWS[name]
    bound = stability.stability_bound(optimizer, LEARNING_RATE)
    below, above = growth(optimizer, bound * jnp.array([1 - MARGIN, 1 + MARGIN]))
    assert below < -0.5
    assert above > 0.5


def test_bounds_of_the_literature():
    eta, b = 0.1, 0.9
    np.testing.assert_allclose(stability.gradient_descent_bound(eta), 20)
    np.testing.assert_allclose(stability.heavy_ball_bound(eta, b), 38)
    np.testing.assert_allclose(stability.nesterov_bound(eta, b), 38 / 2.8)
    np.testing.assert_allclose(stability.adam_bound(eta, b), 380)  # 38 / eta at b1 = 0.9, Cohen et al. 2022
    np.testing.assert_allclose(stability.nadam_bound(eta, b), 380 / 2.8)


def test_which_matrix_a_bound_is_on():
    assert stability.preconditioned(OPTIMIZERS["adamw"]())
    assert not stability.preconditioned(OPTIMIZERS["nesterov"]())
    with pytest.raises(BadInput, match="no stability bound is known for optimizer 'muon'"):
        stability.stability_bound(OPTIMIZERS["muon"](), 0.1)


def test_bounds_trace():
    optimizer = OPTIMIZERS["momentum"]()
    bounds = jax.jit(jax.vmap(lambda rate: stability.stability_bound(optimizer, rate)))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(bounds, [38, 19], rtol=1e-6)


def test_margins_say_on_which_side():
    assert [stability.margin(value, 20).position for value in (-3, 17.9, 18.1, 21.9, 22.1)] == [
        *("below", "below", "at", "at", "above")
    ]
    assert json.loads(json.dumps(stability.margin(jnp.float32(10), 20).to_json()))["ratio"] == 0.5
    for measured, bound in ((np.nan, 1), (np.inf, 1), (1, 0), (1, np.nan)):
        with pytest.raises(BadInput, match="cannot be compared"):
            stability.margin(measured, bound)


def test_the_stochastic_edge_needs_both_halves():
    assert stability.stochastic_edge(20.5, 8, 0.1).at_edge
    assert not stability.stochastic_edge(20.5, 20, 0.1).at_edge  # full-batch edge: sharpness is not below
    assert not stability.stochastic_edge(10, 8, 0.1).at_edge
    assert json.loads(json.dumps(stability.stochastic_edge(20, 8, 0.1).to_json()))["at_edge"] is True


def test_batch_sharpness_at_two_over_eta_is_where_a_step_stops_lowering_its_own_loss():
    rng = np.random.default_rng(0)
    x, theta, eta = rng.normal(size=(200, 4, 6)), rng.normal(size=6), 0.4
    h = np.einsum("bni,bnj->bij", x, x) / 4
    g = h @ theta
    curvature = np.einsum("bi,bij,bj->b", g, h, g) / np.sum(g**2, 1)
    after = theta - eta * g
    change = np.einsum("bi,bij,bj->b", after, h, after) - np.einsum("i,bij,j->b", theta, h, theta)
    positions = np.array([stability.margin(c, stability.gradient_descent_bound(eta), 0.0).position for c in curvature])
    assert set(positions) == {"below", "above"}
    np.testing.assert_array_equal(positions == "below", change < 0)


SPECTRA = {
    "flat": np.ones(6),
    "outlier": np.array([5.0, 0.2, 0.1, 0.1, 0.05, 0.0]),
    "power law": 1.0 / np.arange(1, 7) ** 1.5,
}


def second_moment_map(values, eta, batch):
    """The matrix of S -> E[A S A], (n^2, n^2), from the fourth moments of a Gaussian (Isserlis)."""
    h, one = np.diag(values), np.eye(len(values))
    fourth = (
        np.einsum("ij,kl->ijkl", h, h) + np.einsum("ik,jl->ijkl", h, h) + np.einsum("il,jk->ijkl", h, h)
    )  # E[x_i x_j x_k x_l]
    example = np.einsum("ijkl->iljk", fourth)  # x x' S x x': entry (i, l) from S_jk
    twice = np.einsum("ij,kl->iljk", h, h)
    once = np.einsum("ij,kl->iljk", h, one) + np.einsum("ij,kl->iljk", one, h)
    keep = np.einsum("ij,kl->iljk", one, one)
    whole = keep - eta * once + eta**2 * ((1 - 1 / batch) * twice + example / batch)
    return whole.reshape(len(values) ** 2, -1)


def radius(values, eta, batch):
    return np.abs(np.linalg.eigvals(second_moment_map(values, eta, batch))).max()


def largest_stable(values, batch):
    """The learning rate at which `sgd_linear_stability` turns, by bisection."""
    low, high = 0.0, 4 / values.max()
    for _ in range(40):
        middle = (low + high) / 2
        stable = stability.sgd_linear_stability(values, middle, batch).stable
        low, high = (middle, high) if stable else (low, middle)
    return low


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("batch", [1, 2, 16])
def test_minibatch_condition_is_where_the_second_moments_stop_shrinking(name, batch):
    values = SPECTRA[name]
    eta = largest_stable(values, batch)
    positive = values[values > 0]  # along a flat direction nothing moves
    assert radius(positive, 0.99 * eta, batch) < 1 < radius(positive, 1.01 * eta, batch)
    assert values.sum() <= stability.largest_trace(eta, batch)
    assert values.max() < stability.gradient_descent_bound(eta)


def test_second_moments_of_sampled_batches():
    """The map above against SGD's own steps on drawn examples."""
    rng = np.random.default_rng(1)
    values, eta, batch = np.array([1.0, 0.5, 0.2]), 0.4, 2
    x = rng.normal(size=(200_000, batch, 3)) * np.sqrt(values)
    theta = np.array([1.0, -2.0, 0.5])
    after = theta - eta * np.einsum("sbi,sb->si", x, x @ theta) / batch
    expected = (second_moment_map(values, eta, batch) @ np.outer(theta, theta).ravel()).reshape(3, 3)
    np.testing.assert_allclose(after.T @ after / len(after), expected, atol=0.05)


def test_the_trace_bound_is_sharp_for_many_small_eigenvalues():
    values = np.full(2000, 1e-3)  # trace 2
    assert stability.sgd_linear_stability(values, 0.99, 1).stable  # 2 / eta = 2.02
    assert not stability.sgd_linear_stability(values, 1.01, 1).stable


def test_large_batches_are_full_batches():
    values = np.array([4.0, 1.0])
    for eta, stable in ((0.499, True), (0.501, False)):
        assert bool(stability.sgd_linear_stability(values, eta, 1e6).stable) is stable


def test_counts_stand_for_repeated_eigenvalues():
    values = np.array([1.0, 1.0, 1.0, 0.3, 0.3])
    one_by_one = stability.sgd_linear_stability(values, 0.3, 2)
    counted = stability.sgd_linear_stability(np.array([1.0, 0.3, 9.0]), 0.3, 2, np.array([3.0, 2.0, 0.0]))
    np.testing.assert_allclose(counted[:2], one_by_one[:2], rtol=1e-6)
    negative = stability.sgd_linear_stability(np.append(values, -7.0), 0.3, 2)
    np.testing.assert_allclose(negative[:2], one_by_one[:2], rtol=1e-6)


def test_beyond_the_first_condition_the_sum_is_infinite():
    found = stability.sgd_linear_stability(np.array([3.0]), 0.5, 1)
    assert found.top >= 2
    assert np.isinf(found.total)
    assert not found.stable


def test_momentum_is_optax_heavy_ball():
    """What `sgd` with momentum means: the bound would be another if optax averaged its gradients."""
    transform = optax.sgd(1.0, momentum=0.9)
    state = transform.init(jnp.zeros(()))
    moved = []
    for _ in range(2):
        update, state = transform.update(jnp.ones(()), state)
        moved.append(float(update))
    np.testing.assert_allclose(moved, [-1.0, -1.9], rtol=1e-6)
