"""A corpus: three streams of tokens and the facts that are recorded about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.90, 0.05, 0.05)  # of the tokens, in the order of SPLITS


@dataclass(frozen=True, eq=False)
class Corpus:
    """Token streams of shape (tokens,), uint8 or uint16, read-only.

    vocab_size: every token is below it.
    info: JSON-able facts. Always holds `tokens` (per split), `sha256` (of the bytes of train, validation and
    test one after the other, little endian) and `split` (the rule in words).
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocab_size: int
    info: Mapping[str, Any]


def identity(generator: str, version: int, **settings: Any) -> str:
    """The SHA-256 that generated data are recorded with: of what they are made from, as NumPy rounds sines and exponentials
    differently from processor to processor. version: of the generator, raised whenever it draws something else.
    """
    return hashlib.sha256(json.dumps([generator, version, settings], sort_keys=True).encode()).hexdigest()


def build(streams: tuple[np.ndarray, np.ndarray, np.ndarray], vocab_size: int, info: Mapping[str, Any]) -> Corpus:
    """Freeze `streams` (train, validation, test) and add their sizes and SHA-256 to `info`."""
    digest = hashlib.sha256()
    for stream in streams:
        digest.update(np.ascontiguousarray(stream, stream.dtype.newbyteorder("<")).data)
        stream.flags.writeable = False
    tokens = {split: len(stream) for split, stream in zip(SPLITS, streams, strict=True)}
    return Corpus(*streams, vocab_size, {**info, "tokens": tokens, "sha256": digest.hexdigest()})


def contiguous(stream: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first 90 % of the tokens, the next 5 % and the last 5 %."""
    first, second = (round(len(stream) * share) for share in (FRACTIONS[0], FRACTIONS[0] + FRACTIONS[1]))
    return stream[:first], stream[first:second], stream[second:]
