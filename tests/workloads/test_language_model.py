"""The language model against textbook definitions: attention, rotary positions, causality, loss and evaluation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.base import BadInput
from workloads.language_model import LanguageModel
from workloads.layers import causal_attention, matmul, rms_norm, rotate

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
SMALL = LanguageModel(
    corpus="zipf_markov:vocab_size=16", width=16, depth=2, heads=2, context=8, batch_size=4, evaluation_sequences=10
)
B, H, K, T = 2, 3, 4, 7


def alive(model: LanguageModel) -> Any:
    """Random parameters in every leaf (residual branches start at zero, which would hide what is in them)."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(model.init, KEY)
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape).astype(np.float32)), shapes)


@pytest.fixture(scope="module")
def params() -> Any:
    return alive(SMALL)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


@pytest.fixture(scope="module")
def batch(data: dict[str, Any]) -> Any:
    return quick_jit(SMALL.batch)(data, jax.random.key(1), 0)


def logits(model: LanguageModel, params: Any, tokens: Any) -> np.ndarray:
    found = quick_jit(model.logits)(params, tokens)
    return np.asarray(found).reshape(*tokens.shape, -1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- layers


def textbook_attention(query: Any, key: Any, value: Any, xp: Any) -> Any:
    """(B, H, K, T) -> (B, H, K, T): softmax over the past of q_t . k_s, written out."""
    scores = xp.einsum("bhkt,bhks->bhts", query, key)
    allowed = np.tril(np.ones((T, T), bool))[None, None]
    scores = xp.where(allowed, scores, -xp.inf)
    weights = xp.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return xp.einsum("bhts,bhks->bhkt", weights, value)


def test_attention_is_the_softmax_of_the_past() -> None:
    parts = [normal(seed, B, H, K, T) for seed in range(3)]
    expected = textbook_attention(*(part.astype(np.float64) for part in parts), np)
    np.testing.assert_allclose(quick_jit(causal_attention)(*parts), expected, rtol=1e-5, atol=1e-6)
    # the first position sees itself only
    np.testing.assert_allclose(causal_attention(*parts)[..., 0], parts[2][..., 0], rtol=1e-6)


def test_attention_survives_large_scores() -> None:
    query, key, value = 30 * normal(0, B, H, K, T), 30 * normal(1, B, H, K, T), normal(2, B, H, K, T)
    expected = textbook_attention(*(part.astype(np.float64) for part in (query, key, value)), np)
    np.testing.assert_allclose(causal_attention(query, key, value), expected, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_attention_is_that_of_the_textbook() -> None:
    parts, weight = [normal(seed, B, H, K, T) for seed in range(3)], normal(3, B, H, K, T)

    def ours(*parts: Any) -> Any:
        return jnp.sum(weight * causal_attention(*parts))

    found = quick_jit(jax.grad(ours, argnums=(0, 1, 2)))(*parts)
    with jax.enable_x64(True):
        double = [part.astype(np.float64) for part in parts]
        expected = jax.grad(
            lambda *parts: jnp.sum(weight.astype(np.float64) * textbook_attention(*parts, jnp)), argnums=(0, 1, 2)
        )(*double)
    for ours_part, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours_part, theirs, rtol=1e-5, atol=1e-5)


def test_matmul_and_its_gradient_are_plain() -> None:
    x, w, weight = normal(0, 12, 5), normal(1, 5, 9), normal(2, 12, 9)

    def gradients(product: Any) -> Any:
        return quick_jit(jax.value_and_grad(lambda x, w: jnp.sum(weight * jnp.tanh(product(x, w))), argnums=(0, 1)))(
            x, w
        )

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        gradients(matmul),
        gradients(lambda x, w: x @ w),
    )


def test_rms_norm() -> None:
    x, gain = normal(0, 6, 8), normal(1, 8)
    expected = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rms_norm(x), expected, rtol=1e-5)
    np.testing.assert_allclose(rms_norm(x, gain), expected * gain, rtol=1e-5)
    np.testing.assert_allclose(rms_norm(100 * x), rms_norm(x), rtol=1e-4)


def test_rotation_is_by_the_textbook_angles() -> None:
    """Su et al. 2021, eq. 15, as complex numbers: pair k turns by position x 10000^(-2k / K)."""
    x = normal(0, B, H, 6, T)
    pairs = x[:, :, :3] + 1j * x[:, :, 3:]
    angle = np.arange(T)[None, :] * 10_000.0 ** (-2 * np.arange(3)[:, None] / 6)
    turned = pairs * np.exp(1j * angle)[None, None]
    expected = np.concatenate([turned.real, turned.imag], axis=2)
    np.testing.assert_allclose(rotate(x, T), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(rotate(x, T)[..., 0], x[..., 0])


def test_rotated_products_depend_on_relative_positions_only() -> None:
    q, k = (np.repeat(normal(seed, 1, 1, 8, 1), 20, axis=3) for seed in (0, 1))
    scores = np.einsum("bhkt,bhks->ts", rotate(q, 20), rotate(k, 20))
    for distance in range(-19, 20):
        np.testing.assert_allclose(np.diagonal(scores, distance), scores.diagonal(distance)[0], atol=1e-4)
    assert len(np.unique(scores[0].round(3))) > 10


# --- model


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_model_is_the_textbook_transformer(params: Any, batch: Any, qk_norm: bool) -> None:
    """Forward pass in float64 numpy, one sequence and one head at a time; all three scalars in play."""
    model = SMALL.replace(attention_scale=0.7, residual_scale=0.6, output_scale=1.3, qk_norm=qk_norm)
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x: Any, gain: Any = 1.0) -> Any:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * gain

    def turned(x: Any) -> Any:
        half = x.shape[1] // 2
        angle = np.arange(len(x))[:, None] * 10_000.0 ** (-np.arange(half)[None, :] / half)
        pair = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
        return np.concatenate([pair.real, pair.imag], axis=1)

    def head(q: Any, k: Any, v: Any) -> Any:
        q, k = (norm(q), norm(k)) if qk_norm else (q, k)
        scores = 0.7 * turned(q) @ turned(k).T / np.sqrt(q.shape[1])
        weights = np.tril(np.exp(scores))
        return weights / weights.sum(axis=1, keepdims=True) @ v

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    found = logits(model, params, batch[:, :-1])
    for sequence, ours in zip(np.asarray(batch[:, :-1]), found, strict=True):
        x = tree["embedding"][sequence]
        for layer in range(2):
            block = tree[f"layer_{layer}"]
            q, k, v = np.split(norm(x, block["attention_norm"]) @ block["query_key_value"], 3, axis=1)
            heads = [head(q[:, h], k[:, h], v[:, h]) for h in (slice(0, 8), slice(8, 16))]
            x = x + 0.6 * np.concatenate(heads, axis=1) @ block["attention_out"]
            x = x + 0.6 * gelu(norm(x, block["mlp_norm"]) @ block["mlp_in"]) @ block["mlp_out"]
        expected = 1.3 * norm(x, tree["final_norm"]) @ tree["readout"]
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"tied_embeddings": True}])
def test_a_token_is_not_seen_before_its_position(changes: dict[str, Any], batch: Any) -> None:
    model = SMALL.replace(**changes)
    params = alive(model)
    forward = quick_jit(model.logits)
    tokens = batch[:, :-1]
    before = np.asarray(forward(params, tokens)).reshape(4, 8, -1)
    for position in (1, 4, 7):
        changed = tokens.at[:, position].set((tokens[:, position] + 1) % 16)
        after = np.asarray(forward(params, changed)).reshape(4, 8, -1)
        assert np.array_equal(before[:, :position], after[:, :position])
        assert np.any(before[:, position:] != after[:, position:], axis=(0, 2)).all()


def test_sequences_do_not_see_each_other(params: Any, batch: Any) -> None:
    tokens = batch[:, :-1]
    changed = tokens.at[1].set((tokens[1] + 1) % 16)
    before, after = logits(SMALL, params, tokens), logits(SMALL, params, changed)
    assert np.array_equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert np.any(before[1] != after[1])


@pytest.mark.parametrize("qk_norm", [False, True])
def test_qk_norm_makes_attention_blind_to_the_scale_of_queries_and_keys(params: Any, batch: Any, qk_norm: bool) -> None:
    model, tokens = SMALL.replace(qk_norm=qk_norm), batch[:, :-1]
    columns = np.repeat(np.float32([5.0, 3.0, 1.0]), 16)[None, :]  # queries, keys, values
    scaled = {
        **params,
        **{
            layer: params[layer] | {"query_key_value": params[layer]["query_key_value"] * columns}
            for layer in ("layer_0", "layer_1")
        },
    }
    same = np.allclose(logits(model, params, tokens), logits(model, scaled, tokens), rtol=1e-3, atol=1e-3)
    assert same == qk_norm


def test_tied_embeddings_read_out_with_the_embedding(params: Any, batch: Any) -> None:
    tied = SMALL.replace(tied_embeddings=True)
    shared = {key: leaf for key, leaf in params.items() if key != "readout"}
    assert jax.tree.structure(shared) == jax.tree.structure(jax.eval_shape(tied.init, KEY))
    untied = logits(SMALL, shared | {"readout": params["embedding"].T}, batch[:, :-1])
    np.testing.assert_allclose(logits(tied, shared, batch[:, :-1]), untied, rtol=1e-5, atol=1e-5)


def test_the_loss_is_cross_entropy_plus_z_loss(params: Any, batch: Any) -> None:
    found = logits(SMALL, params, batch[:, :-1]).astype(np.float64)
    log_z = np.log(np.exp(found).sum(axis=-1))
    right = np.take_along_axis(found, np.asarray(batch)[:, 1:, None].astype(int), axis=-1)[..., 0]
    loss, aux = quick_jit(SMALL.replace(z_loss=0.25).loss)(params, batch, KEY)
    assert aux["cross_entropy"] == pytest.approx(np.mean(log_z - right), rel=1e-5)
    assert loss == pytest.approx(np.mean(log_z - right) + 0.25 * np.mean(log_z**2), rel=1e-5)
    assert quick_jit(SMALL.loss)(params, batch, KEY)[0] == pytest.approx(np.mean(log_z - right), rel=1e-5)


@pytest.mark.parametrize("width", [16, 64, 256])
def test_the_loss_starts_near_the_uniform_guess(batch: Any, width: int) -> None:
    """Logits of unit variance cost about half a nat, at every width; without output exactly log(vocabulary)."""
    model = SMALL.replace(width=width, depth=1)
    start = quick_jit(model.init)(KEY)
    loss = float(quick_jit(model.loss)(start, batch, KEY)[0])
    assert abs(loss - np.log(16) - 0.5) < 0.5
    for silent in (model.replace(output_scale=0.0), model.replace(output_scale=0.0, tied_embeddings=True)):
        assert float(quick_jit(silent.loss)(start, batch, KEY)[0]) == pytest.approx(np.log(16), rel=1e-6)


# --- data


def test_batches_are_consecutive_tokens_of_the_training_split(data: dict[str, Any], batch: Any) -> None:
    train = np.asarray(data["train"])
    windows = np.lib.stride_tricks.sliding_window_view(train, 9)
    assert batch.shape == (4, 9)
    for sequence in np.asarray(batch):
        assert (windows == sequence).all(axis=1).any()


def test_every_offset_of_the_training_split_can_be_drawn() -> None:
    tokens = jnp.arange(12, dtype=jnp.uint8)
    draws = jax.vmap(lambda step: SMALL.batch({"train": tokens}, KEY, step)[:, 0])(jnp.arange(100))
    assert set(np.asarray(draws).ravel().tolist()) == {0, 1, 2, 3}  # 12 tokens hold 4 sequences of 8 + 1


@pytest.mark.parametrize(("sequences", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 4), (5, 1)])
def test_evaluation_covers_every_sequence(params: Any, data: dict[str, Any], sequences: int, batch_size: int) -> None:
    model = SMALL.replace(evaluation_sequences=sequences, batch_size=batch_size)
    tokens = np.asarray(data["validation"])
    starts = model.evaluation_starts(len(tokens))
    assert len(starts) == sequences
    assert starts[0] == 0
    assert sequences == 1 or starts[-1] == len(tokens) - 9
    expected = []
    for start in starts:
        sequence = tokens[start : start + 9].astype(int)
        found = logits(SMALL, params, sequence[None, :-1])[0].astype(np.float64)
        expected.append(found[np.arange(8), sequence[1:]] - np.log(np.exp(found).sum(axis=1)))
    found = quick_jit(model.log_probabilities)(params, data["validation"])
    assert found.shape == (sequences, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    score = quick_jit(model.evaluate, static_argnums=2)(params, data, "validation")
    assert score["loss"] == pytest.approx(-np.mean(expected), rel=1e-5)


def test_evaluated_sequences_do_not_overlap_where_the_split_is_long(data: dict[str, Any]) -> None:
    gaps = np.diff(SMALL.evaluation_starts(len(data["test"])))
    assert gaps.min() >= 8
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"heads": 3}, "width=16 is not divisible by workload.heads=3; choose a width that is a multiple of the heads"),
        ({"heads": 0}, "workload.heads=0"),
        ({"heads": 16}, "must be even for rotary embeddings; choose a width that is a multiple of 32"),
        ({"context": 0}, "workload.context"),
        ({"evaluation_sequences": 0}, "workload.evaluation_sequences"),
    ],
)
def test_impossible_shapes_name_the_fix(changes: dict[str, Any], fix: str) -> None:
    with pytest.raises(BadInput, match=fix):
        SMALL.replace(**changes).validate()


def test_a_context_longer_than_a_split_is_refused() -> None:
    with pytest.raises(BadInput, match="use a longer corpus or a shorter context"):
        SMALL.replace(context=10_000_000).load()
    longest = len(SMALL.load().arrays["test"]) - 1
    SMALL.replace(context=longest).load()
    with pytest.raises(BadInput, match=r"the (validation|test) split"):
        SMALL.replace(context=longest + 1).load()


def test_an_epoch_is_the_training_split_once() -> None:
    assert SMALL.load().examples == (len(SMALL.load().arrays["train"]) - 1) // 8
    assert SMALL.tokens_per_example == 8
