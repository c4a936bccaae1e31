"""The job after an array: it goes on with the study (or judge, compete, targets), which trains its next stage or analyses.

    python -m harness.launchers.slurm.follow manifest=results/STUDY/slurm/ID/manifest.json

A refuted claim is a result, so the exit code is 0 then; outcome.json beside the manifest has the command's own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from harness import cli
from harness.launchers.slurm.manifest import COMMANDS, read, submissions
from harness.launchers.slurm.submit import check_recorded
from harness.records.files import write_json
from harness.records.store import Store
from harness.registry import nearest
from workloads.base import BadInput


@dataclass
class Arguments:
    """manifest: of the submission whose array is done."""

    manifest: str = MISSING


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    path = Path(cli.parse(argv, Arguments).manifest)
    manifest = read(path)
    if manifest.arguments is None:
        raise BadInput(f"nothing follows {path}")
    if manifest.command not in COMMANDS:
        raise BadInput(
            f"{path}: '{manifest.command}' is no command that goes on. {nearest(manifest.command, COMMANDS)}"
        )
    root = path.parent.parent.parent
    check_recorded(manifest, Store(root))
    code = importlib.import_module(f"harness.{manifest.command}").main(manifest.arguments)
    later = [folder.name for folder in submissions(root) if folder.name > path.parent.name]
    write_json(path.parent / "outcome.json", {"code": code, "next": later})
    return 0 if code in (0, 1) else code


if __name__ == "__main__":
    sys.exit(cli.run(main))
