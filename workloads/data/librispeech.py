"""Recordings in the layout of LibriSpeech (Panayotov et al. 2015), of which the user has a copy:

FOLDER/SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac (or .wav)
FOLDER/SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt, a line "SPEAKER-CHAPTER-NUMBER WORDS ..." for each recording

where SPLIT begins with train, dev or test; all folders of a kind are taken together.
"""

from __future__ import annotations

import hashlib
import itertools
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput

PREFIXES = {"train": "train", "validation": "dev", "test": "test"}
LAYOUT = "SPLIT/SPEAKER/CHAPTER/*.flac (or .wav) beside *.trans.txt, where SPLIT begins with train, dev or test"

_FASTEST = 24.0  # letters a second, spaces included, that recognisers with 25 outputs a second can spell
MOST_BYTES = (
    6 * 2**30
)  # of all recordings, as long as the longest: they lie in memory (by default 4.3 GiB of LibriSpeech)


@dataclass(frozen=True, eq=False)
class Recordings:
    """For every split, sounds: int16 samples of each recording, and texts: its words, joined by one space."""

    sounds: Mapping[str, list[np.ndarray]]
    texts: Mapping[str, list[str]]
    sample_rate: int
    info: Mapping[str, Any]


def read(folder: str, most: Mapping[str, int], milliseconds: int) -> Recordings:
    """At most `most` recordings of each split, spread over its speakers and in mixed order (see `_taken`), that last at most
    `milliseconds` and have at most 24 letters a second, the most that CTC with 25 outputs a second can spell.

    Raises BadInput on a missing folder, a transcript that is no UTF-8 text, a line without words, a missing, unreadable or
    stereo recording, two sample rates, a split of which nothing is left, or more than MOST_BYTES.
    """
    root = Path(folder).expanduser()
    if not folder or not root.is_dir():
        raise BadInput(f"workload.data=path:{folder}: no folder there. Give a folder of {LAYOUT}")
    rates: dict[int, Path] = {}
    left_out = {"too_long": 0, "too_fast": 0}
    kept, longest = 0, 0

    def heard(path: Path, words: str) -> np.ndarray | None:
        """None: left out."""
        sound, rate = _sound(path)
        rates.setdefault(rate, path)
        too_long = 1000 * len(sound) > milliseconds * rate
        if too_long or rate * _outputs(words) > _FASTEST * len(sound):
            left_out["too_long" if too_long else "too_fast"] += 1
            return None
        nonlocal kept, longest
        kept, longest = kept + 1, max(longest, len(sound))
        if kept * longest * sound.itemsize > MOST_BYTES:
            raise BadInput(
                f"workload.data=path:{folder}: {kept} recordings as long as the longest, {longest / rate:.1f} s, take more "
                f"than {MOST_BYTES / 2**30:g} GiB, and all must lie in memory: lower workload.utterances={most['train']}, "
                f"workload.test_utterances={most['test']} or workload.longest_ms={milliseconds}"
            )
        return sound

    sounds: dict[str, list[np.ndarray]] = {}
    texts: dict[str, list[str]] = {}
    digest = hashlib.sha256()
    for split, prefix in PREFIXES.items():
        spoken = _spoken(root, prefix)
        if not spoken:
            raise BadInput(
                f"workload.data=path:{folder} has no {split} recordings: no {prefix}*/SPEAKER/CHAPTER/*.trans.txt. Expected "
                f"{LAYOUT}"
            )
        taken = _taken(spoken, most[split], heard)
        sounds[split], texts[split] = [sound for sound, _ in taken], [words for _, words in taken]
        for sound, words in taken:
            digest.update(sound.astype("<i2").tobytes() + words.encode())
    for split, found in sounds.items():
        if not found:
            raise BadInput(
                f"workload.data=path:{folder}: no {split} recording is left of {left_out}; raise "
                f"workload.longest_ms={milliseconds}"
            )
    if len(rates) > 1:
        raise BadInput(f"recordings differ in sample rate: {', '.join(f'{r} Hz in {p}' for r, p in rates.items())}")
    info = {
        "data": f"path:{folder}",
        "sha256": digest.hexdigest(),
        "utterances": {split: len(found) for split, found in sounds.items()},
        "left_out": left_out,
    }
    return Recordings(sounds, texts, next(iter(rates)), info)


def _outputs(words: str) -> int:
    """How many outputs CTC needs: one a letter, and a blank between two of the same."""
    return len(words) + sum(a == b for a, b in itertools.pairwise(words))


def _spoken(root: Path, prefix: str) -> list[tuple[Path, str]]:
    """(recording, words) of a split, in the order of the paths, so that a speaker's lie together."""
    return [line for transcript in sorted(root.glob(f"{prefix}*/*/*/*.trans.txt")) for line in _lines(transcript)]


def _taken(
    spoken: Sequence[tuple[Path, str]], most: int, heard: Callable[[Path, str], np.ndarray | None]
) -> list[tuple[np.ndarray, str]]:
    """(sound, words) of at most `most`: evenly spread over the list, and any others in place of those that are left out.

    They are ordered by the SHA-256 of their names, so that the first rows, as many as one takes, are of many speakers.
    """
    mixed = [hashlib.sha256(path.stem.encode()).digest() for path, _ in spoken]
    count = min(most, len(spoken))
    spread = [(2 * index + 1) * len(spoken) // (2 * count) for index in range(count)]
    others = sorted(set(range(len(spoken))).difference(spread), key=mixed.__getitem__)
    found: dict[int, np.ndarray] = {}
    for index in (*spread, *others):
        if len(found) == count:
            break
        sound = heard(*spoken[index])
        if sound is not None:
            found[index] = sound
    return [(found[index], spoken[index][1]) for index in sorted(found, key=lambda index: (mixed[index], index))]


def _lines(transcript: Path) -> list[tuple[Path, str]]:
    """(recording, words) of every line that is not empty."""
    try:
        text = transcript.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"'{transcript}' is not UTF-8 text (byte {error.start}): convert it, e.g. with iconv") from None
    found: list[tuple[Path, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, *words = line.split()
        if not words:
            raise BadInput(f"{transcript}:{number}: '{line}' must be the recording's name and its words")
        candidates = [transcript.with_name(name + ending) for ending in (".flac", ".wav")]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise BadInput(
                f"{transcript}:{number} names '{name}', but neither {name}.flac nor {name}.wav lies beside it"
            )
        found.append((path, " ".join(words)))
    return found


def _sound(path: Path) -> tuple[np.ndarray, int]:
    """Samples (n,) int16 and their rate in Hz."""
    return _wav(path) if path.suffix == ".wav" else _flac(path)


def _wav(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path)) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise BadInput(f"'{path}' must hold one channel of 16-bit samples: convert it, or give .flac")
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise BadInput(f"'{path}' is not a readable WAV file ({error}): replace it") from None


def _flac(path: Path) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError:
        raise BadInput(f"reading '{path}' needs the package soundfile: pip install soundfile, or give .wav") from None
    try:
        sound, rate = soundfile.read(str(path), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise BadInput(f"'{path}' is not a readable FLAC file ({error}): replace it") from None
    if sound.ndim != 1:
        raise BadInput(f"'{path}' has {sound.shape[1]} channels: convert it to one")
    return sound, int(rate)
