"""What `sync` has uploaded: one JSON object a line, appended, so that a crash loses at most the line being written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from harness.tracking.wandb_runs import refuse_link

FILE = "synced.jsonl"


class Journal:
    """results/<study>/wandb/synced.jsonl. A line: to (destination), trial, version (of its row), at (UTC)."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def known(self, destination: str) -> dict[str, str]:
        """Trial id -> the version that `destination` has. Lines that cannot be read are taken as not written."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        found: dict[str, str] = {}
        for line in lines:
            try:
                entry = json.loads(line)
                if entry["to"] == destination:
                    found[str(entry["trial"])] = str(entry["version"])
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def add(self, destination: str, versions: Mapping[str, str]) -> None:
        """Append, durably and in one write. Raises OSError as the disk does."""
        if not versions:
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        lines = (
            json.dumps({"to": destination, "trial": trial, "version": version, "at": at})
            for trial, version in versions.items()
        )
        refuse_link(self.path.parent)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            # the first newline ends a line that a crash may have left torn
            os.write(descriptor, ("\n" + "\n".join(lines) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
