"""Files that are whole or absent: written beside their place, synced, then renamed."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workloads.base import BadInput

TEMPORARY = ".tmp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same directory; on a clean exit it replaces `path`, durably.

    After an exception, or a crash at any instant, `path` is what it was. Raises OSError as the file system does.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    with suppress(OSError):  # some network file systems cannot sync a directory
        _sync(path.parent)


def own_folder(path: Path) -> Path:
    """Make a folder inside of a results folder; returns it. Raises BadInput if it is a link, OSError as the disk does.

    A results folder may come from somebody else: nothing in it may lead what is written out of it.
    """
    if path.is_symlink():
        raise BadInput(f"{path} is a symbolic link; link the whole results folder instead")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`, all or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8, all or nothing."""
    atomic_write_bytes(path, text.encode())


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace `path` with `value` as standard JSON, all or nothing. indent: None for a file that is large.

    JSON has no NaN and no infinity: every non-finite number becomes null, which any reader takes as "no number here".
    Numpy scalars and arrays, tuples and paths are converted; other types raise TypeError.
    """

    def dumped(content: Any) -> str:
        return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)

    try:  # as it is, which is ten times as fast, if nothing in it needs conversion
        text = dumped(value if indent is None else _plain(value))
    except (TypeError, ValueError):
        text = dumped(_plain(value))
    atomic_write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises BadInput if the file is missing, unreadable or not standard JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; run the command that writes it, or correct the path") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}); delete it and run the command that writes it") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, jax arrays
        return _plain(value.tolist())
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
