"""Submitting what is missing: one job array, and the job that goes on after it."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from harness.launchers.slurm import queue, snapshot
from harness.launchers.slurm.files import Kept
from harness.launchers.slurm.manifest import (
    FOLDER,
    NAME,
    Manifest,
    digests,
    factored,
    read,
    run_values,
    same_points,
    submissions,
)
from harness.launchers.slurm.script import array_script, follow_script
from harness.launchers.slurm.tasks import Estimate, cluster_of, engine_of, plan_tasks
from harness.records.files import atomic_write_text, read_json, write_json
from harness.records.store import Store
from harness.sweep import Point
from harness.trial import Trial
from workloads.base import BadInput

_ONLY_HERE = ("wait=", "dry_run=")


class Submitted(Exception):
    """Trials that a study needs are SLURM's now; their jobs go on with it. folders: the submissions that hold them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__(", ".join(folder.name for folder in folders))
        self.folders = list(folders)


@dataclass(frozen=True)
class Scripts:
    """What is about to be submitted."""

    manifest: Manifest
    estimate: Estimate
    array: str
    follow: str | None
    notes: list[str]


def require(
    trials: Sequence[Trial],
    config: DictConfig,
    store: Store,
    arguments: Sequence[str],
    points: Sequence[Point] = (),
    command: str = "study",
) -> None:
    """Return if all these trials are recorded; else have them trained and raise Submitted."""
    folders = submit(trials, config, store, arguments, points, command)
    if folders:
        raise Submitted(folders)


def settled(store: Store, points: Sequence[Point]) -> list[Point]:
    """The points as an earlier submission had them, where they differ by rounding only.

    A learning rate that was fitted on another node may differ in its last digit, and would name a trial that never was.
    """
    for folder in reversed(submissions(store.root)):
        before = read(folder / NAME).points
        if same_points(points, before):
            return before
    return list(points)


def submit(
    trials: Sequence[Trial],
    config: DictConfig,
    store: Store,
    arguments: Sequence[str] | None = None,
    points: Sequence[Point] = (),
    command: str = "study",
) -> list[Path]:
    """Submit what neither the records nor the queue have; returns the folders of the submissions that hold missing trials.

    command, arguments: what goes on afterwards (arguments None: nothing does). Raises BadInput as SLURM refuses.
    """
    with _one_at_a_time(store.root / FOLDER):
        missing = store.missing(trials)
        holders = _holders(store)
        holding = sorted({holders[trial.id] for trial in missing if trial.id in holders})
        new = [trial for trial in missing if trial.id not in holders]
        for folder in holding:
            jobs = read_json(folder / "jobs.json")
            print(f"already queued: {sum(holders.get(t.id) == folder for t in missing)} trials as job {jobs['array']}")
        if not new and (arguments is None or not holding or _continued(store)):
            return holding
        folder = _new_folder(store)
        scripts = prepare(new, config, store, folder, arguments, points, command)
        return [*holding, _send(scripts, folder, [str(read_json(path / "jobs.json")["array"]) for path in holding])]


def go_on(config: DictConfig, store: Store, arguments: Sequence[str], command: str) -> Path:
    """Have a job do what follows trials that are all recorded; returns the submission's folder, an earlier one's if its job
    has not ended.
    """
    with _one_at_a_time(store.root / FOLDER):
        queued = _continued(store)
        if queued:
            print(f"already queued: job {read_json(queued / 'jobs.json')['next']}")
            return queued
        folder = _new_folder(store)
        return _send(prepare([], config, store, folder, arguments, command=command), folder, [])


def _new_folder(store: Store) -> Path:
    return store.root.resolve() / FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


def _continued(store: Store) -> Path | None:
    """The submission whose job that goes on is queued or runs, this one apart."""
    jobs = {folder: read_json(folder / "jobs.json")["next"] for folder in submissions(store.root)}
    mine = os.environ.get("SLURM_JOB_ID")
    ahead = {str(job): folder for folder, job in jobs.items() if job is not None and str(job) != mine}
    return next((ahead[job] for job, _ in queue.live(ahead)), None)


def preview(
    console: Console,
    trials: Sequence[Trial],
    config: DictConfig,
    store: Store,
    arguments: Sequence[str] | None = None,
    command: str = "study",
) -> None:
    """Print the job scripts and what they would cost; submits and writes nothing."""
    missing = store.missing(trials)
    if not missing:
        console.print("nothing to submit: every trial is recorded", highlight=False)
        return
    folder = store.root.resolve() / FOLDER / "dry_run"
    scripts = prepare(missing, config, store, folder, arguments, command=command, write=False)
    for text in filter(None, (scripts.array, scripts.follow)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for line in (*scripts.notes, describe(scripts, config)):
        console.print(line, highlight=False, markup=False)


def describe(scripts: Scripts, config: DictConfig) -> str:
    """What an array will take, in a sentence."""
    cluster, estimate = cluster_of(config), scripts.estimate
    device = "GPU" if cluster.gpus else "core"
    count = cluster.gpus or engine_of(config).devices or 1
    trials = sum(len(pack.trials) for pack in scripts.manifest.packs)
    guess = " (a guess: nothing of this kind is recorded yet)" if estimate.guessed else ""
    return (
        f"{trials} trials in {len(scripts.manifest.packs)} packs, {estimate.tasks} array tasks of {count} {device}s: about "
        f"{estimate.device_hours:.2f} {device}-hours, the longest task {estimate.longest_s / 60:.1f} min{guess}; the limit is "
        f"{cluster.time_min} min a task, {estimate.tasks * cluster.time_min * count / 60:.1f} {device}-hours in all"
    )


def prepare(
    trials: Sequence[Trial],
    config: DictConfig,
    store: Store,
    folder: Path,
    arguments: Sequence[str] | None,
    points: Sequence[Point] = (),
    command: str = "study",
    write: bool = True,
) -> Scripts:
    """The manifest and the job scripts of a submission; written to `folder`, with the code beside it, if `write`."""
    cluster = cluster_of(config)
    tasks, estimate, notes = plan_tasks(trials, config, store)
    shared, tasks = factored(tasks)
    kept = Kept(folder, write)
    words = None if arguments is None else kept.words(word for word in arguments if not word.startswith(_ONLY_HERE))
    manifest = Manifest(
        study=store.root.name,
        created_at=datetime.now(UTC).isoformat(),
        **run_values(config, engine_of(config)),
        retries=cluster.retries,
        tasks=tasks,
        command=command,
        arguments=words,
        points=list(points),
        optimizers=kept.optimizers(trials),
        files=digests(trials),
        shared=shared,
    )
    code = snapshot.take(folder.parent) if write else folder.parent / "code"
    common = (cluster, store.root.name, folder, code, folder / NAME)
    array = array_script(*common, tasks=len(tasks), directory=Path.cwd())
    measures = command != "study"  # of the others, some time steps, and train what cannot be packed
    follow = None if arguments is None else follow_script(*common, directory=Path.cwd(), measures=measures)
    if write:
        for name in ("logs", "attempts"):
            (folder / name).mkdir(parents=True)
        manifest.write(folder)
        if tasks:
            atomic_write_text(folder / "array.sh", array)
        if follow is not None:
            atomic_write_text(folder / "next.sh", follow)
    for note in notes if write else ():
        print(note)
    scripts = Scripts(manifest, estimate, array, follow, notes)
    if write and tasks:
        print(describe(scripts, config))
    return scripts


def _send(scripts: Scripts, folder: Path, after: Sequence[str]) -> Path:
    """sbatch the array, if there is anything to train, and after it (and the arrays `after`) what follows."""
    jobs: dict[str, str | None] = {"array": None, "next": None}
    arrays = list(after)
    if scripts.manifest.tasks:
        array = jobs["array"] = queue.sbatch(folder / "array.sh")
        arrays.insert(0, array)
        write_json(folder / "jobs.json", jobs)
        print(f"submitted job array {jobs['array']}: {len(scripts.manifest.tasks)} tasks, logs in {folder / 'logs'}")
    if scripts.follow is not None:
        options = [f"--dependency=afterok:{':'.join(arrays)}", "--kill-on-invalid-dep=yes"] if arrays else []
        jobs["next"] = queue.sbatch(folder / "next.sh", options)
        write_json(folder / "jobs.json", jobs)
        print(f"submitted job {jobs['next']}, which goes on{' after it' if arrays else ''}")
    return folder


def _holders(store: Store) -> dict[str, Path]:
    """Trial id -> the submission whose queued or running task will train it."""
    arrays = {folder: read_json(folder / "jobs.json")["array"] for folder in submissions(store.root)}
    folders = {str(array): folder for folder, array in arrays.items() if array is not None}
    holders: dict[str, Path] = {}
    manifests: dict[str, Manifest] = {}
    for job, index in queue.live(folders):
        manifest = manifests.setdefault(job, read(folders[job] / NAME))
        if index is not None:
            holders |= {trial: folders[job] for pack in manifest.tasks[index] for trial in pack.trial_ids}
    return holders


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Two commands at once on a machine must not submit the same trials. (Across machines they may: then both train them.)"""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_recorded(manifest: Manifest, store: Store) -> None:
    """Raise BadInput if an array that ended well left trials unrecorded."""
    finished = store.finished()
    lacking = [trial for pack in manifest.packs for trial in pack.trial_ids if trial not in finished]
    if lacking:
        raise BadInput(
            f"{len(lacking)} trials of the array, such as {lacking[0]}, are not recorded in {store.root}; results= must be on "
            "a file system that all nodes share"
        )
