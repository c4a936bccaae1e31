"""Learning rates of every step from recorded rows, and what laws of curves have in common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.laws import Objective
from harness.laws.annealing import Annealing
from harness.laws.curves import LearningRates, grid_total, learning_rates, log_difference, thin
from harness.laws.fitting.solver import predict
from harness.laws.multi_power import MultiPower
from workloads.base import BadInput

STEPS = np.arange(401)
COSINE = np.where(STEPS < 40, STEPS / 40, 0.1 + 0.45 * (1 + np.cos(np.pi * (STEPS - 40) / 360))) * 1e-3
SEEN = np.array([60, 100, 200, 333, 400])


def table(steps, lr, curve="a"):
    return {"curve": np.full(steps.size, curve), "step": steps.astype(float), "lr": lr[steps]}


def test_rates_between_rows_are_linear_and_warmup_comes_before_the_first():
    rates = learning_rates(np.array([4, 6, 10]), np.array([8.0, 8.0, 4.0]), warmup=4)
    np.testing.assert_allclose(rates.lr, [0, 2, 4, 6, 8, 8, 8, 7, 6, 5, 4])
    assert rates.warmup_end == 4
    np.testing.assert_allclose(rates.total, np.cumsum(rates.lr))
    np.testing.assert_allclose(rates.change, [0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1])


@pytest.mark.parametrize(
    ("first", "warmup", "before"),
    [(4, 0, [8, 8, 8, 8]), (4, 2, [0, 4, 8, 8]), (4, 8, [0, 2, 4, 6]), (1, None, [8]), (0, None, [])],
)
def test_before_the_first_row(first, warmup, before):
    rates = learning_rates(np.array([first, first + 2]), np.array([8.0, 8.0]), warmup)
    np.testing.assert_allclose(rates.lr, [*before, 8, 8, 8])


def test_only_the_first_rise_is_warmup():
    rates = LearningRates.of(np.array([0.0, 0, 1, 2, 3, 3, 4, 1]))
    assert rates.warmup_end == 4
    np.testing.assert_allclose(rates.change, [0, 0, 0, 0, 0, 0, 1, -3])
    assert LearningRates.of(np.array([3.0, 3, 2])).warmup_end == 0


def losses(law, columns, theta):
    return predict(law, Objective(), law.features(columns), theta[None])[0]


LAWS_AT = [(Annealing(), np.log([3.0, 0.4, 0.8, 0.5])), (MultiPower(), np.log([3.0, 0.4, 250.0, 1.5, 0.5, 0.6, 0.6]))]


@pytest.mark.parametrize(("law", "theta"), LAWS_AT)
def test_rows_describe_the_schedule_whatever_their_order_and_neighbours(law, theta):
    every = losses(law, table(STEPS, COSINE), theta)
    shuffled = np.random.default_rng(0).permutation(np.concatenate([[0], np.arange(40, 401)]))
    two = [table(shuffled, COSINE), table(shuffled, 0.5 * COSINE, curve="b")]
    both = {name: np.concatenate([part[name] for part in two]) for name in two[0]}
    found = losses(law, both, theta)[: shuffled.size]
    np.testing.assert_allclose(found[shuffled >= 40], every[shuffled[shuffled >= 40]], rtol=1e-12)


@pytest.mark.parametrize(("law", "theta"), LAWS_AT)
def test_a_grid_of_knots_agrees_with_every_step(law, theta):
    """What the search for schedules minimises is the law."""
    knots = np.unique(np.concatenate([np.arange(40, 401, 12), 400 - np.arange(12), [400]]))
    lr = COSINE[knots]
    every = np.interp(STEPS, knots, lr) * np.minimum(STEPS / 40, 1)
    exact = losses(law, table(STEPS, every), theta)[-1]
    with jax.enable_x64(True):
        features = jax.jit(law.on_grid)(jnp.asarray(knots, jnp.float64), jnp.asarray(lr))
    coarse = predict(law, Objective(), features, theta[None])[0, 0]
    assert coarse == pytest.approx(exact, abs=2e-6)


def test_the_total_on_a_grid_is_the_sum_of_every_step():
    knots = np.array([40, 41, 100, 399, 400])
    lr = np.array([3.0, 2.5, 2.5, 1.0, 0.5])
    every = np.interp(STEPS, knots, lr) * np.minimum(STEPS / 40, 1)
    with jax.enable_x64(True):
        found = np.asarray(grid_total(jnp.asarray(knots, jnp.float64), jnp.asarray(lr)))
    np.testing.assert_allclose(found, np.cumsum(every)[knots], rtol=1e-12)


def test_annealing_that_would_take_all_the_loss_stays_finite_and_comes_back():
    with jax.enable_x64(True):
        base = jnp.zeros(4)
        share = jnp.array([0.5, 0.998999, 0.999001, 3.0])
        found = jax.jvp(lambda s: log_difference(base, s), (share,), (jnp.ones(4),))
        share, value, slope = map(np.asarray, (share, *found))
    np.testing.assert_allclose(value[:2], np.log(1 - share[:2]), rtol=1e-6)
    assert value[1] == pytest.approx(value[2], abs=1e-2)
    assert slope[3] == slope[2] == pytest.approx(-1e3)


def test_thin_keeps_both_ends_of_each_curve_and_no_more_than_asked():
    columns = {"curve": np.repeat(["a", "b"], [50, 7]), "step": np.concatenate([np.arange(50), np.arange(7)])}
    loss = np.where(np.arange(57) % 5 == 3, np.nan, np.arange(57) + 1.0)
    kept = np.flatnonzero(~np.isnan(thin(columns, loss, 10)))
    assert {0, 49, 50, 56} <= set(kept)
    assert [np.sum(kept < 50), np.sum(kept >= 50)] == [10, 6]
    np.testing.assert_array_equal(thin(columns, loss, 100), loss)


def test_features_of_a_long_curve_stay_small():
    steps = np.arange(100_001)
    lr = 0.05 + 0.95 * np.minimum(steps / 2000, 1) * (1 + np.cos(np.pi * np.clip((steps - 2000) / 98_000, 0, 1))) / 2
    rates = LearningRates.of(lr * 1e-3)
    features = MultiPower().rows_of(rates, np.arange(2000, 100_001, 500))
    assert features["change"].shape[0] == 197
    assert features["change"].shape[1] <= 80


BAD = {
    "late first row": ([100, 200], [1, 1], None, "options.warmup=STEPS"),
    "fraction": ([0.5, 1], [1, 1], None, "whole numbers"),
    "negative": ([-1, 1], [1, 1], None, "whole numbers"),
    "twice": ([0, 5, 5], [1, 1, 1], None, "there twice"),
    "tokens": ([0, 3e9], [1, 1], None, "tokens"),
    "rate": ([0, 5], [1, -1], None, "numbers >= 0"),
    "no rate": ([0, 5], [1, np.nan], None, "numbers >= 0"),
    "zero": ([0, 5], [0, 0], None, "zero at every step"),
    "warmup": ([0, 5], [1, 1], -3, "options.warmup=-3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_schedules_are_refused_with_the_fix(case):
    steps, lr, warmup, message = BAD[case]
    columns = {"curve": np.full(len(steps), "run 7"), "step": np.array(steps), "lr": np.array(lr, float)}
    with pytest.raises(BadInput, match=message):
        Annealing(warmup=warmup).features(columns)


def test_the_curve_at_fault_is_named():
    with pytest.raises(BadInput, match="curve run 7"):
        Annealing().features(table(STEPS[100:], COSINE, curve="run 7") | {"step": np.arange(100.0, 401)})
