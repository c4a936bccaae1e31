"""Predictions for a whole split, a part at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from workloads.base import Array


def in_parts(function: Callable[..., Array], arrays: tuple[Array, ...], size: int) -> Array:
    """function(*arrays) of arrays with N rows each, computed for `size` rows at a time. (N, ...) -> (N, ...)"""
    rows = arrays[0].shape[0]
    whole = rows // size * size
    rest = function(*(array[whole:] for array in arrays)) if whole < rows else None
    if not whole:
        return rest
    split = tuple(array[:whole].reshape(-1, size, *array.shape[1:]) for array in arrays)
    parts = jax.lax.map(lambda part: function(*part), split)
    found = parts.reshape(whole, *parts.shape[2:])
    return found if rest is None else jnp.concatenate([found, rest])
