"""Attention of any shape: bidirectional, masked or across two sequences, in the (B, H, K, T) layout of workloads.layers.

B batch, H heads, K head size, Tq query positions, Tk key positions. `split_heads` and `merge_heads` go between it and the
two-dimensional activations, (B T, W) with W = H K, that matrix products are fastest on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array

HIDDEN = -1e30  # added to a score that gets no weight; finite, so that a row in which all are hidden is no NaN
_HEADS = ((0, 1), (0, 1))  # batch axes of (B, H, ...) operands


def causal_mask(time: int) -> np.ndarray:
    """(1, 1, T, T) float32: a query position sees itself and what lies before it."""
    return np.where(np.tril(np.ones((time, time), bool)), 0.0, HIDDEN).astype(np.float32)[None, None]


def padding_mask(real: Array) -> Array:
    """(B, Tk) booleans, true where there is a token -> (B, 1, 1, Tk) float32. Masks that hide together are added."""
    return jnp.where(real, 0.0, HIDDEN)[:, None, None, :]


def split_heads(x: Array, heads: int, time: int) -> Array:
    """(B T, H K) -> (B, H, K, T)."""
    by_time = x.reshape(-1, time, x.shape[-1])
    return jnp.swapaxes(by_time, 1, 2).reshape(by_time.shape[0], heads, -1, time)


def merge_heads(x: Array) -> Array:
    """(B, H, K, T) -> (B T, H K)."""
    batch, heads, size, time = x.shape
    return jnp.swapaxes(x.reshape(batch, heads * size, time), 1, 2).reshape(batch * time, heads * size)


@jax.custom_vjp
def attention(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Softmax-weighted mean of the values (Vaswani et al. 2017, eq. 1), scores already scaled into `query`.

    query: (B, H, K, Tq). key, value: (B, H, K, Tk). mask: added to the scores in float32, broadcastable to (B, H, Tq, Tk) and
    of four axes; it has a gradient too, so it may be a learned bias. Returns (B, H, K, Tq). A query from which everything
    is hidden gets the plain mean of the values.

    Scores are kept as (key position, query position) and the division by the softmax's sum is left to the small output;
    the backward pass uses sum(dO * O) for the softmax's row sums (Dao et al. 2022, eq. 4).
    """
    return _forward(query, key, value, mask)[0]


def _forward(query: Array, key: Array, value: Array, mask: Array | None) -> tuple[Array, tuple[Array | None, ...]]:
    scores = _contract(_swapped(key), query, 3, 2).astype(jnp.float32)
    if mask is not None:
        scores = scores + jnp.swapaxes(mask, 2, 3).astype(jnp.float32)
    weights = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
    inverse = (1.0 / jnp.sum(weights, axis=2, keepdims=True)).astype(query.dtype)
    weights = weights.astype(query.dtype)
    mixed = _contract(value, weights, 3, 2) * inverse
    return mixed, (query, key, value, mask, weights, inverse, mixed)


def _backward(saved: tuple[Array, ...], grad: Array) -> tuple[Array, Array, Array, Array | None]:
    query, key, value, mask, weights, inverse, mixed = saved
    scaled = grad * inverse
    row_sums = jnp.sum(scaled * mixed, axis=2, keepdims=True)
    score_grad = weights * (_contract(_swapped(value), scaled, 3, 2) - row_sums)
    mask_grad = None if mask is None else _summed(jnp.swapaxes(score_grad, 2, 3), mask)
    return (
        _contract(key, score_grad, 3, 2),
        _contract(query, score_grad, 3, 3),
        _contract(scaled, weights, 3, 3),
        mask_grad,
    )


attention.defvjp(_forward, _backward)


def _summed(gradient: Array, like: Array) -> Array:
    """The gradient of what was broadcast from `like`."""
    spread = [axis for axis, size in enumerate(like.shape) if size == 1]
    return jnp.sum(gradient, axis=spread, keepdims=True).astype(like.dtype)


def _swapped(x: Array) -> Array:
    """(B, H, K, T) -> (B, H, T, K), as a copy that the matrix product reads with the grain."""
    return jax.lax.optimization_barrier(jnp.swapaxes(x, 2, 3))


def _contract(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    return jax.lax.dot_general(a, b, (((axis_a,), (axis_b,)), _HEADS))
