"""Ranking metrics agree with scikit-learn, ties and all, and their standard errors with what resampling gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from workloads.metrics.ranking import area_under_roc, average_precision, mean_average_precision, with_standard_error

ROWS = 3000
METRICS = {"auc": (area_under_roc, roc_auc_score), "ap": (average_precision, average_precision_score)}
jitted = {name: jax.jit(ours) for name, (ours, _) in METRICS.items()}


def scored(seed, levels, positive=0.2, rows=ROWS):
    """Scores that say something about the labels, on so many levels that there are ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < positive).astype(np.float32)
    scores = rng.normal(size=rows) + labels
    return np.round(scores * levels).astype(np.float32) / levels, labels


def estimated(name, scores, labels):
    """Value and standard error."""
    metric = METRICS[name][0]
    return jax.jit(lambda s, y: with_standard_error(lambda weights: metric(s, y, weights), ROWS))(scores, labels)


@pytest.mark.parametrize("levels", [1, 8, 10**6])
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_scikit_learn(name, levels, seed):
    scores, labels = scored(seed, levels, positive=[0.2, 0.01][seed])
    present = np.random.default_rng(seed).random(ROWS) < 0.7
    for weights in (np.ones(ROWS), present):
        expected = METRICS[name][1](labels[weights > 0], scores[weights > 0])
        assert jitted[name](scores, labels, weights.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_extremes(name):
    labels = np.r_[np.zeros(10), np.ones(5)].astype(np.float32)
    ones = np.ones(15, np.float32)
    assert jitted[name](labels, labels, ones) == 1.0
    constant = jitted[name](np.zeros(15, np.float32), labels, ones)
    assert constant == pytest.approx({"auc": 0.5, "ap": 1 / 3}[name])
    assert np.isnan(jitted[name](labels, np.zeros(15, np.float32), ones))


def test_mean_average_precision_is_over_the_labels_that_have_both_kinds():
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=(500, 6)), 1).astype(np.float32)
    labels = (rng.random((500, 6)) < 0.3).astype(np.float32)
    weights = (rng.random((500, 6)) < 0.8).astype(np.float32)
    labels[:, 1], labels[:, 2] = 0.0, 1.0
    labels[:, 3] = 1.0 - weights[:, 3]  # its only positives are missing
    counted = [0, 4, 5]
    expected = np.mean(
        [average_precision_score(labels[weights[:, i] > 0, i], scores[weights[:, i] > 0, i]) for i in counted]
    )
    both = jax.jit(jax.value_and_grad(mean_average_precision, argnums=2))
    value, gradient = both(scores, labels, jnp.asarray(weights))
    assert value == pytest.approx(expected, abs=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", METRICS)
def test_standard_errors_are_those_of_the_bootstrap(name):
    scores, labels = scored(2, 8)
    reference = METRICS[name][1]
    value, stderr = estimated(name, scores, labels)
    rng = np.random.default_rng(0)
    resampled = [reference(labels[rows], scores[rows]) for rows in rng.integers(0, ROWS, (400, ROWS))]
    assert value == pytest.approx(reference(labels, scores), abs=1e-6)
    assert stderr == pytest.approx(np.std(resampled), rel=0.15)  # 4 standard errors of a deviation of 400


def test_the_standard_error_of_the_area_is_de_longs():
    """From the placements of positives among negatives and of negatives among positives, with their exact variances."""
    scores, labels = scored(3, 4)
    positive, negative = scores[labels == 1], scores[labels == 0]
    above = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    expected = (above.mean(1).var() / len(positive) + above.mean(0).var() / len(negative)) ** 0.5
    _, stderr = estimated("auc", scores, labels)
    assert stderr == pytest.approx(expected, rel=1e-4)
