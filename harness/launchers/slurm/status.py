"""How a study's submissions stand: state of every pack, from the records and SLURM; and following them to the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from harness.launchers.slurm import queue
from harness.launchers.slurm.manifest import NAME, PlannedPack, read, submissions
from harness.launchers.slurm.queue import Task
from harness.records.files import read_json
from harness.records.store import Store
from workloads.base import BadInput

STATES = ("pending", "running", "preempted", "held", "done", "failed", "unknown")
_FIRST_POLL, _LAST_POLL = 1.0, 15.0  # seconds
_PATIENCE = 900.0  # seconds without an answer after which following ends; the jobs go on


@dataclass(frozen=True)
class PackState:
    """A pack of a submission. state: one of STATES. task: what SLURM says of its array task (None: nothing)."""

    submission: Path
    index: int
    pack: PlannedPack
    recorded: int
    state: str
    task: Task | None

    @property
    def log(self) -> Path:
        return self.submission / "logs" / f"{self.index}.log"


def pack_states(store: Store, folders: Iterable[Path] | None = None) -> list[PackState]:
    """The state of every pack of these submissions (default: all of the study's), by submission and array task."""
    folders = list(submissions(store.root) if folders is None else folders)
    arrays = {folder: read_json(folder / "jobs.json")["array"] for folder in folders}
    known = queue.tasks(array for array in arrays.values() if array is not None)
    finished = store.finished()
    states = []
    for folder in folders:
        for index, packs in enumerate(read(folder / NAME).tasks):
            task = known.get((arrays[folder], index))
            behind = False  # a task trains its packs in turn: those after the first unfinished one wait
            for pack in packs:
                recorded = sum(trial in finished for trial in pack.trial_ids)
                state = "done" if recorded == len(pack.trials) else _state(task, behind)
                behind = behind or state != "done"
                states.append(PackState(folder, index, pack, recorded, state, task))
    return states


def _state(task: Task | None, behind: bool) -> str:
    """Of a pack that is not recorded."""
    if task is None:
        return "unknown"
    if task.running:
        return "pending" if behind else "running"
    if task.held:
        return "held"
    if task.state == "PREEMPTED" or (task.waiting and task.restarts):
        return "preempted"
    return "pending" if task.waiting else "failed"


def show(console: Console, store: Store) -> None:
    """Print the packs' states, and how what follows them stands. Raises BadInput if nothing was ever submitted."""
    folders = submissions(store.root)
    if not folders:
        raise BadInput(f"nothing of {store.root} was submitted to SLURM; submit it with hydra/launcher=slurm")
    table = Table("job", "pack", "trials", "state", "SLURM", "restarts", "node", title=store.root.name)
    states = pack_states(store, folders)
    arrays = {folder: read_json(folder / "jobs.json")["array"] for folder in folders}
    for entry in states:
        task = entry.task
        said = " ".join(filter(None, (task.state, task.detail))) if task else "-"
        job = f"{arrays[entry.submission]}_{entry.index}"
        trials = f"{entry.recorded}/{len(entry.pack.trials)}"
        where = (str(task.restarts), task.node) if task else ("-", "-")
        table.add_row(job, entry.pack.id, trials, entry.state, said, *where)
    console.print(table)
    console.print(summary(states), highlight=False)
    for folder in folders:
        console.print(f"{folder.name}: {_next(folder)}", highlight=False, soft_wrap=True)
    for path in sorted({entry.log for entry in states if entry.state == "failed"}):
        console.print(f"failed, see {path}", highlight=False, soft_wrap=True)
    for line in _held(states):
        console.print(line, highlight=False, soft_wrap=True)


def _held(states: Iterable[PackState]) -> list[str]:
    """What to do about tasks that SLURM holds."""
    held = {(task.job, task.task): task.detail for task in (entry.task for entry in states) if task and task.held}
    return [f"{job}_{task} is held ({why}): scontrol release {job}_{task}" for (job, task), why in sorted(held.items())]


def summary(states: Sequence[PackState]) -> str:
    if not states:
        return "every trial is recorded"
    counts = {state: sum(entry.state == state for entry in states) for state in STATES}
    trials = sum(len(entry.pack.trials) for entry in states)
    packs = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{sum(entry.recorded for entry in states)}/{trials} trials; packs: {packs}"


def _next(folder: Path) -> str:
    """How the job after an array stands, in a few words."""
    job = read_json(folder / "jobs.json")["next"]
    if job is None:
        return "nothing follows"
    if (folder / "outcome.json").exists():
        outcome = read_json(folder / "outcome.json")
        claims = "a claim is refuted" if outcome["code"] else "no claim is refuted"
        return f"job {job} went on: {', '.join(outcome['next']) or f'the study is complete, {claims}'}"
    task = queue.tasks([job]).get((job, None))
    return f"job {job} is {task.state} {task.detail}".strip() if task else f"job {job} is unknown to SLURM"


def follow(store: Store, folders: Sequence[Path], console: Console) -> int:
    """Wait for these submissions and for all that comes of them, showing progress.

    Returns 0, or 1 if a pack failed, the study could not go on, or a claim was refuted. Interrupting it stops nothing.
    """
    waiting, seen, code = list(folders), set(folders), 0
    while waiting:
        folder = waiting.pop(0)
        states = _wait(store, folder, console)
        failed = [entry for entry in states if entry.state != "done"]
        for path in sorted({entry.log for entry in failed}):
            console.print(f"failed, see {path}", highlight=False, soft_wrap=True)
        if failed:
            code = 1
        elif read_json(folder / "jobs.json")["next"] is not None:
            if not (folder / "outcome.json").exists():
                console.print(f"the study did not go on, see {folder / 'logs' / 'next.log'}", soft_wrap=True)
                code = 1
                continue
            outcome = read_json(folder / "outcome.json")
            code = max(code, outcome["code"])
            console.print(_next(folder), highlight=False, soft_wrap=True)
            later = [folder.parent / name for name in outcome["next"]]
            waiting += [path for path in later if path not in seen]
            seen.update(later)
    return code


def _wait(store: Store, folder: Path, console: Console) -> list[PackState]:
    """Until no job of a submission is left in the queue; returns its packs' last states."""
    jobs = [str(job) for job in read_json(folder / "jobs.json").values() if job is not None]
    columns = (BarColumn(20), TextColumn("{task.description}"), TimeElapsedColumn())
    pause, shown, heard = _FIRST_POLL, "", time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("")
        while True:
            try:
                live = queue.live(jobs)
                states = pack_states(store, [folder])
            except queue.Unreachable as reason:
                if time.monotonic() - heard > _PATIENCE:
                    raise
                console.print(str(reason), highlight=False, soft_wrap=True)
                time.sleep(_LAST_POLL)
                continue
            heard = time.monotonic()
            text = "; ".join([summary(states), *_held(states)])
            recorded, total = sum(s.recorded for s in states), sum(len(s.pack.trials) for s in states)
            progress.update(bar, description=text, completed=recorded, total=total)
            if text != shown and not console.is_terminal:
                console.print(text, highlight=False, soft_wrap=True)
            pause = min(1.5 * pause, _LAST_POLL) if text == shown else _FIRST_POLL
            shown = text
            if not live:
                return states
            time.sleep(pause)
