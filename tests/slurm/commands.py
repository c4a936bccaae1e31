"""Running windtunnel and SLURM's commands from tests, each in its own process, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.records.files import read_json

REPOSITORY = Path(__file__).resolve().parents[2]
ON_CLUSTER = ("hydra/launcher=slurm", "cluster=local")
# One device and a stated memory: the same packs and the same arithmetic wherever they run.
PINNED = ("engine.devices=1", "engine.memory_gb=0.5")
MODEL = (
    "workload.corpus='zipf_markov:vocab_size=16'",
    "workload.width=8",
    "workload.depth=1",
    "workload.heads=2",
    "workload.context=8",
    "workload.batch_size=4",
    "workload.evaluation_sequences=8",
    "optimizer.learning_rate=1e-2",
    "parametrization.base_width=8",
)


def windtunnel(*words: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m harness.<words>`."""
    command = [sys.executable, "-m", f"harness.{words[0]}", *words[1:]]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=cwd, env=os.environ | environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def ended(process: subprocess.Popen[str], code: int = 0, seconds: float = 400.0) -> str:
    """The output of a process that must end with this exit code."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, output
    return output


def slurm(*command: str) -> str:
    """A command of SLURM's; returns its output."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout.strip()


def jobs_of(submission: Path) -> dict[str, str]:
    return read_json(submission / "jobs.json")


def only_submission(root: Path) -> Path:
    (path,) = [path.parent for path in (root / "slurm").glob("*/jobs.json")]
    return path


def accounted(job: str) -> str:
    """The state that sacct gives a job, once it is final; sacct is seconds behind."""

    def state() -> str:
        words = slurm("sacct", "-n", "-P", "-X", "-j", job, "-o", "State").splitlines()
        return words[-1].split()[0] if words and words[-1].split()[0] not in ("RUNNING", "PENDING", "REQUEUED") else ""

    return until(state, f"sacct to know the end of {job}", 60)


def until(condition: Callable[[], str | bool], what: str, seconds: float = 240.0) -> str:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)
    return str(value)


def worker_of(manifest: Path, index: int) -> int | None:
    """The process id of the Python that trains an array task, if it runs now."""
    ending = [f"manifest={manifest}", f"index={index}"]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words: Sequence[str] = (folder / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if list(words[-2:]) == ending and "python" in words[0]:
            return int(folder.name)
    return None


def listens(process: int) -> bool:
    """Whether a process catches SIGUSR2 by now."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGUSR2 - 1) & 1)


def processes_of(jobs: Sequence[str]) -> list[int]:
    """The processes of these jobs: SLURM's job steps and all that came of them."""
    parents: dict[int, int] = {}
    steps: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if any(title.startswith(f"slurmstepd: [{job}.") for job in jobs):
            steps.add(int(folder.name))
    found = set(steps)
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)
