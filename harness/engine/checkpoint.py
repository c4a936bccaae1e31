"""Checkpoints: one file a pack, checksummed, atomically renamed, no pickle.

Layout: 64 hex digits of the SHA-256 of what follows, a newline, then an .npz archive of the leaves in tree order and a
JSON text `meta`. The file before the last is kept, so that a damaged newest one costs one chunk, not the pack.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from harness.records.files import atomic_path

SUFFIXES = (".ckpt", ".previous")
_DIGEST = 64


def save(path: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write a pytree of arrays and JSON-able facts. Raises OSError as the disk does; then the one before is still there."""
    leaves = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            file.write(bytes(_DIGEST) + b"\n")
            body = _Hashed(file)
            np.savez(body, allow_pickle=False, meta=np.array(json.dumps(meta)), **leaves)  # type: ignore[arg-type]
            file.seek(0)
            file.write(body.sha256.hexdigest().encode())
        with suppress(FileNotFoundError):  # the first one, or another process that trains the same pack was faster
            os.replace(path, _previous(path))


class _Hashed(io.RawIOBase):
    """A stream into a file that keeps the SHA-256 of what went through; no way back, so that it went through once."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def load(path: Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest intact checkpoint as (tree shaped like `like`, meta); None if there is none that fits."""
    for candidate in (path, _previous(path)):
        found = _read(candidate, like)
        if found is not None:
            return found
    return None


def remove(path: Path) -> None:
    for candidate in (path, _previous(path)):
        candidate.unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous")


def _read(path: Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """What `save` wrote, if it is intact and of this shape; else None, and a line that says why."""
    try:
        with path.open("rb") as file:
            digest = file.read(_DIGEST + 1)[:_DIGEST]
            if hashlib.file_digest(file, "sha256").hexdigest().encode() != digest:
                raise ValueError("damaged: its checksum does not match")
            file.seek(_DIGEST + 1)
            leaves, meta = _unpacked(file)
        expected, structure = jax.tree.flatten(like)
        leaves = [_typed(leaf, as_) for leaf, as_ in zip(leaves, expected, strict=False)] + leaves[len(expected) :]
        if [(leaf.shape, leaf.dtype) for leaf in leaves] != [(leaf.shape, leaf.dtype) for leaf in expected]:
            raise ValueError("written by another program")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        print(f"checkpoint {path} cannot be used ({error}); going on with the one before it, or from the start")
        return None
    return jax.tree.unflatten(structure, leaves), meta


def _typed(leaf: np.ndarray, like: Any) -> np.ndarray:
    """An array of a type that numpy's archives don't know (bfloat16) comes back as bytes; like: what it was."""
    return leaf.view(like.dtype) if leaf.dtype.kind == "V" and leaf.dtype.itemsize == like.dtype.itemsize else leaf


def _unpacked(file: IO[bytes]) -> tuple[list[np.ndarray], dict[str, Any]]:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("not an archive")
    with archive:
        meta = json.loads(str(archive["meta"]))
        if not isinstance(meta, dict):
            raise ValueError("without facts")
        return [archive[f"leaf_{i}"] for i in range(len(archive.files) - 1)], meta
