"""Corpora by name or path. `load_corpus` is the entry point; a corpus is written as

stdlib                              the running Python's standard library, source as bytes (byte_text.py)
zipf_markov[:exponent=1.2,seed=3]   a Markov chain of known entropy rate (zipf_markov.py)
path:FILE_FOLDER_OR_GLOB            UTF-8 text as bytes (byte_text.py) or `.bin` token shards (shards.py)

where `path:` may be left out.
"""

from __future__ import annotations

import difflib
import functools
import glob
import os
from dataclasses import replace
from pathlib import Path

from workloads.base import BadInput
from workloads.data import byte_text, shards, zipf_markov
from workloads.data.corpus import Corpus

NAMES = ("stdlib", "zipf_markov")
MAX_TOKENS = 2**31 - 1  # positions on the device are int32
_LEAST_TOKENS = 16  # in every split

Stamp = tuple[str, int, int]  # path, bytes, modification time in ns: a changed file is another corpus


def load_corpus(corpus: str, vocab_size: int | None = None) -> Corpus:
    """The corpus written as `corpus` (see the module's docstring), cached per process.

    vocab_size: at least what the corpus needs, which is the default (256 for text, 1 + the largest token
    for shards).
    Raises BadInput if the corpus is unknown, missing, unreadable, empty, binary, too short or too long.
    """
    kind, _, rest = corpus.partition(":")
    if corpus == "stdlib":
        loaded = byte_text.load_stdlib()
    elif kind == "zipf_markov":
        loaded = zipf_markov.load(rest)
    else:
        loaded = _load_path(corpus)
    _check(loaded, corpus, vocab_size)
    return loaded if vocab_size is None else replace(loaded, vocab_size=vocab_size)


def _check(loaded: Corpus, corpus: str, vocab_size: int | None) -> None:
    for split, tokens in loaded.info["tokens"].items():
        if tokens < _LEAST_TOKENS:
            raise BadInput(
                f"corpus '{corpus}' is too short: {tokens} tokens in its {split} split, at least "
                f"{_LEAST_TOKENS} are needed: give a longer text"
            )
    if vocab_size is not None and vocab_size < loaded.vocab_size:
        raise BadInput(
            f"corpus '{corpus}' has tokens up to {loaded.vocab_size - 1}, which do not fit "
            f"vocab_size={vocab_size}: set vocab_size={loaded.vocab_size} or leave it out"
        )


def _load_path(corpus: str) -> Corpus:
    written = corpus.removeprefix("path:").strip()
    root, files = _resolve(written)
    if not files:
        raise BadInput(_not_found(corpus, written))
    is_shards = all(path.suffix == ".bin" for path in files)
    stamps = tuple(_stamp(path) for path in files)
    tokens = sum(size for _, size, _ in stamps) // (2 if is_shards else 1)
    if tokens > MAX_TOKENS:
        raise BadInput(
            f"corpus '{corpus}' holds {tokens} tokens, more than {MAX_TOKENS}: name fewer files, e.g. path:FOLDER/a*"
        )
    if is_shards:
        return _cached_shards(stamps, corpus)
    return _cached_texts(stamps, root, corpus)


def _resolve(written: str) -> tuple[str, list[Path]]:
    """(folder that relative paths start from, files) of a file, folder, glob or comma-separated list."""
    path = Path(written).expanduser()
    if written and path.is_file():
        return str(path.parent), [path]
    if written and path.is_dir():
        return str(path), sorted(path.glob("*.bin")) or byte_text.walk(path)
    patterns = [os.path.expanduser(part.strip()) for part in written.split(",") if part.strip()]
    names = {os.path.abspath(name) for pattern in patterns for name in glob.glob(pattern, recursive=True)}
    files = sorted((Path(name) for name in names if os.path.isfile(name)), key=Path.as_posix)
    return os.path.commonpath([file.parent for file in files]) if files else "", files


def _not_found(corpus: str, written: str) -> str:
    if corpus.startswith("path:") or any(mark in written for mark in "/\\*.,"):
        return (
            f"corpus '{corpus}': no file there. Give an existing text file, a folder or a glob of text "
            "files, or .bin token shards"
        )
    close = difflib.get_close_matches(written, NAMES, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"unknown corpus '{corpus}'. {hint}Valid names: {', '.join(NAMES)}, or path:FILE_FOLDER_OR_GLOB."


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _cached_shards(stamps: tuple[Stamp, ...], corpus: str) -> Corpus:
    return shards.load([Path(name) for name, _, _ in stamps], corpus)


@functools.lru_cache(maxsize=4)
def _cached_texts(stamps: tuple[Stamp, ...], root: str, corpus: str) -> Corpus:
    return byte_text.load_files([Path(name) for name, _, _ in stamps], root, {"corpus": corpus})
