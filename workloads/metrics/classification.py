"""The error rate of a classifier."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from workloads.base import Array
from workloads.metrics.finite import where_finite


def error_rate(logits: Array, labels: Array) -> dict[str, Array]:
    """What `evaluate` gives: `loss`, mean cross-entropy in nats, `error_rate`, and `error_rate_stderr` over the examples.

    logits: (N, classes). labels: (N,).
    """
    rate = jnp.mean(jnp.argmax(logits, axis=1) != labels)
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    stderr = jnp.sqrt(rate * (1.0 - rate) / max(len(labels) - 1, 1))
    return where_finite({"loss": loss, "error_rate": rate, "error_rate_stderr": stderr})
