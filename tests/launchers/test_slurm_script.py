"""Job scripts, run by bash with a stand-in for srun: what they requeue, what they pass on, what they never execute."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness.config import ClusterConfig
from harness.launchers.slurm.script import array_script, follow_script, job_name
from tests.launchers.fake_slurm import FakeSlurm
from workloads.base import BadInput

HOSTILE = "a b'\"$(touch pwned)`touch pwned`;touch pwned\\ #&|*"


def script(folder: Path, **values: Any) -> str:
    cluster = ClusterConfig(**{"time_min": 60, **values})
    return array_script(cluster, "study", folder, folder / "code", folder / "manifest.json", 3, folder)


def run(text: str, folder: Path, index: int = 1) -> subprocess.Popen[str]:
    path = folder / "job.sh"
    path.write_text(text)
    environment = {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_JOB_ID": "7",
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(
        ["bash", str(path)], cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("code", "state", "attempts", "requeued"),
    [
        (0, "RUNNING", 1, False),
        (2, "RUNNING", 1, False),
        (3, "RUNNING", 4, False),
        (75, "RUNNING", 9, True),
        (75, "COMPLETING", 1, False),
        (143, "RUNNING", 9, True),
        (1, "RUNNING", 1, True),
        (1, "RUNNING", 2, True),
        (1, "RUNNING", 3, False),
        (137, "RUNNING", 0, True),
        (137, "COMPLETING", 0, False),
    ],
)
def test_what_is_requeued(
    slurm: FakeSlurm, tmp_path: Path, code: int, state: str, attempts: int, requeued: bool
) -> None:
    counts = f"echo {attempts} >{tmp_path}/attempts/1"  # as the worker does at its start
    slurm.script("srun", f"{counts}; exit {code}")
    slurm.script("sleep", "")
    slurm.script("squeue", f'[[ " $* " == *" --jobs=7_1 "* ]] && echo {state} || echo "RUNNING\nRUNNING"')
    (tmp_path / "attempts").mkdir()
    process = run(script(tmp_path), tmp_path)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == code, output
    assert slurm.calls("scontrol") == (["requeue 7_1"] if requeued else [])


@pytest.mark.parametrize(("name", "passed"), [("USR2", "USR2"), ("TERM", "USR1")])
def test_signals_reach_the_worker_and_its_exit_code_counts(
    slurm: FakeSlurm, tmp_path: Path, name: str, passed: str
) -> None:
    slurm.script("srun", f"trap 'exit 75' {passed}; touch ready; while :; do /bin/sleep 0.05; done")
    slurm.script("sleep", "")
    slurm.say("squeue", "RUNNING")
    process = run(script(tmp_path), tmp_path)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(getattr(signal, f"SIG{name}"))
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75, output
    assert slurm.calls("scontrol") == ["requeue 7_1"]


def test_what_dies_before_it_counts_is_counted(slurm: FakeSlurm, tmp_path: Path) -> None:
    """A worker without its packages, say, never gets to count its attempts."""
    (tmp_path / "attempts").mkdir()
    slurm.script("srun", "exit 1")
    slurm.script("sleep", "")
    slurm.say("squeue", "RUNNING")
    for attempt in range(1, 5):
        run(script(tmp_path, retries=3), tmp_path).communicate(timeout=20)
        assert (tmp_path / "attempts" / "1").read_text() == f"{attempt}\n"
        assert len(slurm.calls("scontrol")) == min(attempt, 3)


def test_a_step_that_is_not_over_delays_the_requeue(slurm: FakeSlurm, tmp_path: Path) -> None:
    """SLURM drains a node, and holds the job, if the job starts there again beside what is left of its last start."""
    slurm.script("srun", "exit 75")
    slurm.script("sleep", "")
    slurm.say("squeue", "RUNNING")
    slurm.script("pgrep", '[ "$(wc -l <"$0.calls")" -le 2 ]')
    process = run(script(tmp_path), tmp_path)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 75, output
    assert slurm.calls("pgrep") == [r"-f ^slurmstepd: \[7\.[0-9]"] * 3
    assert len(slurm.calls("squeue")) == 2  # it may have been cancelled meanwhile
    assert slurm.calls("scontrol") == ["requeue 7_1"]


def test_nothing_in_a_value_is_executed(slurm: FakeSlurm, tmp_path: Path) -> None:
    """Neither by bash nor by sbatch, which takes an option as one shell word; values arrive as they were."""
    folder = tmp_path / HOSTILE.replace("/", "")
    slurm.script("srun", 'printf "%s\\n" "$@" >"$0.words"')
    text = script(
        folder,
        partition=HOSTILE,
        account=HOSTILE,
        options=[HOSTILE],
        container=[HOSTILE],
        python=HOSTILE,
        environment={"GREETING": HOSTILE + "\nexit 5"},
    )
    process = run(text, tmp_path)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output
    assert not list(tmp_path.rglob("pwned"))
    words = (slurm.folder / "srun.words").read_text().splitlines()
    assert words[1:3] == [HOSTILE, HOSTILE]
    assert f"manifest={folder / 'manifest.json'}" in words
    assert f"GREETING={HOSTILE}\nexit 5\n" in slurm.environment("srun")
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    unquoted = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {options[-1][8:]}"], capture_output=True, text=True, cwd=tmp_path
    )
    assert unquoted.stdout == HOSTILE + "\n"
    assert job_name(HOSTILE + "\n") == "windtunnel-a_b____touch_pwned__touch_pwned__touch_pwned_______"


def test_options_say_what_was_asked_for(tmp_path: Path) -> None:
    text = script(tmp_path / "50%", gpus=2, gpu_type="h100", cpus=8, mem_gb=1.5, concurrent=4, qos="low", signal_s=90)
    for option in (
        "--array=0-2%4",
        "--gres=gpu:h100:2",
        "--cpus-per-task=8",
        "--mem=1536M",
        "--qos=low",
        "--signal=B:USR2@90",
        "--requeue",
    ):
        assert f"#SBATCH {option}\n" in text
    assert "50%%/logs/%a.log" in text
    assert "module load" not in text
    assert "module load cuda/13.0" in script(tmp_path, modules=["cuda/13.0"])
    cluster = ClusterConfig(gpus=2, partition="gpu")
    cluster.analysis.partition = "cpu"
    follow = follow_script(cluster, "study", tmp_path, tmp_path, tmp_path / "manifest.json", tmp_path)
    assert "--partition=cpu" in follow
    assert "gres" not in follow


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partition": "a\nb"}, "line break"),
        ({"options": ["--a\rb"]}, "line break"),
        ({"environment": {"WANDB_API_KEY": "x"}}, "inherit the environment"),
        ({"environment": {"A B": "x"}}, "not the name"),
        ({"time_min": 4}, "no time to train"),
        ({"cpus": 0}, "cluster.cpus=0 must be at least 1"),
        ({"retries": -1}, "at least 0"),
    ],
)
def test_what_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        script(tmp_path, **values)
