"""A generated language pair: source sentences from a small probabilistic grammar, their translations by rules.

Source order is adverb, subject, relative clause, tense, verb, object, prepositional phrase; the translation's is

    time adverb | object and verb of the relative clause, its particle | subject | prepositional phrase | object |
    other adverb | verb | ending

with nouns before adjectives before determiners, and prepositions after their noun. What a word becomes depends on others:

- nouns inflect for number, which only the source's determiner shows; determiners and adjectives agree with the gender of
  their noun; the ending, the last word, agrees with the tense and with the number of the subject;
- prepositions, and the most frequent half of the transitive verbs, mean one thing with an animate noun and another with an
  inanimate one.

Every noun, adjective and verb has a synonym that a reference uses instead with probability `ambiguity`, independently each
time, which nobody can foresee: the best translation is the one without synonyms. Own construction.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from workloads.data.corpus import SPLITS
from workloads.data.parallel import EOS, PAD, SPECIAL, Parallel, fingerprint

GENDERS, TENSES, NUMBERS, SENSES = 3, 3, 2, 2

Slot = tuple[np.ndarray, np.ndarray]  # present (N,); words (N,), or (2, N) with the synonyms second


@dataclass(frozen=True)
class Sentences:
    """source: (N, S). reference, best: (N, T) translations, with sampled synonyms and with none. uint16, padded with PAD.

    content: (N,) words of the translation that have a synonym.
    """

    source: np.ndarray
    reference: np.ndarray
    best: np.ndarray
    content: np.ndarray


@dataclass(frozen=True)
class Grammar:
    """How many words each kind has in the source, and the probabilities of what a sentence may have.

    Within a kind the word of rank r = 1, 2, ... has probability proportional to 1 / (r + 2), so that some words are rare.
    adjective: in the subject, and in the object. ambiguity: see above. seed: of the lexicon (gender, animacy) and of the
    sentences.
    """

    nouns: int = 40
    adjectives: int = 16
    transitive: int = 16
    intransitive: int = 8
    prepositions: int = 6
    adverbs: int = 6
    determiners: int = 4
    adjective: float = 0.5
    relative: float = 0.3
    object: float = 0.7
    phrase: float = 0.5
    adverb: float = 0.4
    ambiguity: float = 0.1
    seed: int = 0

    @functools.cached_property
    def lexicon(self) -> Lexicon:
        return Lexicon(self)

    def sample(self, sentences: int, stream: int) -> Sentences:
        """Independent sentences; streams of different numbers are independent."""
        rng = np.random.default_rng([self.seed, 1 + stream])
        source, target = _Draw(self, sentences, rng).slots()
        there = np.stack([present for present, _ in target], axis=1)
        words, synonyms = np.stack([np.broadcast_to(words, (2, sentences)) for _, words in target], axis=2)
        replaced = rng.random(there.shape) < self.ambiguity
        return Sentences(
            _joined(
                np.stack([present for present, _ in source], axis=1), np.stack([word for _, word in source], axis=1)
            ),
            _joined(there, np.where(replaced, synonyms, words)),
            _joined(there, words),
            np.sum(there & (words != synonyms), axis=1),
        )


class Lexicon:
    """Token ids as arrays over words and features; `words`: the word of every id, named by its kind and indices."""

    def __init__(self, g: Grammar) -> None:
        self.words: list[str] = list(SPECIAL)
        self.determiner = self._new("d", g.determiners, NUMBERS)
        self.noun = self._new("n", g.nouns)
        self.adjective = self._new("a", g.adjectives)
        self.tense = self._new("t", TENSES)
        self.verb = self._new("v", g.transitive + g.intransitive)
        self.preposition = self._new("p", g.prepositions)
        self.adverb = self._new("b", g.adverbs)
        self.relative = self._new("r")
        self.to_determiner = self._new("D", g.determiners, GENDERS)
        self.to_noun = self._new("N", 2, g.nouns, NUMBERS)  # here and below, the first index 1 is the synonym
        self.to_adjective = self._new("A", 2, g.adjectives, GENDERS)
        self.to_verb = self._new("V", 2, g.transitive + g.intransitive)
        self.to_homograph = self._new("H", 2, g.transitive // 2)  # with an animate object
        self.to_ending = self._new("E", TENSES, NUMBERS)
        self.to_preposition = self._new("P", g.prepositions, SENSES)
        self.to_adverb = self._new("B", g.adverbs)
        self.to_relative = self._new("R")
        rng = np.random.default_rng([g.seed, 0])
        self.gender = rng.permutation(np.arange(g.nouns) % GENDERS)
        self.animate = rng.permutation(np.arange(g.nouns) % SENSES)

    def _new(self, kind: str, *shape: int) -> np.ndarray:
        first = len(self.words)
        self.words += [kind + ".".join(map(str, index)) for index in np.ndindex(*shape)]
        return np.arange(first, len(self.words)).reshape(shape)

    def translated_verb(self, verb: np.ndarray, animate: np.ndarray) -> np.ndarray:
        """(2, N), the synonyms second."""
        homographs = self.to_homograph.shape[1]
        other = self.to_homograph[:, np.minimum(verb, homographs - 1)]
        return np.where((verb < homographs) & (animate == 1), other, self.to_verb[:, verb])


@dataclass(frozen=True)
class _Phrase:
    """The noun phrases of N sentences; adjective: whether there is one, and which."""

    present: np.ndarray
    determiner: np.ndarray
    number: np.ndarray
    noun: np.ndarray
    adjective: tuple[np.ndarray, np.ndarray] | None = None

    def source(self, lexicon: Lexicon) -> list[Slot]:
        determiner = (self.present, lexicon.determiner[self.determiner, self.number])
        noun = (self.present, lexicon.noun[self.noun])
        if self.adjective is None:
            return [determiner, noun]
        described, which = self.adjective
        return [determiner, (described, lexicon.adjective[which]), noun]

    def target(self, lexicon: Lexicon) -> list[Slot]:
        gender = lexicon.gender[self.noun]
        noun = (self.present, lexicon.to_noun[:, self.noun, self.number])
        determiner = (self.present, lexicon.to_determiner[self.determiner, gender])
        if self.adjective is None:
            return [noun, determiner]
        described, which = self.adjective
        return [noun, (described, lexicon.to_adjective[:, which, gender]), determiner]


class _Draw:
    """The random choices of N sentences, all at once: every slot of the longest sentence, and where it is present."""

    def __init__(self, grammar: Grammar, sentences: int, rng: np.random.Generator) -> None:
        self.grammar, self.n, self.rng = grammar, sentences, rng

    def slots(self) -> tuple[list[Slot], list[Slot]]:
        """Of the source and of the translation, in order."""
        g, lexicon = self.grammar, self.grammar.lexicon
        always = np.ones(self.n, bool)
        relative, transitive, phrase, adverb = map(self._happens, (g.relative, g.object, g.phrase, g.adverb))
        subject, thing = self._described(self._phrase(always)), self._described(self._phrase(transitive))
        inner, place = self._phrase(relative), self._phrase(phrase)
        inner_verb = self._word(g.transitive)
        verb = np.where(transitive, self._word(g.transitive), g.transitive + self._word(g.intransitive))
        tense, preposition, which_adverb = self._even(TENSES), self._word(g.prepositions), self._word(g.adverbs)
        early = which_adverb % 2 == 0  # adverbs of time
        source = [
            (adverb, lexicon.adverb[which_adverb]),
            *subject.source(lexicon),
            (relative, np.broadcast_to(lexicon.relative, self.n)),
            (relative, lexicon.verb[inner_verb]),
            *inner.source(lexicon),
            (always, lexicon.tense[tense]),
            (always, lexicon.verb[verb]),
            *thing.source(lexicon),
            (phrase, lexicon.preposition[preposition]),
            *place.source(lexicon),
        ]
        target = [
            (adverb & early, lexicon.to_adverb[which_adverb]),
            *inner.target(lexicon),
            (relative, lexicon.translated_verb(inner_verb, lexicon.animate[inner.noun])),
            (relative, np.broadcast_to(lexicon.to_relative, self.n)),
            *subject.target(lexicon),
            *place.target(lexicon),
            (phrase, lexicon.to_preposition[preposition, lexicon.animate[place.noun]]),
            *thing.target(lexicon),
            (adverb & ~early, lexicon.to_adverb[which_adverb]),
            (always, lexicon.translated_verb(verb, lexicon.animate[thing.noun])),
            (always, lexicon.to_ending[tense, subject.number]),
        ]
        return source, target

    def _phrase(self, present: np.ndarray) -> _Phrase:
        g = self.grammar
        return _Phrase(present, self._even(g.determiners), self._even(NUMBERS), self._word(g.nouns))

    def _described(self, phrase: _Phrase) -> _Phrase:
        g = self.grammar
        adjective = (phrase.present & self._happens(g.adjective), self._word(g.adjectives))
        return replace(phrase, adjective=adjective)

    def _happens(self, probability: float) -> np.ndarray:
        return self.rng.random(self.n) < probability

    def _even(self, choices: int) -> np.ndarray:
        return self.rng.integers(0, choices, self.n)

    def _word(self, words: int) -> np.ndarray:
        return self.rng.choice(words, self.n, p=frequencies(words))


def frequencies(words: int) -> np.ndarray:
    """The probability of each word of a kind."""
    weights = 1.0 / (np.arange(words) + 3.0)
    return weights / weights.sum()


def _joined(present: np.ndarray, words: np.ndarray) -> np.ndarray:
    """(N, slots) -> the words that are present, then EOS, then PAD; as long as the longest sentence there can be."""
    order = np.argsort(~present, axis=1, kind="stable")
    kept = np.take_along_axis(np.where(present, words, PAD), order, axis=1)
    tokens = np.pad(kept, ((0, 0), (0, 1)), constant_values=PAD).astype(np.uint16)
    tokens[np.arange(len(tokens)), present.sum(axis=1)] = EOS
    return tokens


def generate(seed: int, sentences: Iterable[int]) -> Parallel:
    """Train, validation and test sets of so many sentences, of the default grammar with this seed."""
    return _generate(Grammar(seed=seed), tuple(sentences))


@functools.lru_cache(maxsize=4)
def _generate(grammar: Grammar, counts: tuple[int, ...]) -> Parallel:
    drawn = {split: grammar.sample(n, stream) for stream, (split, n) in enumerate(zip(SPLITS, counts, strict=True))}
    source = {split: sentences.source for split, sentences in drawn.items()}
    target = {split: sentences.reference for split, sentences in drawn.items()}
    info = {
        "source": "generated by workloads/data/transduction.py",
        "seed": grammar.seed,
        "ambiguity": grammar.ambiguity,
        "pairs": dict(zip(SPLITS, counts, strict=True)),
        "words": len(grammar.lexicon.words),
        "sha256": fingerprint(source, target),
    }
    best = {split: drawn[split].best for split in ("validation", "test")}
    return Parallel(source, target, tuple(grammar.lexicon.words), info, best)
