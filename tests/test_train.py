"""The train command: one trial, a packed sweep, the composed configuration; trials' identity."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness import cli, train
from harness.config import compose_config, trial_from, with_values
from harness.records.store import Store
from tests.test_bad_input import SMALL
from tests.trials import small_trial
from workloads.base import BadInput


def test_one_trial_is_trained_recorded_and_not_trained_again(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, f"results={results}"]
    assert cli.run(train.main, arguments) == 0
    store = Store(results / "train")
    (row,) = store.trials().to_pylist()
    assert row["status"] == "ok"
    assert "1 trained" in capsys.readouterr().out
    assert cli.run(train.main, arguments) == 0
    assert "0 trained" in capsys.readouterr().out
    assert len(store.trials()) == 1


def test_a_sweep_is_packed_and_every_job_has_row_curve_and_config(results: Path) -> None:
    sweep = ["-m", *SMALL, "optimizer.learning_rate=1e-3,1e-2", "seed=range(2)", "parametrization=sp,mup"]
    command = [sys.executable, "-m", "harness.train", *sweep, "engine.devices=2", f"results={results}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    store = Store(results / "train")
    rows = store.trials().to_pylist()
    assert len(rows) == 8
    assert len({row["pack"] for row in rows}) == 1
    assert "1 programs compiled" in " ".join(done.stdout.split())
    for row in rows:
        assert len(store.curves([row["trial"]])) > 0
        config = yaml.safe_load((results / "train" / "configs" / f"{row['trial']}.yaml").read_text())
        assert config["optimizer"]["learning_rate"] == row["optimizer.learning_rate"]
        assert config["seed"] == row["seed"]


def test_a_bad_sweep_is_refused(results: Path) -> None:
    command = [sys.executable, "-m", "harness.train", "-m", "workload.widht=8,16", f"results={results}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "workload.width" in done.stderr


def test_cfg_prints_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(train.main, ["workload.width=24", "--cfg"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["workload"]["width"] == 24


def test_identity_is_the_configuration() -> None:
    trial = small_trial()
    assert trial.id == small_trial().id
    assert json.loads(json.dumps(trial.config())) == trial.config()
    different = [
        small_trial(seed=1),
        small_trial(optimizer__learning_rate=2e-2),
        small_trial(workload__width=16),
        small_trial(evaluations=4),
        small_trial(budget__steps=13),
        small_trial(schedule__warmup="20%"),
    ]
    assert len({trial.id, *(other.id for other in different)}) == 1 + len(different)


def test_what_shares_a_program() -> None:
    """Numbers are traced; sizes, switches and kinds are static."""
    static = small_trial().static()
    for same in ({"seed": 3}, {"optimizer__b1": 0.8}, {"schedule__warmup": "3 steps"}, {"workload__z_loss": 1e-4}):
        assert small_trial(**same).static() == static, same
    for other in ({"workload__width": 16}, {"workload__qk_norm": True}, {"precision": "bfloat16"}):
        assert small_trial(**other).static() != static, other


def test_values_are_checked_like_hydra_does() -> None:
    trial = trial_from(compose_config("train", []))
    assert with_values(trial, {"workload.width": 32}).workload.width == 32
    for key, value in {"workload.width": "wide", "workload.widht": 8, "optimizer.b1": "x"}.items():
        with pytest.raises(BadInput, match=key.split(".")[0]):
            with_values(trial, {key: value})
