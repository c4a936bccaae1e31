"""Effective learning rates on trajectories with known growth, and on a small trained network."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.optimizers.normalize_and_project import keep_norms
from harness.transfer.effective_rate import (
    effective_learning_rate,
    effective_rates,
    matrix_norms,
    norm_trajectories,
)
from workloads.base import BadInput
from workloads.layers import rms_norm

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STEPS = np.arange(0, 101, 10)
COSINE = 0.1 * (1.05 + np.cos(np.pi * STEPS / 100))


def growth(rng, factor, seeds=4, noise=0.003):
    """Norms whose square grows linearly to `factor`^2, per seed."""
    square = 1 + (factor**2 - 1) * STEPS / 100
    return 5 * np.sqrt(square)[None] * np.exp(noise * rng.normal(size=(seeds, STEPS.size)))


def test_effective_rates_by_hand():
    assert effective_learning_rate(0.1, np.array([1.0, 2.0, 4.0]), "sgd").tolist() == pytest.approx(
        [0.1, 0.025, 0.00625]
    )
    assert effective_learning_rate(0.1, 2.0, "adam") == pytest.approx(0.05)
    with pytest.raises(BadInput, match="Valid names: adam, matrix, sgd"):
        effective_learning_rate(0.1, 2.0, "other")


@pytest.mark.parametrize(("family", "power"), [("sgd", 2), ("adam", 1)])
def test_growth_is_told_apart_from_the_schedule(family, power):
    rng = np.random.default_rng(0)
    found = effective_rates(STEPS, COSINE, {"grows": growth(rng, 2.0), "stays": growth(rng, 1.0)}, family)
    grows, stays = found.matrices["grows"], found.matrices["stays"]
    assert grows.growth == pytest.approx(2.0, rel=0.02)
    assert grows.drift[:, -1].mean() == pytest.approx(-power, abs=0.02)
    assert stays.drift[:, -1].mean() == pytest.approx(0.0, abs=0.02)
    np.testing.assert_allclose(grows.effective, COSINE / grows.norm**power)
    assert found.verdict == "refuted"
    assert "1 of 2; for one, grows" in found.reason


def test_flat_norms_support_the_schedule_and_an_excursion_does_not():
    rng = np.random.default_rng(1)
    flat = {"a": growth(rng, 1.0), "b": growth(rng, 1.02)}
    assert effective_rates(STEPS, COSINE, flat, "adam").verdict == "supported"
    there_and_back = growth(rng, 1.0) * np.where(STEPS == 50, 1.5, 1.0)[None]
    assert effective_rates(STEPS, COSINE, flat | {"c": there_and_back}, "adam").verdict == "undecided"


def test_verdicts_are_calibrated():
    """A true drift of 10% at the end is neither often called none nor often called more."""
    rng, found = np.random.default_rng(2), []
    for _ in range(150):
        norms = growth(rng, 1.1, noise=0.0) * np.exp(0.05 * rng.normal(size=(4, 1)) * STEPS[None] / 100)
        found.append(effective_rates(STEPS, COSINE, {"a": norms}, "adam").verdict)
    assert np.mean([v == "supported" for v in found]) <= 0.08
    still = [
        effective_rates(STEPS, COSINE, {str(k): growth(rng, 1.0, noise=0.05) for k in range(6)}, "sgd").verdict
        for _ in range(150)
    ]
    assert np.mean([v == "refuted" for v in still]) <= 0.05


def test_one_seed_is_undecided_and_json_round_trips():
    found = effective_rates(STEPS, COSINE, {"a": growth(np.random.default_rng(3), 2.0, seeds=1)}, "sgd")
    assert (found.verdict, "One seed" in found.reason) == ("undecided", True)
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))["matrices"]["a"]
    assert entry["final_drift_ci95"] == [None, None]
    assert len(entry["effective_lr"]) == STEPS.size


def test_a_matrix_that_begins_at_zero_needs_a_later_start():
    norms = {"a": growth(np.random.default_rng(4), 1.0)}
    norms["a"][:, 0] = 0.0
    with pytest.raises(BadInput, match="choose `since`"):
        effective_rates(STEPS, COSINE, norms, "sgd")
    assert effective_rates(STEPS, COSINE, norms, "sgd", since=10).steps[0] == 10


@pytest.mark.parametrize(
    "bad",
    [{"steps": STEPS[:3]}, {"norms": {"a": np.ones(11)}}, {"norms": {}}, {"since": 100}, {"learning_rate": 0 * COSINE}],
)
def test_bad_trajectories(bad):
    good = {"steps": STEPS, "learning_rate": COSINE, "norms": {"a": np.ones((2, 11))}, "family": "sgd"}
    effective_rates(**good)
    with pytest.raises(BadInput):
        effective_rates(**good | bad)


def test_norms_of_every_matrix():
    params = {"block": {"w": jnp.full((2, 8), 0.5), "b": jnp.ones(3)}, "k": jnp.ones((3, 3, 1, 1))}
    assert {k: float(v) for k, v in matrix_norms(params).items()} == {"block/w": 2.0, "k": 3.0}
    found = norm_trajectories([[params, jax.tree.map(lambda p: 2 * p, params)]] * 3)
    assert found["block/w"].tolist() == [[2.0, 4.0]] * 3


def train(transform, seed):
    """Parameters every 10 of 100 steps of a normalised two-layer network whose targets are noise."""

    @quick_jit
    def run(key):
        first, second, x, y = jax.random.split(key, 4)
        params = {"w": jax.random.normal(first, (8, 16)) * 8**-0.5, "v": jax.random.normal(second, (16, 16)) * 0.25}

        def loss(params, step):
            inputs = jax.random.normal(jax.random.fold_in(x, step), (16, 8))
            hidden = jax.nn.relu(rms_norm(inputs @ params["w"]))
            out = rms_norm(hidden @ params["v"])
            return jnp.mean(jnp.square(out - jax.random.normal(jax.random.fold_in(y, step), (16, 16))))

        def step(carry, k):
            params, state = carry
            updates, state = transform.update(jax.grad(loss)(params, k), state, params)
            moved = optax.apply_updates(params, updates)
            return (moved, state), moved

        _, path = jax.lax.scan(step, (params, transform.init(params)), jnp.arange(100))
        return params, jax.tree.map(lambda leaf: leaf[9::10], path)

    start, path = run(jax.random.key(seed))
    return [start, *(jax.tree.map(lambda leaf, t=t: leaf[t], path) for t in range(10))]


@pytest.mark.parametrize(
    ("wrapper", "verdict"), [(lambda inner: inner, "refuted"), (keep_norms, "supported")], ids=["plain", "projected"]
)
def test_a_trained_network_decays_its_rate_unless_projected(wrapper, verdict):
    """SGD on scale-invariant matrices only ever grows their norms (van Laarhoven 2017)."""
    norms = norm_trajectories([train(wrapper(optax.sgd(3.0)), seed) for seed in range(3)])
    found = effective_rates(STEPS, np.full(11, 3.0), norms, "sgd")
    assert found.verdict == verdict, found.reason
    if verdict == "refuted":
        assert all(np.all(np.diff(one.norm, axis=1) > 0) for one in found.matrices.values())
