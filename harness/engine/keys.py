"""Random keys for programs that draw few numbers often: Threefry-2x32 as straight-line arithmetic.

The bits are those of JAX's own `threefry2x32` keys (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
20 rounds; counters as JAX numbers them with jax_threefry_partitionable). On CPU, JAX compiles its keys' rounds to a loop of
small kernels, to compile sooner; for a batch of a small model these take longer than the step. Here they fuse.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

from workloads.base import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_GROUPS = 5  # of four rounds


def key(seed: Array) -> Array:
    """A key for the functions of jax.random, from a scalar integer. Draws the numbers that jax.random.key(seed) draws."""
    return jax.random.key(seed, impl=_UNROLLED)


def _hash(words: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of the counters (high, low) under the key `words` (2,). All uint32."""
    schedule = (words[0], words[1], words[0] ^ words[1] ^ _PARITY)
    x, y = high + schedule[0], low + schedule[1]
    for group in range(_GROUPS):
        for bits in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << np.uint32(bits) | y >> np.uint32(32 - bits))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def _count(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Counters 0, 1, ... in row-major order, as (high, low) words."""
    size = math.prod(shape)
    if size >= 2**32:
        raise NotImplementedError(f"{size} random numbers at once; draw fewer than 2^32")
    low = jax.lax.iota(jnp.uint32, size).reshape(shape)
    return jnp.zeros_like(low), low


def _seed(seed: Array) -> Array:
    return jnp.stack([jnp.uint32(0), seed.astype(jnp.uint32)])


def _split(words: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_hash(words, *_count(shape)), axis=-1)


def _fold_in(words: Array, data: Array) -> Array:
    return jnp.stack(_hash(words, jnp.uint32(0), data.astype(jnp.uint32)))


def _random_bits(words: Array, width: int, shape: tuple[int, ...]) -> Array:
    if width > 32:
        raise NotImplementedError("64 random bits at once; draw 32 twice")
    x, y = _hash(words, *_count(shape))
    return (x ^ y).astype(f"uint{width}")


_UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="windtunnel_threefry2x32",
    tag="fry",
)
