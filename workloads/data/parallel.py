"""Parallel text: sentences and their translations as padded token ids, and the loader of a user's own files.

The files are two texts, one sentence a line, line n of one the translation of line n of the other, written as
`path:SOURCE,TARGET`. Words are what whitespace separates, nothing is lower-cased or split further: BLEU is of
words, and text that was tokenized or cut into byte pairs before stays as it is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import FRACTIONS, SPLITS

PAD, EOS, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "</s>", "<unk>")
MOST_WORDS = 2**16

Pair = tuple[list[str], list[str]]
Stamp = tuple[str, int, int]  # path, bytes, modification time in ns: a changed file is another corpus


@dataclass(frozen=True, eq=False)
class Parallel:
    """source, target: split -> (N, S) and (N, T) uint16, each sentence ending in EOS and padded with PAD.

    vocabulary: the word of every id, source and target together. best: the best translations of the validation and
    the test split, where they are known.
    """

    source: Mapping[str, np.ndarray]
    target: Mapping[str, np.ndarray]
    vocabulary: Sequence[str]
    info: Mapping[str, Any] = field(default_factory=dict)
    best: Mapping[str, np.ndarray] | None = None


def fingerprint(source: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all tokens."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for tokens in (source[split], target[split]):
            digest.update(np.ascontiguousarray(tokens, "<u2").data)
    return digest.hexdigest()


def parse(written: str) -> tuple[Path, Path]:
    """The two files of `path:SOURCE,TARGET`. Raises BadInput unless there are two."""
    names = [part.strip() for part in written.removeprefix("path:").split(",")]
    if len(names) != 2 or not all(names):
        raise BadInput(
            f"data '{written}' does not name two files: write path:SOURCE,TARGET, texts with one sentence a line, of which "
            f"line n of one is the translation of line n of the other"
        )
    source, target = (Path(name).expanduser() for name in names)
    return source, target


def stamp(path: Path) -> Stamp:
    """Raises BadInput where there is no such file."""
    if not path.is_file():
        raise BadInput(f"no file '{path}': write data=path:SOURCE,TARGET with two existing texts, one sentence a line")
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def load_files(source: Path, target: Path, most_tokens: int, most_words: int, held_out: Mapping[str, int]) -> Parallel:
    """Read, split, number and pad two files.

    most_tokens: longer sentences (words and EOS) are left out with their translation, in every split. most_words: of the
    vocabulary, the special ids among them; the words rarest in training become UNKNOWN, as do words written like one of
    SPECIAL. held_out: split -> the most sentences it may have. Pairs are split 90/5/5 by the SHA-256 of the source sentence,
    so that no sentence is both trained and tested; pairs with an empty side are left out. Raises BadInput on files that are
    no UTF-8 text, differ in their number of lines, or leave a split without two pairs.
    """
    lines, digests = zip(*(_read(path) for path in (source, target)), strict=True)
    if len(lines[0]) != len(lines[1]):
        raise BadInput(
            f"'{source}' has {len(lines[0])} lines and '{target}' {len(lines[1])}: line n of one must be the translation of "
            f"line n of the other"
        )
    pairs = [(a.split(), b.split()) for a, b in zip(*lines, strict=True)]
    filled = [pair for pair in pairs if all(pair)]
    short = [pair for pair in filled if max(map(len, pair)) < most_tokens]
    by_split = _split(short, held_out)
    if small := [split for split in SPLITS if len(by_split[split]) < 2]:
        raise BadInput(
            f"'{source}' and '{target}' leave {len(by_split[small[0]])} pairs to the {small[0]} split, which needs 2: of "
            f"{len(pairs)} lines {len(filled)} have words on both sides, and {len(short)} of those are shorter than "
            f"workload.max_length={most_tokens}; give more sentences, or a higher limit"
        )
    vocabulary = _vocabulary(by_split["train"], most_words)
    ids = {word: number for number, word in enumerate(vocabulary) if number >= len(SPECIAL)}
    sides = [{split: [pair[side] for pair in chosen] for split, chosen in by_split.items()} for side in (0, 1)]
    source_tokens, target_tokens = (_padded(sentences, ids) for sentences in sides)
    info = {
        "sha256": digests,
        "pairs": {split: len(chosen) for split, chosen in by_split.items()},
        "left_out": {"empty": len(pairs) - len(filled), "too_long": len(filled) - len(short)},
        "words": len(vocabulary),
        "unknown": {split: _share_unknown(target_tokens[split]) for split in SPLITS},
        "split": "90/5/5 by SHA-256 of the source sentence",
    }
    return Parallel(source_tokens, target_tokens, vocabulary, info)


def _read(path: Path) -> tuple[list[str], str]:
    """Lines and SHA-256."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(
            f"'{path}' is not UTF-8 text (line {line}, byte {error.start}): convert it, e.g. with iconv"
        ) from None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines, hashlib.sha256(content).hexdigest()


def _split(pairs: Sequence[Pair], held_out: Mapping[str, int]) -> dict[str, list[Pair]]:
    ends = np.cumsum(FRACTIONS)
    found: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for pair in pairs:
        digest = hashlib.sha256(" ".join(pair[0]).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        found[SPLITS[min(int(np.searchsorted(ends, place, side="right")), len(SPLITS) - 1)]].append(pair)
    return {split: chosen[: held_out.get(split)] for split, chosen in found.items()}


def _vocabulary(pairs: Sequence[Pair], most: int) -> tuple[str, ...]:
    """The most frequent words of both sides, ties by the alphabet."""
    counts = Counter(word for pair in pairs for side in pair for word in side if word not in SPECIAL)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *ordered[: most - len(SPECIAL)])


def _share_unknown(tokens: np.ndarray) -> float:
    return float(np.mean(tokens[tokens > EOS] == UNKNOWN))


def _padded(by_split: Mapping[str, Sequence[list[str]]], ids: Mapping[str, int]) -> dict[str, np.ndarray]:
    """All splits as wide as the longest sentence asks for."""
    width = 1 + max(len(words) for sentences in by_split.values() for words in sentences)
    padded = {split: np.full((len(sentences), width), PAD, np.uint16) for split, sentences in by_split.items()}
    for split, sentences in by_split.items():
        for row, words in zip(padded[split], sentences, strict=True):
            row[: len(words)] = [ids.get(word, UNKNOWN) for word in words]
            row[len(words)] = EOS
    return padded
