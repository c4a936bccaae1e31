"""A study over four nodes, failures, dependencies, and what travels with a job, on a real SLURM."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import cli, study
from harness.launchers.slurm import queue
from harness.launchers.slurm.status import pack_states
from harness.records.files import read_json, write_json
from harness.records.store import Store
from harness.score import OWN_TRIALS
from tests.slurm.commands import (
    MODEL,
    ON_CLUSTER,
    PINNED,
    REPOSITORY,
    accounted,
    ended,
    jobs_of,
    only_submission,
    slurm,
    until,
    windtunnel,
)
from tests.slurm.compare import content
from tests.test_compete import FIELDS, target

STUDY = (
    "study=regression",
    "study.base.budget={steps: 400}",
    "study.sweep.workload.width=[4,8,16,32]",
    "study.sweep.seed=[0,1]",
    "study.rerun={seed: [100,101]}",
    "study.predict={workload.width: 64}",
    *PINNED,
)
CANARY = "canary-6d1f0a"


def test_a_study_over_four_nodes_is_the_study_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sweep, rerun and prediction, each a job array; every record, curve and analysis, bit for bit."""
    here = windtunnel("study", *STUDY, f"results={tmp_path / 'here'}")
    there = windtunnel("study", *STUDY, *ON_CLUSTER, "wait=true", f"results={tmp_path / 'there'}")
    ended(here)
    output = ended(there)
    here_root, there_root = tmp_path / "here" / "regression", tmp_path / "there" / "regression"
    (rows, curves), (expected, expected_curves) = content(there_root), content(here_root)
    assert len(rows) == 4 * 7 * 2 + 4 * 2 + 2
    assert rows == expected
    assert curves.equals(expected_curves)
    for name in ("claims.json", "transfer.json", "stages.json"):
        assert read_json(there_root / name) == read_json(here_root / name), name
    fits = [read_json(root / "fit.json")["all"] for root in (there_root, here_root)]
    assert {**fits[0], "seconds": 0} == {**fits[1], "seconds": 0}
    assert (there_root / "report.html").exists()
    assert "the study is complete" in output
    nodes = {entry.task.node for entry in pack_states(Store(there_root)) if entry.task}
    assert len(nodes) >= 2, nodes
    assert {entry.state for entry in pack_states(Store(there_root))} == {"done"}
    assert cli.run(study.main, ["status", *STUDY, f"results='{tmp_path / 'there'}'"]) == 0
    said = capsys.readouterr().out
    assert "66/66 trials; packs:" in said
    assert said.count("went on") == 3
    again = ended(windtunnel("study", *STUDY, *ON_CLUSTER, f"results={tmp_path / 'there'}"))
    assert "submitted" not in again


def test_a_crashing_pack_is_retried_then_fails_and_stops_the_study(tmp_path: Path) -> None:
    crash = "+cluster.environment.XLA_FLAGS='--xla_no_such_flag=1'"
    small = ("study.sweep.workload.width=[4,8]", "study.sweep.optimizer.learning_rate=[0.01]", "study.sweep.seed=[0]")
    words = [*STUDY[:2], *small, *STUDY[4:], *ON_CLUSTER, crash, "cluster.retries=1", f"results={tmp_path}"]
    words = [word for word in words if not word.startswith(("study.rerun", "study.predict"))]
    output = ended(windtunnel("study", *words, "wait=true"), code=1)
    root = tmp_path / "regression"
    submission = only_submission(root)
    jobs = jobs_of(submission)
    assert accounted(f"{jobs['array']}_0") == "FAILED"
    assert accounted(jobs["next"]) == "CANCELLED"
    log = (submission / "logs" / "0.log").read_text()
    assert log.count("requeued") == 1, log
    assert "failed, see" in output
    assert {entry.state for entry in pack_states(Store(root))} == {"failed"}
    words = [word for word in words if word != crash]
    output = ended(windtunnel("study", *words, "wait=true"))  # the same command again: only what failed
    assert "2/2 trials; packs: 2 done" in output


def test_a_job_holds_what_it_was_submitted_with(tmp_path: Path) -> None:
    """Hostile names run nothing, secrets stay in the environment, and later edits of the code change nothing."""
    folder = tmp_path / 'it\'s $(touch pwned1) `touch pwned2` 100% "x"; touch pwned3'
    for package in ("harness", "workloads", "hydra_plugins", "conf"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    value = "a b'\"\n$(touch pwned4) `touch pwned5` %j; touch pwned6"
    environment = f"+cluster.environment.GREETING={_hydra(value)}"
    words = ["train", *MODEL, "budget.steps=12", *PINNED, *ON_CLUSTER, "cluster.options=[--hold]", environment]
    ended(windtunnel(*words, "study_name='$(touch pwned7) \\'q\\''", cwd=folder, WANDB_API_KEY=CANARY))
    (root,) = (folder / "results").iterdir()
    submission = only_submission(root)
    version = (next((root / "slurm").glob("code-*")) / "harness" / "code_version.txt").read_text()
    (folder / "harness" / "__init__.py").write_text("raise SystemExit('the working tree was edited')\n")
    array = jobs_of(submission)["array"]
    slurm("scontrol", "release", array)
    until(lambda: not queue.live([array]), "the task to end")
    log = (submission / "logs" / "0.log").read_text()
    (row,) = Store(root).trials().to_pylist()
    assert row["status"] == "ok", log
    assert row["code_version"] == version
    assert not list(tmp_path.rglob("pwned*"))
    assert not (REPOSITORY / "pwned4").exists()
    assert all(CANARY not in path.read_text(errors="replace") for path in root.rglob("*") if path.is_file())


def _hydra(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def test_cancelled_is_not_resurrected(tmp_path: Path) -> None:
    words = [*MODEL, "budget.steps=200000", "evaluations=200", *PINNED, *ON_CLUSTER, f"results={tmp_path}"]
    ended(windtunnel("train", *words))
    submission = only_submission(tmp_path / "train")
    array = jobs_of(submission)["array"]
    log = submission / "logs" / "0.log"
    until(lambda: log.exists() and "step" in log.read_text(), "the task to train")
    again = ended(windtunnel("train", *words))
    assert f"already queued: 1 trials as job {array}" in again
    slurm("scancel", f"{array}_0")
    until(lambda: not queue.live([array]), "the task to end")
    assert accounted(f"{array}_0") == "CANCELLED"
    assert "requeued" not in log.read_text()
    states = pack_states(Store(tmp_path / "train"))
    assert [entry.state for entry in states] == ["failed"]
    assert list((tmp_path / "train" / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("preset", ["cpu", "gpu", "local"])
def test_presets_are_accepted(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sbatch takes the script of every shipped preset, and the one with GPUs gets them."""
    fits = ("cluster.cpus=1", "cluster.mem_gb=1", "cluster.analysis={cpus: 1, mem_gb: 1}")
    words = [*STUDY, "hydra/launcher=slurm", f"cluster={preset}", *fits, f"results='{tmp_path}'", "dry_run=true"]
    assert cli.run(study.main, words) == 0
    text = capsys.readouterr().out
    script = tmp_path / "array.sh"
    script.write_text(text[text.index("#!/bin/bash") : text.index('exit "$code"')])
    subprocess.run(["sbatch", "--test-only", str(script)], check=True, capture_output=True)
    assert ("--gres=gpu:1" in text) == (preset == "gpu")


SUBMISSION = (
    "import optax\n\nFAMILY = 'adam'\n\ndef make(learning_rate, b1=0.9):\n    return optax.adam(learning_rate, b1)\n"
)


def test_a_competition_with_a_file_of_its_own(tmp_path: Path) -> None:
    """Trained as an array, scored by the job after it: the steps to the target are those of one process."""
    (tmp_path / "goals").mkdir()
    write_json(tmp_path / "goals" / "image_mlp.json", target("image_mlp", None, FIELDS, 1.2))
    (tmp_path / "mine.py").write_text(SUBMISSION)
    words = ["compete", f"submissions=adamw,{tmp_path / 'mine.py'}:make", f"targets={tmp_path / 'goals'}"]
    words += ["trials=2", "studies=2", *PINNED]
    here = windtunnel(*words, f"results={tmp_path / 'here'}")
    there = windtunnel(*words, *ON_CLUSTER, "wait=true", f"results={tmp_path / 'there'}")
    ended(here)
    assert "the study is complete" in ended(there)
    found, expected = (_steps(tmp_path / place / "competition") for place in ("there", "here"))
    assert found == expected
    assert len(found) == 2 * 2 * 2
    assert content(tmp_path / "there" / "competition")[0] == content(tmp_path / "here" / "competition")[0]


def _steps(folder: Path) -> list[list[str]]:
    with (folder / OWN_TRIALS).open() as file:
        return [
            [row[name] for name in ("submission", "study", "trial", "steps_to_target")] for row in csv.DictReader(file)
        ]
