"""Counting attempts without progress, in a file that outlives the process: what stops a crash loop, and never a preemption."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from harness.records.files import atomic_write_text


class GivenUp(Exception):
    """Too many attempts in a row got nowhere."""


class Attempts:
    """An observer of a task's training. The file holds the number of attempts since the last progress, this one included.

    Progress is a recorded pack or a new checkpoint. An attempt without any counts, unless a preemption ended it.
    """

    def __init__(self, path: Path, checkpoints: Path) -> None:
        self._path, self._checkpoints = path, checkpoints
        self._packs: set[str] = set()
        self._seen: dict[str, int] = {}
        self._count = 0

    def start(self, packs: Collection[str], retries: int) -> None:
        """Count this attempt at the packs with these ids. Raises GivenUp if there were more than `retries` before it."""
        self._packs = set(packs)
        self._seen = self._stamps()
        self._count = self._read() + 1
        if self._count > retries + 1:
            raise GivenUp(f"{self._count - 1} attempts made no progress (cluster.retries={retries}); see the log above")
        self._write(self._count)

    def stopped(self, preempted: bool) -> None:
        """A signal ended this attempt."""
        if self._stamps() != self._seen:
            self._write(0)
        elif preempted and self._count:
            self._write(self._count - 1)

    def begin(self, packs: Sequence[Any], notes: Sequence[str]) -> None:
        pass

    def chunk(self, chunk: Any) -> None:
        if chunk.pack.id not in self._packs:  # half of one that ran out of memory; this attempt saved nothing of it yet
            self._packs.add(chunk.pack.id)
            self._seen |= {pack: stamp for pack, stamp in self._stamps().items() if pack == chunk.pack.id}
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            self._progress()

    def finished(self, pack: Any, rows: Sequence[Any]) -> None:
        self._progress()

    def end(self) -> None:
        pass

    def _progress(self) -> None:
        if self._count:
            self._count = 0
            self._write(0)

    def _stamps(self) -> dict[str, int]:
        """Pack -> when its checkpoint was written."""
        paths = {pack: self._checkpoints / f"{pack}.ckpt" for pack in self._packs}
        return {pack: path.stat().st_mtime_ns for pack, path in paths.items() if path.exists()}

    def _read(self) -> int:
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _write(self, count: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self._path, f"{count}\n")
