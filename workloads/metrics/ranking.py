"""Ranking metrics of binary labels, exact with ties, and their standard errors.

All take weights of the examples, 1 for an example that counts and 0 for one that is left out. The metrics are smooth in the
weights, and that is where their standard errors come from.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from workloads.base import Array

_BLOCK = 128  # a sum of thousands of float32 one after the other would lose 1e-6


def area_under_roc(scores: Array, labels: Array, weights: Array) -> Array:
    """Probability that a positive example scores above a negative one, ties counting half (Hanley & McNeil 1982).

    scores, labels (0 or 1), weights: (N,) -> scalar; NaN where one of the classes is absent. Counts are exact up to N = 2**24.
    """
    order = jnp.argsort(scores)
    ranked, positive, negative = scores[order], (weights * labels)[order], (weights * (1.0 - labels))[order]
    below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(negative)])
    first, last = (jnp.searchsorted(ranked, ranked, side=side) for side in ("left", "right"))
    share = 0.5 * (below[first] + below[last]) / below[-1]
    return _sum(positive * share) / _sum(positive)


def average_precision(scores: Array, labels: Array, weights: Array) -> Array:
    """Mean over the positives of the precision among the examples that score at least as high.

    scores, labels (0 or 1), weights: (N,) -> scalar; NaN without positives. The sum of precision times the rise in recall over
    thresholds, where tied examples share a threshold (Zhu 2004, as scikit-learn computes it).
    """
    order = jnp.argsort(-scores)
    ranked, positive, present = -scores[order], (weights * labels)[order], weights[order]
    last = jnp.searchsorted(ranked, ranked, side="right") - 1
    found, taken = jnp.cumsum(positive)[last], jnp.cumsum(present)[last]
    precision = found / jnp.where(taken > 0.0, taken, 1.0)
    return _sum(positive * precision) / _sum(positive)


def mean_average_precision(scores: Array, labels: Array, weights: Array) -> Array:
    """Mean of average_precision over the labels that have a positive and a negative among their present examples.

    scores, labels, weights: (N, L) -> scalar; NaN if no label has both. The rule of Hu et al. 2020 (OGB), sec. 4.
    """
    has_both = jnp.any(labels * weights > 0.0, axis=0) & jnp.any((1.0 - labels) * weights > 0.0, axis=0)
    # the other labels get examples that make no 0 / 0, nor its derivative
    labels, weights = (jnp.where(has_both[None], array, 1.0) for array in (labels, weights))
    one_by_one = jax.vmap(average_precision, in_axes=1)(scores, labels, weights)
    return jnp.sum(jnp.where(has_both, one_by_one, 0.0)) / jnp.sum(has_both)


def with_standard_error(metric: Callable[[Array], Array], examples: int) -> tuple[Array, Array]:
    """The value of a metric of example weights, (examples,) -> scalar, and its standard error over the examples.

    The infinitesimal jackknife (Jaeckel 1972; Efron 1982, ch. 6): the root of the summed squares of the derivatives by the
    weights. For the area under the ROC curve that is DeLong et al. 1988, with n in place of n - 1.
    """
    value, influence = jax.value_and_grad(metric)(jnp.ones(examples))
    return value, jnp.sqrt(_sum(jnp.square(influence)))


def _sum(values: Array) -> Array:
    """Of (N,) numbers, block by block."""
    padded = jnp.pad(values, (0, -values.shape[0] % _BLOCK))
    return jnp.sum(jnp.sum(padded.reshape(-1, _BLOCK), axis=1))
