"""Up to twenty-two accidents of nine kinds during one sweep change nothing in its records."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from harness.launchers.slurm import queue
from tests.slurm.commands import (
    MODEL,
    ON_CLUSTER,
    PINNED,
    REPOSITORY,
    ended,
    jobs_of,
    listens,
    only_submission,
    processes_of,
    slurm,
    until,
    windtunnel,
    worker_of,
)
from tests.slurm.compare import content

SWEEP = (*MODEL, "seed=range(8)", "budget.steps=100000", "evaluations=100", *PINNED)
ACCIDENTS = ["warning"] * 5 + ["requeue"] * 4 + ["kill"] * 4 + ["term"] * 2 + ["node"] * 2
ACCIDENTS += ["urgent", "limit", "controller", "hold", "hold"]


class Over(Exception):
    """The array has no task left that an accident could strike."""


class Storm:
    """Accidents for the tasks of one job array, and the operator who does what `study status` says about held tasks."""

    def __init__(self, submission: Path) -> None:
        self.released = 0
        self._manifest = submission / "manifest.json"
        self._array = jobs_of(submission)["array"]
        self._random = random.Random(0)

    def strike(self, kind: str) -> None:
        """One accident for a task that trains now. Raises Over where all have ended."""
        trains = kind in ("warning", "term", "limit", "controller")  # the others may strike while it starts
        task, process = self.victim(kind, trains)
        job = f"{self._array}_{task.task}"
        strikes: dict[str, Callable[[], object]] = {
            "warning": lambda: slurm("scancel", "--batch", "--signal=USR2", job),
            "requeue": lambda: slurm("scontrol", "requeue", job),
            "kill": lambda: os.kill(process, signal.SIGKILL),
            "term": lambda: os.kill(process, signal.SIGTERM),
            "node": lambda: self._fail(task.node),
            "urgent": lambda: slurm(
                "sbatch", "-p", "urgent", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
            ),
            "limit": lambda: self._shorten(task),
            "controller": lambda: self._orphan(job, process),
            "hold": lambda: slurm("scontrol", "requeuehold", job),
        }
        with suppress(ProcessLookupError):
            strikes[kind]()

    def attend(self) -> list[queue.Task]:
        """Release what SLURM holds; that it drained a node comes with it. Returns the tasks that run or will run."""
        live = list(queue.live([self._array]).values())
        held = [task for task in live if task.held]
        if held:
            slurm(str(REPOSITORY / "SLURM" / "local" / "up.sh"))
        for task in held:
            slurm("scontrol", "release", f"{task.job}_{task.task}")
            self.released += 1
        return live

    def victim(self, kind: str, trains: bool = True) -> tuple[queue.Task, int]:
        """A running task and the process id of its worker; one that is in its training, if `trains`."""
        found: list[tuple[queue.Task, int]] = []

        def some() -> bool:
            live = self.attend()
            if not live:
                raise Over
            found[:] = self._running(live, trains)
            return bool(found)

        try:
            until(some, f"a task for '{kind}'")
        except AssertionError as reason:
            raise AssertionError(f"{reason}\n{slurm('squeue', '--array')}\n{slurm('sinfo', '-N', '--long')}") from None
        return self._random.choice(found)

    def _running(self, live: list[queue.Task], trains: bool) -> list[tuple[queue.Task, int]]:
        running = [task for task in live if task.state == "RUNNING"]
        found = [(task, worker_of(self._manifest, task.task)) for task in running if task.task is not None]
        listening = [(task, process) for task, process in found if process is not None and listens(process)]
        return [(task, process) for task, process in listening if not trains or self._log(task).endswith(" s left")]

    def _log(self, task: queue.Task) -> str:
        path = self._manifest.parent / "logs" / f"{task.task}.log"
        return path.read_text().rstrip() if path.exists() else ""

    def _fail(self, node: str) -> None:
        """The node loses power: its daemon and all its jobs' processes are gone at once. Later it comes back."""
        jobs = slurm("squeue", "-h", "-w", node, "-o", "%A").split()
        pidfile = Path(os.environ["WINDTUNNEL_SLURM_DIR"], "run", f"slurmd-{node}.pid")
        for process in (int(pidfile.read_text()), *processes_of(jobs)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=storm")
        slurm(str(REPOSITORY / "SLURM" / "local" / "up.sh"))

    def _orphan(self, job: str, process: int) -> None:
        """SLURM's controller dies, and while it is away a worker, which must be requeued all the same.

        It writes its state down every few seconds; what it has not written, it will not know.
        """
        changed = time.time()
        slurm("scontrol", "update", f"jobid={job}", "comment=storm")
        state = Path(os.environ["WINDTUNNEL_SLURM_DIR"], "state", "job_state")
        until(lambda: state.exists() and state.stat().st_mtime > changed, "the controller to write its state")
        os.kill(int(Path(os.environ["WINDTUNNEL_SLURM_DIR"], "run", "slurmctld.pid").read_text()), signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        with pytest.raises(queue.Unreachable, match="Unable to contact"):
            queue.live([self._array])
        slurm(str(REPOSITORY / "SLURM" / "local" / "up.sh"))

    def _shorten(self, task: queue.Task) -> None:
        """Let the task's time be nearly up, so that SLURM itself warns it."""
        before = self._log(task).count("SIGUSR2")
        job = f"{task.job}_{task.task}"
        slurm("scontrol", "update", f"jobid={job}", "timelimit=2")
        until(
            lambda: self._log(task).count("SIGUSR2") > before or self._log(task).endswith("exit code 0"),
            "a warning",
            90,
        )
        with suppress(subprocess.CalledProcessError):  # it was faster
            slurm("scontrol", "update", f"jobid={job}", "timelimit=10")


def _assert_same(root: Path, calm: Path) -> int:
    """Both studies recorded the same, bit for bit, whatever trained beside it; returns the number of trials."""
    (rows, curves), (expected, expected_curves) = (content(study, ("pack", "pack_size")) for study in (root, calm))
    assert rows == [row | {"study": root.name} for row in expected]
    assert curves.equals(expected_curves)
    return len(rows)


def test_a_storm_leaves_no_trace(tmp_path: Path) -> None:
    # One pack is three times as fast as four: a trial's bits do not depend on what trains beside it.
    calm = windtunnel("train", "-m", *SWEEP, "engine.pack_size=8", f"results={tmp_path}", "study_name=calm")
    patience = ("engine.pack_size=2", "cluster.retries=50", "cluster.signal_s=100")
    words = (*SWEEP, *ON_CLUSTER, *patience, "wait=true", f"results={tmp_path}", "study_name=stormy")
    stormy = windtunnel("train", "-m", *words)
    until(lambda: any((tmp_path / "stormy").glob("slurm/*/jobs.json")), "the array to be submitted")
    submission = only_submission(tmp_path / "stormy")
    storm = Storm(submission)
    chance = random.Random(1)
    kinds = list(dict.fromkeys(ACCIDENTS))
    more = list(ACCIDENTS)
    for kind in kinds:
        more.remove(kind)
    accidents = chance.sample(kinds, len(kinds)) + chance.sample(more, len(more))  # every kind before any comes twice
    struck: list[str] = []
    with suppress(Over):
        for kind in accidents:
            storm.strike(kind)
            struck.append(kind)
    assert set(struck) == set(kinds), f"all tasks ended after {len(struck)} accidents: give the sweep more steps"
    left = queue.live([jobs_of(submission)["array"]]).values()
    restarts = sum(task.restarts for task in left)
    ended(calm)

    def over() -> bool:
        storm.attend()
        return stormy.poll() is not None

    until(over, "the study's end", 400)
    assert "8/8 trials; packs: 4 done" in ended(stormy)
    assert storm.released >= struck.count("hold")
    rows = _assert_same(tmp_path / "stormy", tmp_path / "calm")
    logs = "".join(path.read_text() for path in (submission / "logs").iterdir())
    assert logs.count("checkpointed") >= 4, logs  # of 9 that may; some strike a task that has just begun
    count = f"{len(struck)} accidents, {restarts} restarts of the {len(left)} tasks left"
    print(f"{count}, {storm.released} released, {rows} trials")
