"""A set of labelled images: three splits, the facts that are recorded about them, and what is known about the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")

Split = tuple[np.ndarray, np.ndarray]
"""Images (N, S, S, C), uint8, and labels (N,), int32."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """splits: name -> images and labels, read-only. classes: labels are below it.

    mirrors: whether an image's mirror image has the same label. oracle: error rate on the validation labels of whoever knows
    how they were made, None where nobody does. info: JSON-able facts; always holds `images` (per split), `sha256` (of the
    pixels and labels of all splits; of generated ones see workloads.data.corpus.identity) and `split` (the rule in words).
    """

    splits: Mapping[str, Split]
    classes: int
    mirrors: bool
    oracle: float | None
    info: Mapping[str, Any]

    @property
    def channels(self) -> int:
        return int(self.splits["train"][0].shape[-1])


def build(
    splits: Mapping[str, Split],
    classes: int,
    info: Mapping[str, Any],
    mirrors: bool = True,
    oracle: float | None = None,
) -> ImageSet:
    """Freeze the arrays and add their sizes to `info`, and their SHA-256 unless it has one."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for array in splits[split]:
            if "sha256" not in info:
                digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
            array.flags.writeable = False
    counts = {split: len(splits[split][1]) for split in SPLITS}
    facts = {"sha256": digest.hexdigest(), **info, "images": counts, "classes": classes}
    return ImageSet(dict(splits), classes, mirrors, oracle, facts)


def held_out(labels: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """(N,) bool: `share` of every class, at least one image and never all, by a fixed shuffle."""
    chosen = np.zeros(len(labels), bool)
    order = np.argsort(np.random.default_rng(seed).random(len(labels)))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        chosen[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = True
    return chosen


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` of the rows, evenly spread over them; all where there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
