"""Generated speech: utterances of a small lexicon, spoken by a formant synthesiser, with their transcripts.

A voiced unit is a train of glottal pulses, each of which excites two damped sinusoids at the unit's formants (the formant wave
functions of Rodet 1984, "Time-domain formant-wave-function synthesis"); an unvoiced one rings the formants with noise. Every
utterance has its own speaker (pitch, pitch drift, vocal tract length), speaking rate, loudness and noise level. Letters
stand for one unit each, and a pause separates words, so the transcript is determined by the sound. Own construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 4000
SAMPLES = 3768  # 0.942 s: the longest utterance
LETTERS = "aeioulmsfh"
SEPARATOR = " "
LEXICON = 60  # words
WORDS, LETTERS_PER_WORD = (2, 3), (2, 3)  # fewest and most
_TICK = 24  # samples (6 ms) between two settings of the synthesiser
_CHUNK = 64  # utterances that are made at once: their samples fit the cache
_EXCITATION = 6  # samples between two independent numbers of an unvoiced excitation, a bandwidth of some 300 Hz
_BANDWIDTH = 90.0  # of a formant, in Hz
_FULL_SCALE = 2.0**15


class Unit(NamedTuple):
    """formants in Hz, their amplitudes, and whether the excitation has a pitch."""

    formants: tuple[float, float]
    amplitudes: tuple[float, float]
    voiced: bool


_SILENCE = Unit((500.0, 1500.0), (0.0, 0.0), True)
UNITS: dict[str, Unit] = {
    SEPARATOR: _SILENCE,
    "a": Unit((740.0, 1180.0), (1.0, 0.7), True),
    "e": Unit((500.0, 1550.0), (1.0, 0.6), True),
    "i": Unit((280.0, 1700.0), (1.0, 0.5), True),
    "o": Unit((480.0, 850.0), (1.0, 0.7), True),
    "u": Unit((300.0, 640.0), (1.0, 0.5), True),
    "l": Unit((360.0, 1250.0), (0.6, 0.3), True),
    "m": Unit((230.0, 1000.0), (0.6, 0.1), True),
    "s": Unit((1400.0, 1700.0), (0.5, 0.7), False),
    "f": Unit((900.0, 1300.0), (0.35, 0.35), False),
    "h": Unit((480.0, 1000.0), (0.5, 0.3), False),
}


@dataclass(frozen=True)
class Speakers:
    """Uniform ranges, one draw an utterance. pitch: Hz, drift: its relative change per second. tract: factor on the formants.
    rate: share of `SAMPLES` that is filled. loudness: peak as a share of full scale (log-uniform). snr: of the white noise,
    in dB over the whole utterance.
    """

    pitch: tuple[float, float] = (90.0, 220.0)
    drift: tuple[float, float] = (-0.4, 0.4)
    tract: tuple[float, float] = (0.85, 1.15)
    rate: tuple[float, float] = (0.75, 1.0)
    loudness: tuple[float, float] = (0.1, 0.8)
    snr: tuple[float, float] = (5.0, 25.0)


@dataclass(frozen=True, eq=False)
class Spoken:
    """audio: (N, SAMPLES) int16, zero from `samples` (N,) on. labels: (N, L) int32, 0 from `lengths` (N,) on; a label is
    1 + the index into SEPARATOR + LETTERS. ends: (N, L) float64, the sample at which a label's unit ends.
    """

    audio: np.ndarray
    samples: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    ends: np.ndarray


def lexicon(seed: int) -> np.ndarray:
    """(LEXICON, 3) labels, 0 after a shorter word's last: distinct words without a letter twice in a row."""
    rng = np.random.default_rng([seed, 0])
    words: list[list[int]] = []
    while len(words) < LEXICON:
        length = int(rng.integers(LETTERS_PER_WORD[0], LETTERS_PER_WORD[1] + 1))
        letters = rng.integers(0, len(LETTERS), length)
        word = [int(letter) + 2 for letter in letters] + [0] * (LETTERS_PER_WORD[1] - length)
        if np.all(letters[1:] != letters[:-1]) and word not in words:
            words.append(word)
    return np.array(words, np.int32)


def speak(utterances: int, seed: int, stream: int, speakers: Speakers = Speakers()) -> Spoken:
    """Utterances of the seed's lexicon. Streams of different numbers are independent."""
    rng = np.random.default_rng([seed, 1 + stream])
    labels, lengths = _transcripts(lexicon(seed), utterances, rng)
    samples, ends = _timing(lengths, labels.shape[1], speakers, rng)
    audio = np.empty((utterances, SAMPLES), np.int16)
    for rows in _chunks(utterances):
        audio[rows] = _synthesise(labels[rows], samples[rows], ends[rows], speakers, rng)
    return Spoken(audio, samples, labels, lengths, ends[:, 1:])


def _chunks(utterances: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, utterances)) for start in range(0, utterances, _CHUNK))


def _transcripts(words: np.ndarray, utterances: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N, L) and their numbers (N,): words, all equally frequent, with a separator between."""
    most = WORDS[1]
    chosen = words[rng.integers(0, len(words), (utterances, most))]
    count = rng.integers(WORDS[0], most + 1, utterances)
    chosen = np.where(np.arange(most)[None, :, None] < count[:, None, None], chosen, 0)
    followed = np.arange(most)[None, :] + 1 < count[:, None]
    cells = np.concatenate([chosen, followed[:, :, None]], axis=2).reshape(utterances, -1)[:, :-1]
    order = np.argsort(cells == 0, axis=1, kind="stable")
    return np.take_along_axis(cells, order, axis=1).astype(np.int32), np.count_nonzero(cells, axis=1).astype(np.int32)


def _timing(
    lengths: np.ndarray, most: int, speakers: Speakers, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples (N,) of each utterance, and where the leading silence and each label's unit end, (N, 1 + L)."""
    share = rng.uniform(0.75, 1.25, (len(lengths), most + 2))
    share[:, 0] = 0.5  # silence before and, in the last column, after
    share[:, -1] = 0.5
    share[:, 1:-1] *= np.arange(most) < lengths[:, None]
    samples = np.floor(SAMPLES * rng.uniform(*speakers.rate, len(lengths)))
    ends = np.cumsum(share, axis=1) * (samples / share.sum(axis=1))[:, None]
    return samples.astype(np.int32), ends[:, :-1]


def _synthesise(
    labels: np.ndarray, samples: np.ndarray, ends: np.ndarray, speakers: Speakers, rng: np.random.Generator
) -> np.ndarray:
    """(N, SAMPLES) int16."""
    count, ticks = len(labels), SAMPLES // _TICK
    pitch, drift, tract, snr = (
        rng.uniform(*bounds, (count, 1, 1)).astype(np.float32)
        for bounds in (speakers.pitch, speakers.drift, speakers.tract, speakers.snr)
    )
    quiet, loud = np.log(speakers.loudness)
    loudness = np.exp(rng.uniform(quiet, loud, (count, 1))).astype(np.float32)
    formants, amplitudes, voiced = _settings(labels, ends, ticks)
    time = (np.arange(SAMPLES, dtype=np.float32) / SAMPLE_RATE).reshape(1, ticks, _TICK)
    start = rng.random((count, 1, 1), np.float32)
    cycles = start + pitch * time * (1.0 + 0.5 * drift * time)
    since_pulse = (cycles - np.floor(cycles)) / pitch
    noise = rng.standard_normal((count, ticks, _TICK // _EXCITATION), np.float32).repeat(_EXCITATION, axis=2)
    excitation = np.where(voiced, np.exp(-np.pi * _BANDWIDTH * since_pulse), noise)
    clock = (2.0 * np.pi) * np.where(voiced, since_pulse, time)
    ringing = np.zeros((count, ticks, _TICK), np.float32)
    for formant in (0, 1):
        ringing += amplitudes[..., formant, None] * np.sin(clock * (tract * formants[..., formant, None]))
    wave = (ringing * excitation).reshape(count, SAMPLES)
    power = np.sum(np.square(wave), axis=1, keepdims=True) / samples[:, None].astype(np.float32)
    wave += np.sqrt(power * 10.0 ** (-snr[:, 0] / 10.0)) * rng.standard_normal(wave.shape, np.float32)
    wave *= np.arange(SAMPLES) < samples[:, None]
    wave *= loudness / np.max(np.abs(wave), axis=1, keepdims=True)
    return np.rint(wave * (_FULL_SCALE - 1)).astype(np.int16)


def _settings(labels: np.ndarray, ends: np.ndarray, ticks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Formants and amplitudes, (N, ticks, 2), gliding over three ticks, and voicing, (N, ticks, 1)."""
    middle = (np.arange(ticks) + 0.5) * _TICK
    position = np.sum(middle[None, :, None] >= ends[:, None, :], axis=2)
    silent = np.ones((len(labels), 1), np.int32)
    units = np.concatenate([silent, np.maximum(labels, 1), silent], axis=1)  # a cell without a unit is silent
    unit = np.take_along_axis(units, position, axis=1) - 1
    table = [UNITS[letter] for letter in SEPARATOR + LETTERS]
    tracks = np.array([[*row.formants, *row.amplitudes] for row in table], np.float32)[unit]
    padded = np.pad(tracks, ((0, 0), (1, 1), (0, 0)), mode="edge")
    smooth = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / np.float32(3.0)
    voiced = np.array([row.voiced for row in table])[unit]
    return smooth[..., :2], smooth[..., 2:], voiced[..., None]
