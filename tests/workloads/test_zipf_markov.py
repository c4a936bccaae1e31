"""The Markov source: its entropy rate is what the true model scores, and its law is Zipf's."""

import numpy as np
import pytest

from workloads.data.text import load_corpus
from workloads.data.zipf_markov import ZipfMarkov, parse

SOURCES = [
    ZipfMarkov(),
    ZipfMarkov(vocab_size=100, exponent=1.5, seed=3),
    ZipfMarkov(vocab_size=12, exponent=0.8, order=2),
    ZipfMarkov(vocab_size=2, exponent=2.0),
]
ids = [f"V{s.vocab_size}-order{s.order}" for s in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_true_model_scores_the_entropy_rate_on_held_out_tokens(source):
    surprise = -source.log_probabilities(source.sample(200_000, stream=1))
    assert len(surprise) == 200_000 - source.order
    # Surprises are independent of each other: the rank of a token does not depend on the state before it.
    standard_error = surprise.std() / len(surprise) ** 0.5
    assert abs(surprise.mean() - source.entropy_rate) < 3 * standard_error
    assert standard_error < 0.005 * source.entropy_rate + 1e-3, "the interval is narrow enough to fail"


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_stationary_distribution_is_stationary_and_visited(source):
    pi = source.stationary
    assert pi.sum() == pytest.approx(1.0, abs=1e-12)
    assert pi.min() > 0
    np.testing.assert_allclose(source.advance(pi), pi, rtol=0, atol=1e-14)
    tokens = source.sample(400_000, stream=0)
    frequency = np.bincount(tokens, minlength=source.vocab_size) / len(tokens)
    expected = pi.reshape(-1, source.vocab_size).sum(axis=0)
    # Neighbours are correlated, so the bound is wider than that of independent tokens.
    np.testing.assert_allclose(frequency, expected, atol=6 * (expected.max() / len(tokens)) ** 0.5)


def test_first_order_stationary_distribution_is_the_eigenvector():
    source = ZipfMarkov(vocab_size=20, exponent=1.2)
    values, vectors = np.linalg.eig(source.probabilities.T)
    leading = np.real(vectors[:, np.argmax(np.real(values))])
    np.testing.assert_allclose(source.stationary, leading / leading.sum(), atol=1e-12)


@pytest.mark.parametrize("source", SOURCES, ids=ids)
def test_the_entropy_rate_is_the_mean_entropy_of_the_rows(source):
    p = source.probabilities
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
    rows = -(p * np.log(p)).sum(axis=1)
    assert source.entropy_rate == pytest.approx(float(source.stationary @ rows), rel=1e-12)
    assert source.entropy_rate <= source.unigram_entropy <= np.log(source.vocab_size) + 1e-12


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.5])
def test_the_ranks_of_sampled_tokens_have_the_zipf_slope(exponent):
    source = ZipfMarkov(vocab_size=50, exponent=exponent, seed=1)
    tokens = source.sample(500_000, stream=2).astype(int)
    rank_of = np.argsort(source.ranked, axis=1)
    counts = np.bincount(rank_of[tokens[:-1], tokens[1:]], minlength=50)
    slope = np.polyfit(np.log(np.arange(1, 51)), np.log(counts), 1, w=np.sqrt(counts))[0]
    assert slope == pytest.approx(-exponent, abs=0.01)


def test_second_order_sources_need_two_tokens_of_context():
    source = ZipfMarkov(vocab_size=12, exponent=1.5, order=2)
    tokens = source.sample(300_000, stream=0).astype(int)
    pairs = np.bincount(tokens[:-1] * 12 + tokens[1:], minlength=144).reshape(12, 12) / (len(tokens) - 1)
    bigram_entropy = -(pairs * np.log(pairs / pairs.sum(axis=1, keepdims=True))).sum()
    assert bigram_entropy > source.entropy_rate + 0.3


def test_samples_depend_on_the_seed_and_the_stream_only():
    source = ZipfMarkov(seed=5)
    np.testing.assert_array_equal(source.sample(1000, 0), ZipfMarkov(seed=5).sample(1000, 0))
    assert (source.sample(1000, 0) != source.sample(1000, 1)).any()
    assert (source.ranked != ZipfMarkov(seed=6).ranked).any()


def test_the_corpus_records_the_truth_and_its_settings():
    corpus = load_corpus("zipf_markov:vocab_size=32,exponent=1.2,seed=4")
    source = parse("vocab_size=32,exponent=1.2,seed=4")
    assert source == ZipfMarkov(vocab_size=32, exponent=1.2, seed=4)
    assert corpus.info["entropy_rate"] == source.entropy_rate
    assert corpus.info["seed"] == 4
    assert corpus.vocab_size == 32
    assert corpus.train.dtype == np.uint16
    assert len(corpus.train) == 1_000_000
    np.testing.assert_array_equal(corpus.test, source.sample(len(corpus.test), stream=2))
    assert load_corpus("zipf_markov").info["exponent"] == 1.0
