"""Speech with transcripts. `load_speech` is the entry point; where it comes from is written as

generated          utterances of a small lexicon, spoken by a formant synthesiser (formants.py)
path:FOLDER        recordings in the layout of LibriSpeech (librispeech.py)
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data import formants, librispeech

SPLITS = ("train", "validation", "test")
SEPARATOR = 1  # the label between two words; 0 is CTC's blank, and letters begin at 2
UNKNOWN = "\ufffd"


@dataclass(frozen=True, eq=False)
class Speech:
    """arrays: for every split, `SPLIT_audio` (N, S) int16, zero from `SPLIT_samples` (N,) on, and `SPLIT_labels` (N, L)
    int32, zero from `SPLIT_lengths` (N,) on; read-only. S and L are the most that any split needs.

    alphabet: the separator and the letters of the training transcripts, so that label k is alphabet[k - 1]; at its end UNKNOWN,
    where held-out transcripts have others. sample_rate: Hz. info: JSON-able facts.
    """

    arrays: Mapping[str, np.ndarray]
    alphabet: str
    sample_rate: int
    info: Mapping[str, Any]

    @property
    def unknown(self) -> int | None:
        """The label of all letters that no training transcript has; None where there are none."""
        return len(self.alphabet) if self.alphabet.endswith(UNKNOWN) else None

    def transcripts(self, split: str) -> list[str]:
        """The words of every utterance, joined by spaces."""
        labels, lengths = self.arrays[f"{split}_labels"], self.arrays[f"{split}_lengths"]
        return [self.text(row[:length]) for row, length in zip(labels, lengths, strict=True)]

    def text(self, labels: np.ndarray) -> str:
        """Labels (n,) as text."""
        return "".join(self.alphabet[label - 1] for label in labels)


@functools.lru_cache(maxsize=2)
def load_speech(data: str, seed: int, most: tuple[int, int, int], milliseconds: int) -> Speech:
    """The speech written as `data` (see the module's docstring), read once per process.

    seed: of the generator. most: utterances of train, validation and test; generated data have as many, recordings at most
    as many. milliseconds: recordings that last longer are left out. Raises BadInput if the data are unknown or malformed.
    """
    if data == "generated":
        return _generated(seed, most)
    if not data.startswith("path:"):
        raise BadInput(f"unknown workload.data='{data}'. Valid: generated, or path:FOLDER in the layout of LibriSpeech")
    return _recorded(data.removeprefix("path:").strip(), most, milliseconds)


def _generated(seed: int, most: tuple[int, int, int]) -> Speech:
    arrays: dict[str, np.ndarray] = {}
    for stream, (split, utterances) in enumerate(zip(SPLITS, most, strict=True)):
        spoken = formants.speak(utterances, seed, stream)
        arrays |= _parts(split, spoken.audio, spoken.samples, spoken.labels, spoken.lengths)
    alphabet = formants.SEPARATOR + formants.LETTERS
    words = ["".join(alphabet[label - 1] for label in word if label) for word in formants.lexicon(seed)]
    info = {"data": "generated", "seed": seed, "lexicon": words, "utterances": dict(zip(SPLITS, most, strict=True))}
    return Speech(arrays, alphabet, formants.SAMPLE_RATE, info)


def _recorded(folder: str, most: tuple[int, int, int], milliseconds: int) -> Speech:
    found = librispeech.read(folder, dict(zip(SPLITS, most, strict=True)), milliseconds)
    heard, others = (_letters(found.texts[split] for split in splits) for splits in (SPLITS[:1], SPLITS[1:]))
    unseen = sorted(others - heard)
    alphabet = " " + "".join(sorted(heard)) + (UNKNOWN if unseen else "")
    label = {letter: 1 + index for index, letter in enumerate(alphabet)}
    arrays: dict[str, np.ndarray] = {}
    longest, most_letters = (max(len(x) for xs in part.values() for x in xs) for part in (found.sounds, found.texts))
    for split in SPLITS:
        sounds, texts = found.sounds[split], found.texts[split]
        audio = np.zeros((len(sounds), longest), np.int16)
        labels = np.zeros((len(texts), most_letters), np.int32)
        for row, (sound, text) in enumerate(zip(sounds, texts, strict=True)):
            audio[row, : len(sound)] = sound
            labels[row, : len(text)] = [label.get(letter, len(alphabet)) for letter in text]
        samples, lengths = (np.array([len(x) for x in part], np.int32) for part in (sounds, texts))
        arrays |= _parts(split, audio, samples, labels, lengths)
    return Speech(arrays, alphabet, found.sample_rate, {**found.info, "letters_not_trained": unseen})


def _letters(splits: Iterable[Sequence[str]]) -> set[str]:
    return {letter for texts in splits for text in texts for letter in text} - {" "}


def _parts(
    split: str, audio: np.ndarray, samples: np.ndarray, labels: np.ndarray, lengths: np.ndarray
) -> dict[str, np.ndarray]:
    parts = {"audio": audio, "samples": samples, "labels": labels, "lengths": lengths}
    for part in parts.values():
        part.flags.writeable = False
    return {f"{split}_{name}": part for name, part in parts.items()}
