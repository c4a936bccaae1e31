"""The generated language pair: what its docstrings claim."""

from __future__ import annotations

import numpy as np
import pytest

from workloads.data.parallel import EOS, PAD
from workloads.data.transduction import Grammar, frequencies, generate

GRAMMAR = Grammar()
SENTENCES = GRAMMAR.sample(20_000, stream=7)
WORDS = np.array(GRAMMAR.lexicon.words)


def texts(tokens):
    return [" ".join(WORDS[row[row > EOS]]) for row in tokens]


def lengths(tokens):
    return np.sum(tokens > EOS, axis=1)


def translation_of(source):
    """The best translation of a sentence in words, by the rules read from the docstring, word for word."""
    lexicon, left = GRAMMAR.lexicon, source.split()

    def take(kind):
        return left.pop(0)[1:] if left and left[0].startswith(kind) else None

    def phrase():
        """Its translation, number and animacy of the noun."""
        determiner = take("d")
        if determiner is None:
            return [], None, 0
        kind, number = determiner.split(".")
        adjective, noun = take("a"), int(take("n"))
        gender = lexicon.gender[noun]
        words = [f"N0.{noun}.{number}", *([f"A0.{adjective}.{gender}"] if adjective else []), f"D{kind}.{gender}"]
        return words, number, lexicon.animate[noun]

    def verb(number, animate):
        homograph = int(number) < GRAMMAR.transitive // 2 and animate
        return f"{'H' if homograph else 'V'}0.{number}"

    adverb, (subject, number, _) = take("b"), phrase()
    relative = []
    if take("r") is not None:
        inner_verb, (inner, _, animate) = take("v"), phrase()
        relative = [*inner, verb(inner_verb, animate), "R"]
    tense, main_verb = take("t"), take("v")
    thing, _, animate = phrase()
    preposition = take("p")
    place, _, where = phrase()
    place += [f"P{preposition}.{where}"] if preposition else []
    assert not left
    early, late = ([f"B{adverb}"] if adverb and int(adverb) % 2 == odd else [] for odd in (0, 1))
    return " ".join(
        [*early, *relative, *subject, *place, *thing, *late, verb(main_verb, animate), f"E{tense}.{number}"]
    )


def test_best_translations_follow_the_rules():
    for source, best in zip(texts(SENTENCES.source[:500]), texts(SENTENCES.best[:500]), strict=True):
        assert translation_of(source) == best


def test_references_differ_by_synonyms_at_the_known_rate():
    """Each word with a synonym is replaced independently: a binomial count."""
    replaced = SENTENCES.reference != SENTENCES.best
    count, trials = replaced.sum(), SENTENCES.content.sum()
    expected = GRAMMAR.ambiguity * trials
    assert abs(count - expected) < 4 * np.sqrt(expected * (1 - GRAMMAR.ambiguity))
    per_sentence = np.bincount(replaced.sum(axis=1)[SENTENCES.content == 4], minlength=5)[:5]
    wanted = np.array([0.9**4, 4 * 0.1 * 0.9**3, 6 * 0.01 * 0.81, 4 * 0.001 * 0.9, 0.1**4]) * per_sentence.sum()
    assert np.all(np.abs(per_sentence - wanted) < 4 * np.sqrt(wanted + 1))
    changed = np.argwhere(replaced)[:200]
    for row, column in changed:
        kind, synonym = WORDS[SENTENCES.best[row, column]], WORDS[SENTENCES.reference[row, column]]
        assert kind[0] == synonym[0]
        assert (kind[1:3], synonym[1:3]) == ("0.", "1.")
        assert kind[3:] == synonym[3:]


def test_optional_parts_and_frequencies():
    source = texts(SENTENCES.source)
    n = len(source)
    for kind, probability in (("r", GRAMMAR.relative), ("p", GRAMMAR.phrase), ("b", GRAMMAR.adverb)):
        share = np.mean([any(word[0] == kind for word in sentence.split()) for sentence in source])
        assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / n)
    nouns = [int(word[1:]) for sentence in source for word in sentence.split() if word[0] == "n"]
    observed = np.bincount(nouns, minlength=GRAMMAR.nouns) / len(nouns)
    np.testing.assert_allclose(observed, frequencies(GRAMMAR.nouns), atol=4 * np.sqrt(0.1 / len(nouns)))
    assert frequencies(40)[0] / frequencies(40)[9] == pytest.approx(12 / 3)


def test_sentences_end_once_and_are_padded():
    for tokens in (SENTENCES.source, SENTENCES.reference, SENTENCES.best):
        assert tokens.dtype == np.uint16
        length = lengths(tokens)
        assert np.all(np.sum(tokens == EOS, axis=1) == 1)
        assert np.all(tokens[np.arange(len(tokens)), length] == EOS)
        assert np.all((tokens != PAD) == (np.arange(tokens.shape[1]) <= length[:, None]))
    np.testing.assert_array_equal(lengths(SENTENCES.reference), lengths(SENTENCES.best))


def test_seeds_and_streams():
    again = Grammar().sample(50, stream=7).source
    np.testing.assert_array_equal(again, Grammar().sample(50, stream=7).source)
    assert np.any(again != Grammar().sample(50, stream=8).source)
    assert np.any(Grammar(seed=1).lexicon.gender != GRAMMAR.lexicon.gender)


def test_splits():
    corpus = generate(0, (3000, 20, 3000))
    assert generate(0, (3000, 20, 3000)) is corpus
    assert corpus.info["sha256"] != generate(1, (3000, 20, 3000)).info["sha256"]
    assert max(tokens.max() for tokens in corpus.target.values()) < len(corpus.vocabulary)
    trained = set(texts(corpus.source["train"]))
    assert np.mean([text in trained for text in texts(corpus.source["test"])]) < 0.01
    for split, best in corpus.best.items():
        assert best.shape == corpus.target[split].shape
