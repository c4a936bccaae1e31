"""What an array task does, once JAX is imported."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from harness import cli, session
from harness.engine import devices
from harness.engine.runner import Observer, Runner
from harness.engine.signals import Interrupted, StopFlag
from harness.launchers.slurm.attempts import Attempts, GivenUp
from harness.launchers.slurm.manifest import check_files, read
from harness.launchers.slurm.script import GAVE_UP, STOPPED
from harness.records.store import Store
from harness.tracking.progress import ProgressDisplay
from harness.tracking.trackers import make_tracker
from workloads.base import BadInput


@dataclass
class Arguments:
    """manifest: of the submission. index: of the array task."""

    manifest: str = MISSING
    index: int = MISSING


def main(argv: Sequence[str], stop: StopFlag) -> int:
    """Train a task; returns the exit code, see harness.launchers.slurm.worker."""
    arguments = cli.parse(argv, Arguments)
    path = Path(arguments.manifest)
    attempts = Attempts(path.parent / "attempts" / str(arguments.index), path.parent.parent.parent / "checkpoints")
    try:
        train_task(path, arguments.index, attempts, stop)
    except GivenUp as reason:
        print(f"gave up: {reason}", file=sys.stderr)
        return GAVE_UP
    except Interrupted as interruption:
        attempts.stopped(preempted=interruption.number != signal.SIGUSR2)
        print(f"{interruption}; what was trained is checkpointed")
        return STOPPED
    return 0


def train_task(path: Path, index: int, attempts: Attempts, stop: StopFlag) -> None:
    """Train the packs of array task `index` that are not recorded, one after the other, as one process would make them.

    Raises BadInput, GivenUp, or Interrupted with everything checkpointed.
    """
    manifest = read(path)
    if not 0 <= index < len(manifest.tasks):
        raise BadInput(f"index={index} must lie in [0, {len(manifest.tasks)}), the tasks of {path}")
    check_files(manifest.files)
    packs = manifest.tasks[index]
    attempts.start([pack.id for pack in packs], manifest.retries)
    config = manifest.config()
    session.configure(config)
    store = Store(path.parent.parent.parent)
    observers: list[Observer] = [ProgressDisplay(), attempts]
    tracker = make_tracker(config.tracker, store.root.name, store.root)
    if tracker is not None:
        observers.append(tracker)
    runner = Runner(store, devices.local_devices(), session.settings_of(config), observers)
    for pack in packs:  # one by one: together, the trials of some packs might be packed anew
        finished = store.finished()
        missing = [entry for entry in pack.trials if entry["id"] not in finished]
        print(f"pack {pack.id}: {len(missing)} of {len(pack.trials)} trials to train")
        stop.check()
        if missing:
            runner.train([manifest.trial(entry) for entry in missing], stop)
