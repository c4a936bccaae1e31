"""Token shards: uint16 tokens, flat (nanoGPT) or behind a header of 256 int32 (llm.c, modded-nanogpt)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import Corpus, build, contiguous

MAGIC = 20240520  # as flat uint16 it would begin with token 55432, which the GPT-2 vocabulary does not have
VERSION = 1
HEADER = 256  # int32: magic, version, tokens, zeros


def load(files: Sequence[Path], corpus: str) -> Corpus:
    """Shards with "val" or "test" in their name are held out; the rest is the training stream, in order.

    Without a validation shard the stream is split into contiguous blocks of 90/5/5 %; without a test shard
    the second half of the validation tokens is the test split. The vocabulary is 1 + the largest token.
    Raises BadInput for files of another format, truncated files and a folder without training shards.
    """
    tokens = {
        split: _concatenate([f for f in files if _split_of(f) == split]) for split in ("train", "validation", "test")
    }
    train, validation, test = tokens["train"], tokens["validation"], tokens["test"]
    if not len(train):
        raise BadInput(f"corpus '{corpus}' has no training shard (all names say val or test): add train.bin")
    rule = "by shard name"
    if not len(validation):
        train, validation, rest = contiguous(train)
        test = test if len(test) else rest
        rule = "contiguous blocks of 90/5/5 % of the tokens (no shard is named val)"
    elif not len(test):
        validation, test = np.array_split(validation, 2)
        rule = "by shard name; test is the second half of the validation tokens (no shard is named test)"
    largest = max(int(stream.max(initial=0)) for stream in (train, validation, test))
    return build((train, validation, test), largest + 1, {"corpus": corpus, "files": len(files), "split": rule})


def _split_of(path: Path) -> str:
    for mark, split in (("val", "validation"), ("test", "test")):
        if mark in path.stem:
            return split
    return "train"


def _concatenate(files: Sequence[Path]) -> np.ndarray:
    parts = [read_shard(path) for path in files]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint16)


def read_shard(path: Path) -> np.ndarray:
    """Tokens of one shard: uint16 of shape (tokens,). Raises BadInput naming the fix."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise BadInput(f"token shard '{path}' cannot be read ({error.strerror}): make it readable") from None
    header = content[: 4 * HEADER].view("<i4") if len(content) >= 4 * HEADER else np.zeros(HEADER, "<i4")
    if header[0] == MAGIC:
        return _after_header(path, content[4 * HEADER :], version=int(header[1]), tokens=int(header[2]))
    if not len(content) or len(content) % 2:
        raise BadInput(
            f"token shard '{path}' has {len(content)} bytes, which is no row of uint16 tokens: write it again"
        )
    return content.view("<u2").astype(np.uint16, copy=False)


def _after_header(path: Path, body: np.ndarray, version: int, tokens: int) -> np.ndarray:
    if version != VERSION:
        raise BadInput(f"token shard '{path}' has header version {version}, not {VERSION}: write it as uint16 tokens")
    if len(body) != 2 * tokens:
        raise BadInput(
            f"token shard '{path}' promises {tokens} tokens and holds {len(body) / 2:g}: it is truncated, copy it again"
        )
    return body.view("<u2").astype(np.uint16, copy=False)
