"""judge, compete and targets as job arrays: what SLURM would run, run here task by task."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from harness import cli, compete, judge, targets
from harness.engine.signals import StopFlag
from harness.launchers.slurm import follow, status
from harness.launchers.slurm.attempts import Attempts
from harness.launchers.slurm.manifest import read, submissions
from harness.launchers.slurm.training import train_task
from harness.records.files import read_json, write_json
from harness.records.store import Store
from harness.score import OWN_TRIALS
from harness.workplace import STEP_SECONDS, split_words
from tests.launchers.fake_slurm import FakeSlurm
from tests.test_compete import FIELDS, target

ON_CLUSTER = ("hydra/launcher=slurm", "cluster=local", "engine.devices=2")
MINE = """
import jax.numpy as jnp, optax

FAMILY = "adam"
CANDIDATES = 2
SPACE = [{"learning_rate": 1e-2}]

def select(drawn, losses, count, key):
    return jnp.argsort(-losses)[:count]

def make(learning_rate, b1=0.9):
    return optax.adam(learning_rate, b1)
"""


def carry_out(root: Path) -> int:
    """Run the tasks of the study's submissions and what follows them, as SLURM would; returns how many there were."""
    done = 0
    while len(folders := submissions(root)) > done:
        folder = folders[done]
        manifest = read(folder / "manifest.json")
        for index in range(len(manifest.tasks)):
            attempts = Attempts(folder / "attempts" / str(index), root / "checkpoints")
            train_task(folder / "manifest.json", index, attempts, StopFlag())
        with mock.patch.dict(os.environ, SLURM_JOB_ID="1"):
            assert follow.main([f"manifest={folder / 'manifest.json'}"]) == 0
        done += 1
    return done


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "goals").mkdir()
    (tmp_path / "goals" / "image_mlp.json").write_text(json.dumps(target("image_mlp", None, FIELDS, 1.2)))
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMPETITION = ("submissions=adamw,mine.py:make", "targets=goals", "trials=1", "studies=2")


def test_words_are_told_apart() -> None:
    own, where = split_words(
        ["optimizer=lion", "results=r", *ON_CLUSTER, "cluster.time_min=5", "points=3", "wait=true"]
    )
    assert own == ["optimizer=lion", "points=3"]
    assert where == ["results=r", *ON_CLUSTER, "cluster.time_min=5", "wait=true"]


def test_a_competition_is_the_one_of_one_process(
    slurm: FakeSlurm, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is queued is the user's file as it was submitted, whatever becomes of it."""
    assert compete.main([*COMPETITION, "results=here"]) == 0
    words = [*COMPETITION, *ON_CLUSTER, "results=there"]
    assert compete.main([*words, "dry_run=true"]) == 0
    assert "#SBATCH --array=0-" in capsys.readouterr().out
    assert slurm.calls("sbatch") == []
    assert not list(place.glob("there/competition/slurm/*/manifest.json"))
    assert compete.main(words) == 0
    assert "submitted job array 101" in capsys.readouterr().out
    (place / "mine.py").write_text(MINE.replace("-losses", "losses"))
    root = place / "there" / "competition"
    assert carry_out(root) == 1
    found, expected = (_steps(folder) for folder in (root, place / "here" / "competition"))
    assert found == expected
    assert {row[0] for row in found} == {"adamw", "mine:make"}
    follow_script = (submissions(root)[0] / "next.sh").read_text()
    assert "--time=10" in follow_script  # of an array's task: it measures what a step takes
    (place / "mine.py").write_text(MINE)
    assert compete.main(words) == 0  # nothing is left to train
    assert len(submissions(root)) == 1
    assert compete.main([*words, "dry_run=true"]) == 0
    assert "every trial is recorded" in capsys.readouterr().out


def test_what_measures_runs_on_a_node(slurm: FakeSlurm, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where every trial is recorded, step times and an AlgoPerf submission's runs are still a job's to take."""
    (place / "theirs").mkdir()
    shutil.copy(Path(__file__).parents[1] / "algoperf" / "adamw.py", place / "theirs" / "theirs.py")
    point = {"learning_rate": 3e-2, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 1e-2}
    (place / "theirs" / "tuning_search_space.json").write_text(json.dumps([point]))
    words = ["submissions=theirs/theirs.py", "targets=goals", "trials=1", "studies=1", *ON_CLUSTER]
    assert compete.main([*words, "dry_run=true"]) == 0
    assert "what is left: 1 AlgoPerf-style runs, step times and the scores" in capsys.readouterr().out
    assert slurm.calls("sbatch") == []
    assert compete.main(words) == 0
    assert "submitted job 101, which goes on\n" in capsys.readouterr().out
    root = place / "results" / "competition"
    assert not (root / STEP_SECONDS).exists()
    slurm.say("squeue", "101|N/A|PENDING|0|Resources|\n")
    assert compete.main(words) == 0
    assert "already queued: job 101" in capsys.readouterr().out
    status.show(status.Console(), Store(root))
    assert "every trial is recorded" in capsys.readouterr().out
    assert carry_out(root) == 1
    times = (root / STEP_SECONDS).read_bytes()
    assert compete.main(words) == 0  # the login node only reads
    assert (root / STEP_SECONDS).read_bytes() == times
    assert len(submissions(root)) == 1


def _steps(folder: Path) -> list[tuple[str, ...]]:
    with (folder / OWN_TRIALS).open() as file:
        columns = ("submission", "study", "trial", "hit_eval_index", "steps_to_target", "test_target_met")
        return [tuple(row[name] for name in columns) for row in csv.DictReader(file)]


PROFILE = """
points: 2
studies: 2
workloads:
  - {workload: image_mlp, widths: [8], steps: [10, 20, 40], fields: {batch_size: 16, depth: 1}}
"""


@pytest.mark.parametrize("command", [judge, targets], ids=["judge", "targets"])
def test_stage_after_stage(command: Any, slurm: FakeSlurm, place: Path) -> None:
    """Tuning, then fresh seeds, each as an array; the report comes last, and nothing was trained by the command itself."""
    (place / "profile.yaml").write_text(PROFILE)
    words = {
        judge: ["optimizer=mine.py:make", "baselines=adam", "profile=profile.yaml", "space=space.yaml", "name=study"],
        targets: ["workload=image_mlp", "algorithms=adam", "points=2", "seeds=2", "steps=20", "out=set", "on=loss"],
    }[command]
    (place / "space.yaml").write_text("learning_rate: {log: [1.0e-4, 1.0e-1]}\n")
    small = [] if command is judge else ["fields.width=8", "fields.depth=1", "fields.batch_size=16"]
    assert command.main([*words, *small, *ON_CLUSTER]) == 0
    root = place / "results" / ("study" if command is judge else "targets")
    assert Store(root).finished() == set()
    assert carry_out(root) >= 2
    outcomes = [read_json(folder / "outcome.json") for folder in submissions(root)]
    assert all(outcome["next"] for outcome in outcomes[:-1])
    assert outcomes[-1]["next"] == []
    assert (root / "report.html" if command is judge else place / "set" / "image_mlp.json").is_file()


def test_only_commands_go_on(slurm: FakeSlurm, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compete.main([*COMPETITION, *ON_CLUSTER]) == 0
    (folder,) = submissions(place / "results" / "competition")
    path = folder / "manifest.json"
    content = read_json(path)
    Store(folder.parent.parent).append(
        [{"trial": trial, "status": "ok"} for pack in read(path).packs for trial in pack.trial_ids]
    )
    write_json(path, {**content, "command": "os"})
    assert cli.run(follow.main, [f"manifest={path}"]) == 2
    assert "is no command that goes on" in capsys.readouterr().err
