"""Gradient noise scale and the critical batch it predicts.

"An empirical model of large-batch training" (McCandlish et al. 2018), sec. 2.2 and appendix A.1:
B_simple = tr(Sigma) / |G|^2, with G the expected gradient and Sigma the covariance of one example's.  Jackknife and
interval: own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from harness.transfer.exponent import require_one_length
from harness.transfer.plain import plain
from workloads.base import Array, BadInput, Params


class NoiseMoments(NamedTuple):
    """Unbiased estimates from one measurement: tr(Sigma) and |G|^2 (which may come out negative), scalars."""

    trace: Array
    squared_norm: Array


class ExampleNoise(NamedTuple):
    """The moments with the noise scale's ratio estimate and its jackknife standard error over the examples, scalars."""

    trace: Array
    squared_norm: Array
    noise_scale: Array
    stderr: Array


def noise_from_batches(small: Params, big: Params, small_size: float, big_size: float) -> NoiseMoments:
    """The moments from gradients at two batch sizes; pure, may be jitted.

    big: gradient tree of a batch of `big_size` examples. small: the same tree with a leading axis of shards, each the
    gradient of `small_size` examples (the shards may be those that make up the big batch). Appendix A.1, with
    |G_small|^2 averaged over the shards.
    """
    shards = jnp.mean(sum(jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in jax.tree.leaves(small)))
    whole = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(big))
    squared_norm = (big_size * whole - small_size * shards) / (big_size - small_size)
    return NoiseMoments((shards - whole) / (1 / small_size - 1 / big_size), squared_norm)


def noise_from_examples(gradients: Params) -> ExampleNoise:
    """The same from per-example gradients, a tree with a leading example axis (B, ...), B >= 3; pure, may be jitted.

    The standard error is the delete-one jackknife's, from each example's own norm and its product with the sum.
    """
    leaves = [jnp.reshape(g, (g.shape[0], -1)).astype(jnp.float32) for g in jax.tree.leaves(gradients)]
    count = leaves[0].shape[0]
    if count < 3:
        raise BadInput(f"{count} per-example gradients; the noise scale and its error need at least 3")
    own = sum(jnp.sum(jnp.square(g), axis=1) for g in leaves)
    totals = [jnp.sum(g, axis=0) for g in leaves]
    total = sum(jnp.sum(jnp.square(t)) for t in totals)
    with_total = sum(g @ t for g, t in zip(leaves, totals, strict=True))
    whole = _example_moments(jnp.sum(own), total, count)
    rest = _example_moments(jnp.sum(own) - own, total - 2 * with_total + own, count - 1)
    left_out = rest.trace / rest.squared_norm
    variance = (count - 1) / count * jnp.sum(jnp.square(left_out - jnp.mean(left_out)))
    return ExampleNoise(*whole, whole.trace / whole.squared_norm, jnp.sqrt(variance))


def _example_moments(sum_of_squares: Array, square_of_sum: Array, count: int) -> NoiseMoments:
    """Appendix A.1 with batches of 1 and `count`."""
    squared_norm = (square_of_sum - sum_of_squares) / (count * (count - 1))
    return NoiseMoments(sum_of_squares / count - squared_norm, squared_norm)


@dataclass(frozen=True)
class NoiseScale:
    """B_simple in examples, from `measurements` independent measurements.

    ci95: infinite above where |G|^2 cannot be told from zero, and then (with `resolved` false) no estimate.
    """

    value: float
    stderr: float
    ci95: tuple[float, float]
    trace: float
    squared_norm: float
    measurements: int

    @property
    def resolved(self) -> bool:
        """Whether the interval is bounded, so that there is an estimate."""
        return bool(np.isfinite(self.ci95[1]))

    @property
    def critical_batch(self) -> float:
        """In examples: where a batch costs twice the fewest steps and twice the fewest examples (sec. 2.3)."""
        return self.value

    def relative_steps(self, batch: float) -> float:
        """Steps at this batch over the fewest possible: 1 + B_crit / B (sec. 2.3)."""
        return 1 + self.value / batch

    def relative_learning_rate(self, batch: float) -> float:
        """SGD's best learning rate at this batch over the one at infinite batch: 1 / (1 + B_crit / B) (sec. 2.2)."""
        return 1 / self.relative_steps(batch)

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self)) | {"critical_batch": plain(self.value), "resolved": self.resolved}


def gradient_noise_scale(trace: Any, squared_norm: Any) -> NoiseScale:
    """Combine K >= 2 independent measurements at one point of training, (K,) each, into one ratio with its interval.

    Numerator and denominator are averaged apart, for a mean of ratios is biased (appendix A.1). The standard error is
    the delta method's, the interval Fieller's (1954) with t of K - 1 degrees of freedom. Measurements within a window
    of training, where both moments move little, may stand in for one point.
    Raises BadInput on different lengths, fewer than 2 measurements and non-finite numbers.
    """
    table = {"trace": np.asarray(trace, np.float64), "squared_norm": np.asarray(squared_norm, np.float64)}
    require_one_length(table)
    values = np.stack(list(table.values()))
    count = values.shape[1]
    if count < 2 or not np.all(np.isfinite(values)):
        raise BadInput(f"{count} measurements; give at least 2, all finite, for a standard error")
    top, bottom = values.mean(1)
    covariance = np.cov(values) / count
    ratio = top / bottom
    variance = covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
    return NoiseScale(
        value=float(ratio) if bottom > 0 else np.inf,
        stderr=float(np.sqrt(max(variance, 0.0)) / abs(bottom)),
        ci95=_fieller(top, bottom, covariance, float(stats.t.ppf(0.975, count - 1))),
        trace=float(top),
        squared_norm=float(bottom),
        measurements=count,
    )


def _fieller(top: float, bottom: float, covariance: np.ndarray, t: float) -> tuple[float, float]:
    """All ratios r with |top - r bottom| within t standard errors; (lowest, inf) where the denominator may be 0."""
    a = bottom**2 - t**2 * covariance[1, 1]
    half_b = top * bottom - t**2 * covariance[0, 1]
    c = top**2 - t**2 * covariance[0, 0]
    if bottom <= 0:
        return 0.0, np.inf
    root = np.sqrt(max(half_b**2 - a * c, 0.0))
    if a <= 0:
        return (max(0.0, float(c / (half_b + root))) if half_b + root > 0 else 0.0), np.inf
    return max(0.0, float((half_b - root) / a)), float((half_b + root) / a)
