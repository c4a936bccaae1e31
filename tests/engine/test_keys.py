"""The engine's keys draw what JAX's own draw, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.engine import keys

DRAWS: dict[str, Callable[[Any], Any]] = {
    "normal": lambda key: jax.random.normal(key, (3, 5)),
    "randint": lambda key: jax.random.randint(key, (7,), 0, 1000),
    "bytes": lambda key: jax.random.bits(key, (5,), "uint8"),
    "folded": lambda key: jax.random.uniform(jax.random.fold_in(key, 2**31 + 5), (3,)),
    "split": lambda key: jax.random.bits(jax.random.split(key, (2, 3))[1, 2]),
    "permutation": lambda key: jax.random.permutation(key, 9),
}


@pytest.mark.parametrize("name", DRAWS)
def test_bits_are_those_of_jax(name: str) -> None:
    draw = DRAWS[name]
    seeds = jnp.array([0, 7, 2**31 - 1])
    ours, theirs = (jax.jit(jax.vmap(lambda seed, make=make: draw(make(seed)))) for make in (keys.key, jax.random.key))
    np.testing.assert_array_equal(ours(seeds), theirs(seeds))
    np.testing.assert_array_equal(draw(keys.key(7)), ours(seeds)[1])


def test_more_bits_than_a_counter_holds_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="2\\^32"):
        jax.jit(lambda: jax.random.bits(keys.key(0), (2**16, 2**16))).lower()
