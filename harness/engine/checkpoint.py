"""Checkpoints: one file a pack, checksummed, atomically renamed, no pickle.

Layout: 64 hex digits of the SHA-256 of what follows, a newline, then an .npz archive of the leaves in tree order and a
JSON text `meta`. The file before the last is kept, so that a damaged newest one costs one chunk, not the pack.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from harness.records.files import atomic_write_bytes

_DIGEST = 64


def save(path: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write a pytree of arrays and JSON-able facts."""
    leaves = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, meta=np.array(json.dumps(meta)), **leaves)  # type: ignore[arg-type]
    body = archive.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        os.replace(path, _previous(path))
    atomic_write_bytes(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


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
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = content[:_DIGEST], content[_DIGEST + 1 :]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        print(f"checkpoint {path} is damaged; going on without it")
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
        leaves = [archive[f"leaf_{i}"] for i in range(len(archive.files) - 1)]
    expected, structure = jax.tree.flatten(like)
    same = len(leaves) == len(expected) and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(leaves, expected, strict=True)
    )
    return (jax.tree.unflatten(structure, leaves), meta) if same else None
