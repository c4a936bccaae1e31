"""BLEU against sacrebleu, on ids written as words."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads.metrics.bleu import GROUPS, bleu, corpus_bleu, statistics

TIME, MOST = 12, 256
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
counts_of = quick_jit(statistics)
score_of = quick_jit(lambda *corpus: corpus_bleu(statistics(*corpus)))
bleu_of = quick_jit(bleu)


def random_corpus(seed, sentences=40, words=5, shortest=0, agreement=0.5):
    """Hypotheses that share a part of their words with the references, both of random lengths."""
    rng = np.random.default_rng(seed)
    references = rng.integers(0, words, (sentences, TIME))
    hypotheses = np.where(
        rng.random(references.shape) < agreement, references, rng.integers(0, words, references.shape)
    )
    lengths = rng.integers(shortest, TIME + 1, (2, sentences))
    return hypotheses, lengths[0], references, lengths[1]


def filled(corpus):
    """With empty sentences, up to one shape that is compiled once."""
    return [np.pad(part, [(0, MOST - len(part))] + [(0, 0)] * (part.ndim - 1)) for part in corpus]


def as_text(tokens, lengths):
    return [" ".join(map(str, row[:length])) for row, length in zip(tokens, lengths, strict=True)]


def sacrebleu_score(hypotheses, lengths, references, reference_lengths):
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is in the dev extra")
    texts = as_text(hypotheses, lengths), [as_text(references, reference_lengths)]
    return sacrebleu.corpus_bleu(*texts, tokenize="none", force=True)


CASES = {
    "words repeat": {"words": 3},
    "short": {"shortest": 0, "sentences": 7},
    "rare matches": {"words": 40, "agreement": 0.1},
    "one sentence": {"sentences": 1, "shortest": TIME},
    "many": {"sentences": MOST, "words": 30, "agreement": 0.8},
    "nothing in common": {"words": 1000, "agreement": 0.0, "sentences": 10},
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_sacrebleu(case):
    for seed in range(5):
        corpus = random_corpus(seed, **CASES[case])
        expected = sacrebleu_score(*corpus)
        counts = np.asarray(counts_of(*filled(corpus))).sum(axis=0)
        assert counts.tolist() == [*expected.counts, *expected.totals, expected.sys_len, expected.ref_len]
        np.testing.assert_allclose(bleu_of(jnp.asarray(counts)), expected.score, rtol=1e-6)
        with jax.enable_x64(True):
            np.testing.assert_allclose(bleu_of(jnp.asarray(counts)), expected.score, rtol=1e-12)


def test_smoothing_and_its_limits():
    """No 4-gram is right: 1/2; neither 3- nor 4-gram: 1/2 and 1/4. No match at all, or no 4-gram at all: 0."""
    for matched, total, wanted in (
        ((3, 2, 1, 0), (4, 3, 2, 1), 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25),
        ((3, 1, 0, 0), (4, 3, 2, 1), 100 * (3 / 4 * 1 / 3 * 1 / 4 * 1 / 4) ** 0.25),
        ((0, 0, 0, 0), (4, 3, 2, 1), 0.0),
        ((3, 2, 1, 0), (3, 2, 1, 0), 0.0),
    ):
        np.testing.assert_allclose(bleu_of(jnp.array([*matched, *total, 4, 4])), wanted, rtol=1e-6)
    whole = jnp.array([4, 3, 2, 1, 4, 3, 2, 1, 4, 8])
    np.testing.assert_allclose(bleu_of(whole), 100 * np.exp(1 - 8 / 4), rtol=1e-6)


def test_a_perfect_translation_scores_100_without_error():
    _, _, references, lengths = random_corpus(0, MOST, shortest=4)
    score, error = score_of(references, lengths, references, lengths)
    np.testing.assert_allclose([score, error], [100.0, 0.0], atol=1e-4)


def test_standard_error_is_that_of_fresh_corpora():
    """The jackknife's mean over corpora against the spread of their scores, 5% of which is chance."""
    scores, errors = zip(
        *(score_of(*random_corpus(seed, MOST, shortest=6, words=20, agreement=0.8)) for seed in range(200)),
        strict=True,
    )
    assert np.mean(errors) == pytest.approx(np.std(scores, ddof=1), rel=0.15)


def test_groups_of_few_sentences():
    corpus = random_corpus(1, sentences=GROUPS // 2, shortest=6)
    score, error = score_of(*corpus)
    assert 0 < error < score
