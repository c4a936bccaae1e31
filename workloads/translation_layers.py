"""What the translation model needs beside workloads.layers and workloads.attention."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, Params

_NORM_EPS = 1e-6


def layer_norm(norm: Params, x: Array) -> Array:
    """Over the last axis of (N, W), in float32 (Ba et al. 2016)."""
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True) + _NORM_EPS)
    return normed.astype(x.dtype) * norm["gain"][None] + norm["bias"][None]


@functools.cache
def sinusoids(length: int, width: int) -> np.ndarray:
    """(length, width) float32 (Vaswani et al. 2017, sec. 3.5), sines first, cosines after them."""
    frequency = 10_000.0 ** (-np.arange(width // 2) / max(width // 2 - 1, 1))
    angle = np.arange(length)[:, None] * frequency[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def by_position(x: Array, parts: int, heads: int, rows: int) -> Array:
    """(B L, parts H K) -> (parts, L, B, H, K)."""
    split = x.reshape(rows, x.shape[0] // rows, parts, heads, -1)
    return jnp.transpose(split, (2, 1, 0, 3, 4))


def attend_from_one(query: Array, keys_values: Array, mask: Array) -> Array:
    """One position's attention: (B, H, K); (2, L, B, H, K); mask broadcastable to (L, B, H) -> (B, H K)."""
    keys, values = keys_values
    scores = jnp.sum(query[None] * keys, axis=3).astype(jnp.float32) + mask
    weights = jax.nn.softmax(scores, axis=0).astype(values.dtype)
    return jnp.sum(weights[..., None] * values, axis=0).reshape(query.shape[0], -1)
