"""Text as bytes: files of the user, and the source of the running Python's standard library."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data.corpus import FRACTIONS, SPLITS, Corpus, build, contiguous

BYTES = 256

# Tests, demos, generated tables and other people's packages: not the prose of a library.
_NOT_LIBRARY = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data", "__phello__"})
_SKIPPED = frozenset({"__pycache__", "site-packages", "dist-packages"})
_LEAST_SHARE = 0.01  # of the bytes, in every split of a split by file


@functools.lru_cache(maxsize=1)
def load_stdlib() -> Corpus:
    """The standard library's Python source, split by file. It differs between Python versions: see `info`."""
    root = sysconfig.get_path("stdlib")
    files = [path for path in walk(Path(root), _NOT_LIBRARY) if _is_library_source(path)]
    if not files:
        raise BadInput("this Python ships its standard library without source: use corpus=path:FOLDER_OF_TEXT")
    return load_files(files, root, {"corpus": "stdlib", "python": platform.python_version()})


def _is_library_source(path: Path) -> bool:
    """Whether it is Python source, and the same on every machine (the build's recorded settings are not)."""
    generated = path.name.startswith("_sysconfigdata") or path.parent.name.startswith("config-")
    return path.suffix == ".py" and not generated


def walk(folder: Path, skip: frozenset[str] = frozenset()) -> list[Path]:
    """Files below `folder` in the order of their POSIX paths; no hidden files, caches, folders in `skip`."""
    found: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skip | _SKIPPED and not name.startswith(".")]
        found.extend(Path(where, name) for name in names if not name.startswith("."))
    return sorted((path for path in found if path.is_file()), key=Path.as_posix)


def load_files(files: Sequence[Path], root: str, facts: Mapping[str, Any]) -> Corpus:
    """The bytes of text files: split by file where every split gets its share, else in contiguous blocks.

    The split by file depends on the paths below `root` and on the sizes. `facts` go into `info`.
    Raises BadInput if a file cannot be read or is binary.
    """
    texts = [(path.relative_to(root).as_posix(), _read(path)) for path in files]
    names = [name for name, _ in texts]
    listed = hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()
    info = {**facts, "files": len(texts), "files_sha256": listed, "file_list": names}
    train, validation, test = _split_by_file(texts)
    total = len(train) + len(validation) + len(test)
    if min(len(train), len(validation), len(test)) >= max(_LEAST_SHARE * total, 1):
        rule = "by file in order of SHA-256(path): where the middle of the file lies in 90/5/5 % of the bytes"
        return build((_tokens(train), _tokens(validation), _tokens(test)), BYTES, {**info, "split": rule})
    rule = "contiguous blocks: the first 90 % of the bytes, the next 5 %, the last 5 %"
    return build(contiguous(_tokens(b"".join(text for _, text in texts))), BYTES, {**info, "split": rule})


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"corpus file '{path}' cannot be read ({error.strerror}): make it readable") from None
    if b"\0" in content:
        raise BadInput(
            f"corpus file '{path}' is binary (it holds NUL bytes): convert it to UTF-8 text, or name only "
            f"the text files with a glob such as path:FOLDER/**/*.txt"
        )
    return content


def _split_by_file(texts: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """Content of train, validation and test; every file is in one split only."""
    ordered = sorted(texts, key=lambda named: hashlib.sha256(os.fsencode(named[0])).digest())
    sizes = np.array([len(content) for _, content in ordered], dtype=np.int64)
    middles = np.cumsum(sizes) - sizes / 2
    which = np.searchsorted(np.cumsum(FRACTIONS[:-1]) * sizes.sum(), middles, side="right")
    return [
        b"".join(content for (_, content), split in zip(ordered, which, strict=True) if split == i)
        for i in range(len(SPLITS))
    ]


def _tokens(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8)
