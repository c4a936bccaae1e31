"""Parallel text: sentences and their translations as padded token ids, and the loader of a user's own files.

The files are two texts, one sentence a line, line n of one the translation of line n of the other, written as
`path:SOURCE,TARGET`. Words are what whitespace separates, nothing is lower-cased or split further: BLEU is of
words, and text that was tokenized or cut into byte pairs before stays as it is.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import FRACTIONS, SPLITS

PAD, EOS, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "</s>", "<unk>")
MOST_WORDS = 2**16

MOST_BYTES = 2**30  # of padded ids: 8 million pairs of 31 words, which take 7 GB while they are read
_ID_BYTES = 2

_Row = tuple[bytes, str, str]  # what it is ordered by, and both sentences
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


def load_files(source: Path, target: Path, most_tokens: int, most_words: int, most: Mapping[str, int]) -> Parallel:
    """Read, split, number and pad two files, a line at a time.

    most_tokens: longer sentences (words and EOS) are left out with their translation, in every split. most_words: of the
    vocabulary, the special ids among them; the words rarest in training become UNKNOWN, as do words written like one of
    SPECIAL. Pairs are split 90/5/5 by the SHA-256 of the source sentence, so that no sentence is both trained and tested;
    pairs with an empty side are left out. They come in the order of the SHA-256 of their line numbers, which mixes them.
    most: split -> the most pairs it may have, the first in that order. Raises BadInput on files that are no UTF-8 text,
    differ in their number of lines, leave a split without two pairs, or have more than MOST_BYTES of ids.
    """
    texts = _Text(source), _Text(target)
    taken = {split: _Smallest(most[split]) for split in SPLITS}
    left_out = {"empty": 0, "too_long": 0}
    width = 0
    for number, lines in enumerate(itertools.zip_longest(*texts, fillvalue="")):
        sentences = [line.split() for line in lines]
        if not all(sentences):
            left_out["empty"] += 1
        elif max(map(len, sentences)) >= most_tokens:
            left_out["too_long"] += 1
        else:
            first, second = (" ".join(words) for words in sentences)
            taken[_split(first)].add((_digest(str(number)), first, second))
            width = max(width, 1 + max(map(len, sentences)))
            _check_bytes(sum(map(len, taken.values())) * 2 * width * _ID_BYTES, most["train"], most_tokens)
    if texts[0].lines != texts[1].lines:
        raise BadInput(
            f"'{source}' has {texts[0].lines} lines and '{target}' {texts[1].lines}: line n of one must be the translation of "
            f"line n of the other"
        )
    rows = {split: smallest.rows() for split, smallest in taken.items()}
    if small := [split for split in SPLITS if len(rows[split]) < 2]:
        filled = texts[0].lines - left_out["empty"]
        raise BadInput(
            f"'{source}' and '{target}' leave {len(rows[small[0]])} pairs to the {small[0]} split, which needs 2: of "
            f"{texts[0].lines} lines {filled} have words on both sides, and {filled - left_out['too_long']} of those are "
            f"shorter than workload.max_length={most_tokens}; give more sentences, or a higher limit"
        )
    sources = {split: [row[1] for row in chosen] for split, chosen in rows.items()}
    targets = {split: [row[2] for row in chosen] for split, chosen in rows.items()}
    vocabulary = _vocabulary([*sources["train"], *targets["train"]], most_words)
    ids = {word: number for number, word in enumerate(vocabulary) if number >= len(SPECIAL)}
    source_tokens, target_tokens = _padded(sources, ids), _padded(targets, ids)
    info = {
        "sha256": [text.digest.hexdigest() for text in texts],
        "pairs": {split: len(chosen) for split, chosen in rows.items()},
        "left_out": left_out,
        "words": len(vocabulary),
        "unknown": {split: _share_unknown(target_tokens[split]) for split in SPLITS},
        "split": f"90/5/5 by SHA-256 of the source sentence, at most {dict(most)}, by SHA-256 of the line number",
    }
    return Parallel(source_tokens, target_tokens, vocabulary, info)


class _Text:
    """The lines of a file, one after the other. lines, digest: how many were read, and the SHA-256 of their bytes."""

    def __init__(self, path: Path) -> None:
        self._path, self.lines, self.digest = path, 0, hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        with self._path.open("rb") as file:
            for line in file:
                self.lines += 1
                self.digest.update(line)
                try:
                    yield line.decode("utf-8-sig" if self.lines == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise BadInput(
                        f"'{self._path}' is not UTF-8 text (line {self.lines}, its byte {error.start}): convert it, e.g. with "
                        f"iconv"
                    ) from None


class _Smallest:
    """The smallest of the rows that it is given, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most, self._rows = most, list[_Row]()

    def __len__(self) -> int:
        return min(len(self._rows), self._most)

    def add(self, row: _Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= 2 * self._most:
            self._rows = self.rows()

    def rows(self) -> list[_Row]:
        return sorted(self._rows)[: self._most]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


def _split(sentence: str) -> str:
    """Of a source sentence."""
    share = int.from_bytes(_digest(sentence), "big") / 2**64
    return SPLITS[(share >= FRACTIONS[0]) + (share >= FRACTIONS[0] + FRACTIONS[1])]


def _check_bytes(ids: int, train: int, most_tokens: int) -> None:
    if ids > MOST_BYTES:
        raise BadInput(
            f"the sentences take more than {MOST_BYTES / 2**30:g} GiB as padded ids: lower workload.train_sentences={train} or "
            f"workload.max_length={most_tokens}"
        )


def _vocabulary(sentences: Sequence[str], most: int) -> tuple[str, ...]:
    """The most frequent words, ties by the alphabet."""
    counts = Counter(word for sentence in sentences for word in sentence.split() if word not in SPECIAL)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return (*SPECIAL, *ordered[: most - len(SPECIAL)])


def _share_unknown(tokens: np.ndarray) -> float:
    return float(np.mean(tokens[tokens > EOS] == UNKNOWN))


def _padded(by_split: Mapping[str, Sequence[str]], ids: Mapping[str, int]) -> dict[str, np.ndarray]:
    """All splits as wide as the longest sentence asks for."""
    width = 1 + max(len(sentence.split()) for sentences in by_split.values() for sentence in sentences)
    padded = {split: np.full((len(sentences), width), PAD, np.uint16) for split, sentences in by_split.items()}
    for split, sentences in by_split.items():
        for row, sentence in zip(padded[split], sentences, strict=True):
            words = sentence.split()
            row[: len(words)] = [ids.get(word, UNKNOWN) for word in words]
            row[len(words)] = EOS
    return padded
