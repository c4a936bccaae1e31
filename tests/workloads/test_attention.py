"""Attention, masked and across sequences, and its gradient, against the textbook in float64."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.attention import HIDDEN, attention, causal_mask, merge_heads, padding_mask, split_heads
from workloads.layers import causal_attention

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, H, K, TQ, TK = 2, 3, 4, 5, 7
REAL = np.arange(TK)[None, :] < np.array([[7], [4]])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def operands() -> tuple[np.ndarray, ...]:
    return normal(0, B, H, K, TQ), normal(1, B, H, K, TK), normal(2, B, H, K, TK)


MASKS = {
    "none": None,
    "padding": np.asarray(padding_mask(REAL)),
    "one of each head": normal(4, B, H, TQ, TK),
    "one for all": normal(5, 1, 1, TQ, TK),
    "one of each query": normal(6, 1, H, TQ, 1),
}


def textbook(query: Any, key: Any, value: Any, mask: Any, xp: Any) -> Any:
    """One softmax over key positions for every query position, written out."""
    scores = xp.einsum("bhkt,bhks->bhts", query, key)
    scores = scores if mask is None else scores + mask
    weights = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return xp.einsum("bhts,bhks->bhkt", weights, value)


def double(tree: Any) -> Any:
    return jax.tree.map(lambda part: part.astype(np.float64), tree)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_attention_is_the_textbook_softmax(name: str, size: float) -> None:
    query, key, value = operands()
    query = size * query
    expected = textbook(*double((query, key, value, MASKS[name])), np)
    tolerance = 1e-5 * size
    found = quick_jit(attention)(query, key, value, MASKS[name])
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MASKS)
def test_the_gradient_is_that_of_the_textbook(name: str) -> None:
    """Of every operand, the mask among them: it may be a learned bias."""
    weight = normal(3, B, H, K, TQ)
    arguments = (0, 1, 2) if MASKS[name] is None else (0, 1, 2, 3)
    parts = (*operands(), MASKS[name])
    found = quick_jit(jax.grad(lambda *parts: jnp.sum(weight * attention(*parts)), argnums=arguments))(*parts)
    with jax.enable_x64(True):
        wanted = jax.grad(lambda *parts: jnp.sum(double(weight) * textbook(*parts, jnp)), argnums=arguments)
        expected = wanted(*double(parts))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_with_the_causal_mask_it_is_causal_attention() -> None:
    query, key, value = normal(0, B, H, K, TK), normal(1, B, H, K, TK), normal(2, B, H, K, TK)
    found = quick_jit(attention)(query, key, value, causal_mask(TK))
    np.testing.assert_allclose(found, quick_jit(causal_attention)(query, key, value), rtol=1e-5, atol=1e-6)


def test_hidden_keys_change_nothing() -> None:
    query, key, value = operands()
    changed = np.where(REAL[:, None, None, :], 0.0, 9.0).astype(np.float32)
    found = [quick_jit(attention)(query, key + c, value + c, MASKS["padding"]) for c in (0.0, changed)]
    np.testing.assert_array_equal(*found)


def test_a_query_that_sees_nothing_gets_the_mean() -> None:
    query, key, value = operands()
    found = quick_jit(attention)(query, key, value, np.full((1, 1, 1, 1), HIDDEN, np.float32))
    np.testing.assert_allclose(found, np.repeat(value.mean(axis=3, keepdims=True), TQ, axis=3), rtol=1e-5, atol=1e-6)


def test_half_precision_and_a_mapped_axis() -> None:
    """Masks survive bfloat16, and trials side by side get what each gets alone."""
    parts = (*operands(), MASKS["padding"])
    whole = quick_jit(attention)(*parts)
    half = quick_jit(attention)(*(part.astype(jnp.bfloat16) for part in parts))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), whole, atol=0.05)
    both = [np.stack([part, part[::-1]]) for part in parts]
    np.testing.assert_allclose(quick_jit(jax.vmap(attention))(*both)[0], whole, rtol=1e-5, atol=1e-6)


def test_heads_are_consecutive_features() -> None:
    x = normal(0, B * TQ, H * K)
    split = split_heads(x, H, TQ)
    assert split.shape == (B, H, K, TQ)
    assert split[1, 2, 3, 4] == x[TQ + 4, 2 * K + 3]
    np.testing.assert_array_equal(merge_heads(split), x)
