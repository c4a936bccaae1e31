"""Small real file systems for tests: one that fills up, one that is read-only. Only root can mount."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@contextmanager
def mounted(folder: Path, size: str = "1m", read_only: bool = False) -> Iterator[None]:
    """Mount an empty file system of `size` at the folder, or the folder on itself, read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    bind = [["--bind", str(folder), str(folder)], ["-o", "remount,bind,ro", str(folder)]]
    for arguments in bind if read_only else [["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]]:
        subprocess.run(["mount", *arguments], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def _can_mount() -> bool:
    with TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


needs_mounts = pytest.mark.skipif(not _can_mount(), reason="mounting file systems takes root")
