"""Batch size: exponents of the best and the largest stable learning rate, and the gradient noise scale, with known truths."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from harness.transfer.batch import best_rate_exponent, largest_stable_rate
from harness.transfer.censored import fit_censored
from harness.transfer.exponent import fit_log_linear
from harness.transfer.noise_scale import gradient_noise_scale, noise_from_batches, noise_from_examples
from tests.transfer.sweeps import simulate
from workloads.base import BadInput

BATCHES = 2.0 ** np.arange(3, 9)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def sweep(drift, seed=0, **options):
    made = simulate(np.random.default_rng(seed), drift, widths=BATCHES, **{"lrs": np.arange(-14, -1.0)} | options)
    columns = made.columns()
    columns["batch"] = columns.pop("scale")
    return columns


@pytest.mark.parametrize(
    ("family", "drift", "verdict"),
    [
        ("sgd", 1.0, "supported"),
        ("adam", 0.5, "supported"),
        ("sgd", 0.5, "refuted"),
        ("adam", 1.0, "refuted"),
        ("adam", 0.0, "refuted"),
    ],
)
def test_the_predicted_exponent_is_supported_and_any_other_refuted(family, drift, verdict):
    found = [best_rate_exponent(**sweep(drift, seed), family=family) for seed in range(12)]
    assert np.mean([one.verdict == verdict for one in found]) >= 0.9
    assert np.median([one.transfer.drift.exponent for one in found]) == pytest.approx(drift, abs=0.03)


def test_a_saturating_best_rate_is_not_linear():
    """Beyond the critical batch the best rate stops growing: lr = 1 / (1 + 32 / B), whose line has exponent 0.43."""
    columns = sweep(0.0, lrs=np.arange(-12, -1.0), cliff=False, center=-6.0)
    columns["learning_rate"] = columns["learning_rate"] / (1 + 32 / columns["batch"])
    found = best_rate_exponent(**columns, family="sgd")
    assert found.verdict == "refuted"
    assert found.transfer.drift.exponent == pytest.approx(0.43, abs=0.05)


def test_an_edge_optimum_is_undecided_and_says_what_to_run():
    columns = sweep(1.0)
    keep = (columns["batch"] < 256) | (columns["learning_rate"] < 2.0**-7)
    found = best_rate_exponent(**{k: v[keep] for k, v in columns.items()}, family="sgd")
    assert found.verdict == "undecided"
    assert "At batch 256" in found.reason
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert entry["batches"] == BATCHES.tolist()
    assert entry["best_lr"][-1] is None


def test_other_families_have_no_prediction():
    with pytest.raises(BadInput, match="Valid names: adam, sgd"):
        best_rate_exponent(**sweep(1.0), family="matrix")


def stability(rng, exponent, noise=0.1, seeds=3, step=0.5, batches=BATCHES):
    """Diverged flags on a grid; each seed's largest stable rate is 2^-8 (batch / 8)^exponent with noise in octaves."""
    grid = np.arange(-12, 4, step) + rng.uniform(0, step)
    b, s, x = (a.ravel() for a in np.meshgrid(batches, np.arange(seeds), grid, indexing="ij"))
    edge = -8 + exponent * np.log2(batches / 8)[:, None] + noise * rng.normal(size=(len(batches), seeds))
    diverged = x > edge[np.searchsorted(batches, b), s]
    return {"batch": b, "learning_rate": 2.0**x, "diverged": diverged, "seed": s}


def test_largest_stable_rate_recovers_the_exponent_with_intervals_that_cover():
    rng, hits, verdicts = np.random.default_rng(0), [], []
    for _ in range(20):
        found = largest_stable_rate(**stability(rng, 0.8), expected=0.8)
        hits.append(found.ci95[0] <= 0.8 <= found.ci95[1])
        verdicts.append(found.verdict)
        assert np.all(found.low < found.high)
    assert np.mean(hits) >= 0.92
    assert np.mean([v == "supported" for v in verdicts]) >= 0.8
    assert "refuted" not in verdicts


def test_intervals_of_measured_responses_are_the_t_intervals_of_least_squares():
    rng = np.random.default_rng(7)
    x = np.arange(8.0)
    y = 1 + 0.5 * x + 0.3 * rng.normal(size=8)
    line = fit_log_linear(2**y, {"x": 2**x})
    fitted = fit_censored(np.column_stack([np.ones(8), x]), y, y, 1e-3)
    np.testing.assert_allclose(fitted.coef, line.coef, rtol=1e-4)
    np.testing.assert_allclose(fitted.covariance, line.covariance, rtol=1e-3)
    for level in (0.9, 0.95):
        np.testing.assert_allclose(fitted.interval(1, level), line.exponent("x").interval(level), rtol=1e-3)


def test_a_stable_rate_that_does_not_grow_is_refuted():
    rng = np.random.default_rng(1)
    assert {largest_stable_rate(**stability(rng, 0.0), expected=1.0).verdict for _ in range(4)} == {"refuted"}


def test_a_coarse_grid_is_undecided_where_its_corner_would_have_an_exponent():
    found = largest_stable_rate(**stability(np.random.default_rng(2), 0.5, 0.0, 1, 4.0, BATCHES[:4]), expected=0.5)
    assert found.verdict == "undecided"
    assert "finer learning-rate grid" in found.reason


def test_censored_batches_inform_and_are_never_taken_for_measurements():
    """The grid ends below the edge of the large batches: they are stable throughout, which is no plateau."""
    rng, hits = np.random.default_rng(3), []
    for _ in range(12):
        columns = stability(rng, 1.0, batches=2.0 ** np.arange(3, 11))
        keep = columns["learning_rate"] < 2.0**-3.2
        found = largest_stable_rate(**{k: v[keep] for k, v in columns.items()})
        assert np.isinf(found.high[-2:]).all()
        assert (found.verdict, found.reason) == (None, "")
        hits.append(found.ci95[0] <= 1.0 <= found.ci95[1])
    assert np.mean(hits) >= 0.9
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["high"][-1] == "inf"


def test_stable_throughout_or_on_two_batches_bounds_nothing():
    columns = stability(np.random.default_rng(4), 1.0)
    for keep in (~columns["diverged"], columns["batch"] < 30):
        found = largest_stable_rate(**{k: v[keep] for k, v in columns.items()}, expected=1.0)
        assert found.verdict == "undecided"
        assert found.to_json()["ci95"] == [None, None]


def test_a_diverged_run_below_stable_ones_widens_the_bracket():
    found = largest_stable_rate([8] * 4, [1.0, 2.0, 4.0, 8.0], [False, True, False, True])
    assert (found.low[0], found.high[0]) == (1.0, 2.0)
    with pytest.raises(BadInput, match="give runs seeds"):
        largest_stable_rate([8, 8], [1.0, 1.0], [False, True])


DIM, COUNT = 24, 48
MEAN = np.linspace(-0.3, 0.4, DIM).astype(np.float32)
SCALES = np.linspace(0.5, 2.0, DIM).astype(np.float32)
TRACE, SQUARED = float(np.sum(SCALES**2)), float(np.sum(MEAN**2))


def draw(key, groups=1):
    """Per-example gradients of a tree with two leaves; `groups` copies of each (dependent examples)."""
    g = MEAN[None] + SCALES[None] * jax.random.normal(key, (COUNT // groups, DIM))
    g = jnp.repeat(g, groups, axis=0)
    return {"a": g[:, :4], "b": g[:, 4:].reshape(COUNT, 4, 5)}


def measure(key):
    """From per-example gradients, and from six shards of eight against the whole."""
    gradients = draw(key)
    shards = jax.tree.map(lambda g: g.reshape(6, 8, *g.shape[1:]).mean(1), gradients)
    whole = jax.tree.map(lambda g: g.mean(0), gradients)
    return noise_from_examples(gradients), noise_from_batches(shards, whole, 8, COUNT)


@pytest.fixture(scope="module")
def measured():
    return jax.tree.map(np.asarray, quick_jit(jax.vmap(measure))(jax.random.split(jax.random.key(0), 3000)))


def test_moments_are_unbiased_from_examples_and_from_two_batch_sizes(measured):
    for moments in measured:
        for values, truth in ((moments.trace, TRACE), (moments.squared_norm, SQUARED)):
            error = values.std() / np.sqrt(values.size)
            assert abs(values.mean() - truth) < 4 * error
            assert 4 * error < 0.15 * truth
    naive = measured[0].squared_norm + measured[0].trace / COUNT  # |mean gradient|^2 is the biased estimate
    assert naive.mean() > 1.3 * SQUARED


def test_moments_ratio_and_jackknife_by_brute_force():
    gradients = np.random.default_rng(5).normal(size=(6, 4)).astype(np.float32) + 1

    def by_pairs(g):
        inner = g @ g.T
        squared = (inner.sum() - np.trace(inner)) / (len(g) * (len(g) - 1))
        return np.trace(inner) / len(g) - squared, squared

    trace, squared = by_pairs(gradients)
    assert trace == pytest.approx(np.trace(np.cov(gradients.T)), rel=1e-5)
    left_out = [np.divide(*by_pairs(np.delete(gradients, i, axis=0))) for i in range(6)]
    stderr = np.sqrt(5 / 6 * np.sum((left_out - np.mean(left_out)) ** 2))
    found = noise_from_examples({"a": gradients[:, :1], "b": gradients[:, 1:].reshape(6, 3, 1)})
    np.testing.assert_allclose(np.array(found), [trace, squared, trace / squared, stderr], rtol=1e-4)


def test_the_interval_is_fiellers():
    """Its ends are the ratios from which the means lie t standard errors away."""
    rng = np.random.default_rng(6)
    shared = rng.normal(size=12)
    top, bottom = 10 + 2 * shared + rng.normal(size=12), 3 + 0.6 * shared + 0.3 * rng.normal(size=12)
    for end in gradient_noise_scale(top, bottom).ci95:
        gap = top - end * bottom
        assert abs(gap.mean()) / (gap.std(ddof=1) / 12**0.5) == pytest.approx(stats.t.ppf(0.975, 11), rel=1e-6)


def test_the_jackknife_error_is_the_spread_over_measurements():
    """At a strong signal, where the ratio is nearly normal."""

    def strong(key):
        return noise_from_examples(jax.tree.map(lambda g: g + 2.0, draw(key)))

    found = quick_jit(jax.vmap(strong))(jax.random.split(jax.random.key(1), 1000))
    assert np.sqrt(np.mean(np.square(found.stderr))) == pytest.approx(float(np.std(found.noise_scale)), rel=0.1)


def test_the_interval_of_the_noise_scale_covers_and_the_mean_of_ratios_is_biased(measured):
    truth, hits, values = TRACE / SQUARED, [], []
    for rows in np.split(np.arange(3000), 150):
        found = gradient_noise_scale(measured[1].trace[rows], measured[1].squared_norm[rows])
        low, high = found.ci95
        hits.append(low <= truth <= high)
        values.append(found.value)
    assert 0.90 <= np.mean(hits) <= 0.99
    assert np.median(values) == pytest.approx(truth, rel=0.05)
    strong = measured[1].squared_norm > 0
    assert np.mean((measured[1].trace / measured[1].squared_norm)[strong]) > 1.5 * truth


def test_dependent_examples_are_a_counter_example():
    """Every example twice: the trace is right, but |G|^2 takes half the noise for signal."""
    keys = jax.random.split(jax.random.key(2), 400)
    found = quick_jit(jax.vmap(lambda k: noise_from_examples(draw(k, groups=2))))(keys)
    combined = gradient_noise_scale(found.trace, found.squared_norm)
    assert combined.ci95[1] < 0.9 * TRACE / SQUARED


def test_a_gradient_lost_in_noise_is_not_resolved():
    lost = gradient_noise_scale([1.0, 1.1, 0.9, 1.0], [0.3, -0.2, 0.1, 0.0])
    assert not lost.resolved
    assert 0 < lost.ci95[0] < lost.value
    assert lost.ci95[1] == np.inf
    assert json.loads(json.dumps(lost.to_json(), allow_nan=False))["ci95"][1] == "inf"
    negative = gradient_noise_scale(np.ones(4), [-1.0, -0.9, -1.1, -1.0])
    assert (negative.value, negative.ci95) == (np.inf, (0.0, np.inf))


def test_critical_batch_is_where_steps_and_examples_double():
    found = gradient_noise_scale([90.0, 110.0, 100.0], [1.0, 1.1, 0.9])
    crit = found.critical_batch
    assert crit == pytest.approx(100.0)
    assert found.relative_steps(crit) == 2.0
    assert found.relative_steps(crit) * crit == pytest.approx(2 * found.relative_steps(1e-9) * 1e-9, rel=1e-6)
    assert found.relative_learning_rate(crit) == 0.5
    assert found.stderr == pytest.approx(np.std([-10 + 0, 10 - 10, 0 + 10], ddof=1) / np.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("bad", [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 1.0])])
def test_bad_measurements(bad):
    with pytest.raises(BadInput):
        gradient_noise_scale(*bad)


def test_too_few_examples():
    with pytest.raises(BadInput, match="at least 3"):
        noise_from_examples({"w": jnp.ones((2, 4))})
