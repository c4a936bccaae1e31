"""SLURM's commands: sbatch, squeue and sacct as functions. Everything is passed as arguments, nothing through a shell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workloads.base import BadInput

_SECONDS = 60.0  # a busy controller may take its time
_AWAY = ("Unable to contact", "Connection refused", "Socket timed out", "Zero Bytes")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
_FIELDS = "ArrayJobID:|,ArrayTaskID:|,State:|,RestartCnt:|,Reason:|,NodeList:"
_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"}
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}


@dataclass(frozen=True)
class Task:
    """What SLURM says of a job (task None) or of an array task. state: SLURM's word. detail: reason or exit code."""

    job: str
    task: int | None
    state: str
    restarts: int = 0
    detail: str = ""
    node: str = ""

    @property
    def running(self) -> bool:
        return self.state in _RUNNING

    @property
    def waiting(self) -> bool:
        return self.state in _WAITING

    @property
    def held(self) -> bool:
        """Whether it waits until somebody releases it (JobHeldAdmin, JobHeldUser, "launch failed requeued held")."""
        return self.waiting and "held" in self.detail.lower()

    @property
    def live(self) -> bool:
        """Whether it runs or will run."""
        return self.running or self.waiting


Key = tuple[str, int | None]


class Unreachable(BadInput):
    """SLURM's controller does not answer."""


def sbatch(script: Path, options: Sequence[str] = ()) -> str:
    """Submit a script; returns the job's id. Raises BadInput with SLURM's own words if it is refused."""
    answer = _call(["sbatch", "--parsable", *options, str(script)])
    if answer.returncode:
        raise BadInput(
            f"sbatch refused {script}: {_words(answer.stderr)}. Correct cluster.* (conf/cluster/*.yaml), then run the same "
            "command again"
        )
    return answer.stdout.strip().splitlines()[-1].split(";")[0]


def tasks(jobs: Iterable[str]) -> dict[Key, Task]:
    """(job, array task) -> what squeue says, or for what has left the queue sacct. Jobs that neither knows are absent."""
    ids = sorted(set(jobs))
    if not ids:
        return {}
    known = _sacct(ids)
    known.update(_squeue(ids))
    return known


def live(jobs: Iterable[str]) -> dict[Key, Task]:
    """Those of the jobs' tasks that run or will run."""
    ids = sorted(set(jobs))
    return {key: task for key, task in _squeue(ids).items() if task.live} if ids else {}


def _squeue(ids: Sequence[str]) -> dict[Key, Task]:
    answer = _call(["squeue", "--noheader", "--array", f"--jobs={','.join(ids)}", f"--Format={_FIELDS}"])
    if answer.returncode:
        if "Invalid job id" in answer.stderr:  # it has ended, and SLURM's controller has forgotten it
            return {}
        kind = Unreachable if any(words in answer.stderr for words in _AWAY) else BadInput
        raise kind(f"squeue failed: {_words(answer.stderr)}; what is queued stays queued, try again later")
    found: dict[Key, Task] = {}
    for line in answer.stdout.splitlines():
        job, task, state, restarts, reason, node = (word.strip() for word in line.split("|", 5))
        key = job, int(task) if task.isdecimal() else None
        found[key] = Task(*key, state, int(restarts or 0), "" if reason == "None" else reason, node)
    return found


def _sacct(ids: Sequence[str]) -> dict[Key, Task]:
    """Empty where accounting is off; then only the records and squeue are left to tell."""
    fields = "--format=JobID%40,State%40,ExitCode,NodeList%80"
    answer = _call(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}", fields])
    found: dict[Key, Task] = {}
    for line in answer.stdout.splitlines() if not answer.returncode else ():
        job, state, code, node = line.split("|", 3)
        match = re.fullmatch(r"(\d+)(?:_(\d+))?", job)  # the waiting rest of an array, 7_[3-9], is squeue's
        if match and state:
            key = match[1], int(match[2]) if match[2] else None
            found[key] = Task(*key, state.split()[0], 0, "" if code == "0:0" else f"exit code {code}", node)
    return found


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Inside a job (a study's next stage is submitted from one), the job's own SLURM_* would be taken for wishes; and jobs
    # inherit what is left, of which the number of this machine's cores would be wrong there.
    environment = {k: v for k, v in os.environ.items() if (not k.startswith("SLURM_") or k in _KEPT) and k != "NPROC"}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError:
        raise BadInput(
            f"{command[0]} is not on this machine's PATH; run on a machine of the cluster, or use hydra/launcher=packed"
        ) from None
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} did not answer for {_SECONDS:.0f} s; try again later") from None


def _words(text: str) -> str:
    return " ".join(text.split()) or "it gave no reason"
