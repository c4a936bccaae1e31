"""Edit distance, word error rate and CTC, against jiwer, optax and the definitions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from workloads.ctc import ctc_loss, greedy_decode
from workloads.metrics.edit_distance import edit_distance, word_error_rate, word_errors

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}  # a third of the time to compile
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
SEPARATOR = 1
ALPHABET = "- ab"  # label 0 is no letter


def sequences(seed: int, count: int, most: int, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, most + 1, count)
    drawn = rng.integers(1, labels, (count, most))
    return drawn.astype(np.int32), lengths.astype(np.int32)


def texts(labels: np.ndarray, lengths: np.ndarray) -> list[str]:
    return ["".join(ALPHABET[label] for label in row[:length]) for row, length in zip(labels, lengths, strict=True)]


def textbook(a: Sequence, b: Sequence) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        same = a[i - 1] == b[j - 1]
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same))
    return int(table[-1, -1])


def test_edit_distance_is_the_textbook_table() -> None:
    hypotheses, references = sequences(0, 200, 9), sequences(1, 200, 6)
    found = quick_jit(edit_distance)(*hypotheses, *references)
    expected = [textbook(a[:m], b[:n]) for a, m, b, n in zip(*hypotheses, *references, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert len(set(expected)) > 5


def test_word_error_rate_is_that_of_jiwer() -> None:
    """On strings with leading, trailing and repeated separators, and empty hypotheses."""
    jiwer = pytest.importorskip("jiwer")
    errors_of = quick_jit(functools.partial(word_errors, separator=SEPARATOR))
    for seed in range(3):
        hypotheses, references = sequences(2 * seed, 300, 24), sequences(2 * seed + 1, 300, 14)
        references[1][:] = np.maximum(references[1], 1)
        references[0][:, 0] = 2  # jiwer refuses references without a word
        errors, words = errors_of(*hypotheses, *references)
        rate, _ = word_error_rate(errors, words)
        said, heard = texts(*references), texts(*hypotheses)
        assert float(rate) == pytest.approx(jiwer.wer(said, heard), abs=1e-6)
        each = [textbook(a.split(), b.split()) for a, b in zip(heard, said, strict=True)]
        np.testing.assert_array_equal(errors, each)
        np.testing.assert_array_equal(words, [len(text.split()) for text in said])
        assert len(set(each)) > 3


def test_perfect_and_empty_hypotheses() -> None:
    references, lengths = sequences(5, 50, 12)
    errors_of = quick_jit(functools.partial(word_errors, separator=SEPARATOR))
    errors, words = errors_of(references, lengths, references, lengths)
    assert int(jnp.sum(errors)) == 0
    errors, _ = errors_of(references, 0 * lengths, references, lengths)
    np.testing.assert_array_equal(errors, words)
    assert word_error_rate(errors, words)[0] == 1.0
    assert word_error_rate(0 * words, 0 * words)[0] == 0.0


def test_the_standard_error_is_the_spread_of_the_rate_over_corpora() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(1, 6, (2000, 300))
    errors = rng.binomial(words, rng.beta(1, 2, words.shape))
    rates, stated = jax.vmap(word_error_rate)(jnp.asarray(errors), jnp.asarray(words))
    assert float(jnp.mean(stated)) == pytest.approx(float(jnp.std(rates)), rel=0.05)


def transcripts(batch: int, time: int, labels: int, letters: int) -> tuple[np.ndarray, ...]:
    """Logits, frames, labels, lengths; frames suffice for every transcript."""
    rng = np.random.default_rng(7)
    logits = (2.0 * rng.normal(size=(batch, time, letters))).astype(np.float32)
    drawn, lengths = sequences(8, batch, labels, letters)
    repeated = (drawn[:, 1:] == drawn[:, :-1]) & (np.arange(1, labels)[None, :] < lengths[:, None])
    needed = np.maximum(lengths + repeated.sum(axis=1), 1)
    frames = rng.integers(needed, time + 1)
    return logits, frames.astype(np.int32), drawn, lengths


def by_optax(logits: jax.Array, frames: jax.Array, labels: jax.Array, lengths: jax.Array) -> jax.Array:
    padded = (jnp.arange(logits.shape[1])[None, :] >= frames[:, None]).astype(jnp.float32)
    missing = (jnp.arange(labels.shape[1])[None, :] >= lengths[:, None]).astype(jnp.float32)
    return optax.ctc_loss(logits, padded, labels, missing)


def test_ctc_and_its_gradient_are_those_of_optax() -> None:
    batch = transcripts(40, 17, 6, 4)
    weights = np.random.default_rng(1).normal(size=40).astype(np.float32)

    def both(loss_of):
        return quick_jit(jax.value_and_grad(lambda x, *rest: (loss_of(x, *rest) @ weights, loss_of(x, *rest))[0]))(
            *batch
        )

    (found, gradient), (expected, optax_gradient) = both(ctc_loss), both(by_optax)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, optax_gradient, atol=1e-4)
    np.testing.assert_allclose(quick_jit(ctc_loss)(*batch), quick_jit(by_optax)(*batch), rtol=1e-5, atol=1e-5)
    assert {0, 6} <= set(batch[3].tolist())


def test_ctc_sums_over_all_paths() -> None:
    """Every labelling of 5 frames, collapsed."""
    logits, _, _, _ = transcripts(1, 5, 2, 3)
    loss_of = quick_jit(ctc_loss)
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    for transcript in ([], [1], [2, 2], [1, 2, 1]):
        total = 0.0
        for path in itertools.product(range(3), repeat=5):
            merged = [label for label, _ in itertools.groupby(path) if label]
            total += np.prod(p[np.arange(5), path]) if merged == transcript else 0.0
        labels = np.array([transcript + [0] * (3 - len(transcript))], np.int32)
        loss = loss_of(logits, np.array([5]), labels, np.array([len(transcript)]))
        assert float(loss[0]) == pytest.approx(-np.log(total), rel=1e-4)


def test_ctc_of_an_impossible_transcript_is_large_and_its_gradient_finite() -> None:
    logits, _, _, _ = transcripts(1, 5, 2, 3)
    impossible = np.array([2]), np.array([[1, 1]]), np.array([2])  # between two of the same there must be a blank
    loss, gradient = quick_jit(jax.value_and_grad(lambda x: ctc_loss(x, *impossible)[0]))(logits)
    assert 1e4 < float(loss) < 1e6
    assert np.isfinite(gradient).all()
    assert (gradient[0, 2:] == 0).all()


def test_greedy_decoding_merges_repetitions_and_drops_blanks() -> None:
    rng = np.random.default_rng(3)
    best = rng.integers(0, 3, (50, 12))
    frames = rng.integers(1, 13, 50).astype(np.int32)
    logits = np.asarray(jax.nn.one_hot(best, 4)) + 0.1 * rng.random((50, 12, 4))
    labels, lengths = quick_jit(greedy_decode)(logits, frames)
    for row, n, decoded, length in zip(best, frames, labels, lengths, strict=True):
        expected = [label for label, _ in itertools.groupby(row[:n].tolist()) if label]
        assert decoded[:length].tolist() == expected
        assert not decoded[length:].any()
