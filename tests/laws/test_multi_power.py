"""The multi-power law against its definition, and its derivatives against automatic ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.laws.curves import LearningRates
from harness.laws.multi_power import MultiPower, paid_back

STEPS, WARMUP, PEAK = 12_000, 1000, 3e-4
DONE = np.clip((np.arange(STEPS + 1) - WARMUP) / (STEPS - WARMUP), 0, 1)
RAMP = np.minimum(np.arange(STEPS + 1) / WARMUP, 1)
LATE = np.clip((DONE - 0.8) / 0.2, 0, 1)
SHAPES = {
    "constant": np.ones_like(DONE),
    "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * DONE)),
    "linear to zero": 1 - DONE,
    "late exponential": 0.1**LATE,
    "late linear": 1 - 0.9 * LATE,
    "sudden": np.where(DONE < 0.4, 1, 0.03),
    "staircase": 0.5 ** np.floor(DONE * 5),
    "restarts": 0.55 + 0.45 * np.cos(6 * np.pi * DONE),
}
# alpha does not matter here: (B, C, beta, gamma) from the paper's range to far outside of it
SHARP_AND_FLAT = [(600, 0.5, 0.4, 0.6), (1000, 0.05, 1.5, 0.8), (500, 3.0, 0.2, 0.4), (600, 20.0, 0.5, 0.0)]


def exact(lr, step, b, c, beta, gamma):
    """The sum over every step, as it is written."""
    total = np.cumsum(lr)
    k = WARMUP + 1 + np.flatnonzero(np.diff(lr[WARMUP : step + 1]))
    k = k[lr[k] > 0]  # a rate of zero has no reach
    reach = total[step] - total[k - 1]
    return b * np.sum((lr[k] - lr[k - 1]) * (1 - (1 + c * lr[k] ** -gamma * reach) ** -beta))


def from_nodes(features, c, beta, gamma):
    """The sum from the law's features, without its factor B."""
    with jax.enable_x64(True):
        nodes = [features[name] for name in ("change", "log_rate", "log_reach")]
        return np.asarray(jax.jit(paid_back)(np.log(c), gamma, beta, *nodes))


@pytest.mark.parametrize("shape", SHAPES)
def test_nodes_stand_for_every_step_to_1e_5_in_loss(shape):
    """For each time that the rate falls from its peak, or rises to it."""
    lr = PEAK * RAMP * SHAPES[shape]
    rates = LearningRates.of(lr)
    steps = np.unique(np.concatenate([np.linspace(WARMUP, STEPS, 40).astype(int), STEPS - 2 ** np.arange(8)]))
    features = MultiPower().rows_of(rates, steps)
    assert features["change"].shape[1] <= 160
    allowed = 1e-5 * max(1.0, np.abs(rates.change).sum() / PEAK)
    for b, c, beta, gamma in SHARP_AND_FLAT:
        found = b * from_nodes(features, c, beta, gamma)
        assert np.abs(found - [exact(lr, s, b, c, beta, gamma) for s in steps]).max() < allowed


def test_the_loss_is_the_equation():
    lr = PEAK * RAMP * SHAPES["sudden"]
    law = MultiPower()
    natural = [2.8, 0.5, 600, 0.5, 0.45, 0.4, 0.6]
    with jax.enable_x64(True):
        features = law.rows_of(LearningRates.of(lr), np.array([9000]))
        found = float(jnp.exp(law.log_loss(law.unpack(jnp.log(jnp.array(natural))), **features))[0])
    expected = 2.8 + 0.5 * lr[:9001].sum() ** -0.45 + exact(lr, 9000, 600, 0.5, 0.4, 0.6)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_deeper_drop_helps_later_and_more():
    """Right after a drop nothing is gained; in the end the gain nears B times the drop."""
    lr = PEAK * RAMP * SHAPES["sudden"]
    drop = int(np.flatnonzero(np.diff(lr) < 0)[0]) + 1
    features = MultiPower().rows_of(LearningRates.of(lr), np.array([drop - 1, drop, STEPS]))
    before, at, after = from_nodes(features, 0.5, 0.4, 0.6)
    all_of_it = from_nodes(features, 1e6, 2.0, 0.6)[2]
    assert before == 0
    assert after < 20 * at < 0
    assert all_of_it == pytest.approx(-0.97 * PEAK, rel=1e-6)


def test_written_derivatives_agree_with_automatic_ones_twice():
    rng = np.random.default_rng(0)
    nodes = (-rng.random((3, 5)), -8 + rng.normal(size=(3, 5)), -2 + 2 * rng.normal(size=(3, 5)))

    def plain(log_c, gamma, beta, change, log_rate, log_reach):
        return jnp.sum(change * (1 - (1 + jnp.exp(log_c - gamma * log_rate + log_reach)) ** -beta), axis=1)

    with jax.enable_x64(True):
        at = (jnp.asarray(-1.0), jnp.asarray(0.6), jnp.asarray(0.4), *map(jnp.asarray, nodes))
        for order in (jax.jacfwd, lambda f, argnums: jax.jacfwd(jax.jacfwd(f, argnums), argnums)):
            which = tuple(range(6)) if order is jax.jacfwd else (0, 1, 2)
            for one, other in zip(
                jax.tree.leaves(jax.jit(order(paid_back, argnums=which))(*at)),
                jax.tree.leaves(jax.jit(order(plain, argnums=which))(*at)),
                strict=True,
            ):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_far_starts_have_finite_values_and_slopes():
    lr = PEAK * RAMP * SHAPES["linear to zero"]
    law = MultiPower()
    with jax.enable_x64(True):
        features = {k: jnp.asarray(v) for k, v in law.rows_of(LearningRates.of(lr), np.array([5000, STEPS])).items()}
        slope = jax.jit(jax.jacfwd(lambda t: law.log_loss(law.unpack(t), **features)))
        for theta in (np.full(7, 3.0), np.full(7, -60.0), np.array([1.0, 1, 200, 200, 1, 3, 1])):
            assert np.isfinite(slope(jnp.asarray(theta))).all()
