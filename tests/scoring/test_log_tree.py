"""AlgoPerf's folders of logs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from harness.scoring import read_targets
from harness.scoring.log_tree import read_logs
from workloads.base import BadInput

TARGETS = {
    "benchmark_version": "0.5",
    "base_workloads": ["wmt", "criteo1tb"],
    "held_out_workloads": ["wmt_glu_tanh"],
    "workloads": {
        "wmt": {"target_metric_name": "bleu", "validation_target_value": 30.0},
        "wmt_glu_tanh": {"target_metric_name": "bleu", "validation_target_value": 29.0},
        "criteo1tb": {"target_metric_name": "loss", "validation_target_value": 0.12},
    },
}


@pytest.fixture
def targets(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps(TARGETS))
    return read_targets(path)


def log(root, place, metric="bleu", values=(1.0, 31.0, 29.0), times=(10, 20, 30)):
    """Write a trial's evaluations under <submission>/<study>/<workload>_<framework>/<trial>."""
    folder = root / place
    folder.mkdir(parents=True)
    rows = [f"{i},{t},{v},{100 * i}" for i, (t, v) in enumerate(zip(times, values, strict=True))]
    (folder / "eval_measurements.csv").write_text("\n".join([f",score,validation/{metric},global_step", *rows]) + "\n")


def rows(table):
    return {
        tuple(table.columns[name][i] for name in ("submission", "study", "workload", "trial")): (
            table.columns["hit_eval_index"][i],
            table.columns["time_to_target_s"][i],
        )
        for i in range(len(table))
    }


def test_a_tree_becomes_a_table(tmp_path, targets):
    root = tmp_path / "logs"
    log(root, "fast/study_0/wmt_jax/trial_1")
    log(root, "fast/study_0/wmt_jax/trial_10", values=(1, 2, "nan"))
    log(root, "fast/study_1/wmt_glu_tanh_pytorch/trial_1", values=(29.0, 28, 27))
    log(root, "slow/study_0/criteo1tb_jax/trial_1", "loss", values=("", 0.2, 0.12))
    log(root, "slow/study_0/wmt/trial_1")
    log(root, "slow/study_0/wmt_post_ln_jax/trial_1")
    table = read_logs(root, targets)
    assert rows(table) == {
        ("fast", "study_0", "wmt", "trial_1"): (1, 20.0),
        ("fast", "study_0", "wmt", "trial_10"): (-1, math.inf),
        ("fast", "study_1", "wmt_glu_tanh", "trial_1"): (0, 10.0),
        ("slow", "study_0", "criteo1tb", "trial_1"): (2, 30.0),
        ("slow", "study_0", "wmt", "trial_1"): (1, 20.0),
    }
    assert "ruleset" not in table.columns
    assert (table.rows_read, sum(table.dropped.values())) == (6, 1)
    assert "wmt_post_ln_jax" in next(iter(table.dropped))


def test_folders_above_are_rulesets_and_one_submission_can_be_given(tmp_path, targets):
    root = tmp_path / "logs"
    log(root, "external_tuning/fast/study_0/wmt_jax/trial_1")
    log(root, "self_tuning/fast/study_0/wmt_jax/trial_1")
    assert read_logs(root, targets).columns["ruleset"].tolist() == ["external_tuning", "self_tuning"]
    for deep in ("self_tuning", "self_tuning/fast"):
        table = read_logs(root / deep, targets)
        assert rows(table) == {("fast", "study_0", "wmt", "trial_1"): (1, 20.0)}
        assert "ruleset" not in table.columns


def test_submissions_at_different_depths_are_refused(tmp_path, targets):
    root = tmp_path / "logs"
    log(root, "team/fast/study_0/wmt_jax/trial_1")
    log(root, "slow/study_0/wmt_jax/trial_1")
    with pytest.raises(BadInput, match="others in team"):
        read_logs(root, targets)


def test_files_that_cannot_show_a_hit_are_not_met_and_counted(tmp_path, targets):
    root = tmp_path / "logs"
    log(root, "a/study_0/wmt_jax/trial_1")
    log(root, "a/study_0/wmt_jax/trial_2", metric="accuracy")
    log(root, "a/study_0/wmt_jax/trial_3", values=(), times=())
    (root / "a/study_0/wmt_jax/trial_4").mkdir()
    (root / "a/study_0/wmt_jax/trial_4/eval_measurements.csv").write_text("")
    table = read_logs(root, targets)
    assert np.isinf(table.columns["time_to_target_s"]).tolist() == [False, True, True, True]
    assert table.notes == (
        "wmt: no column 'validation/bleu', so not met, in 1 of the files",
        "wmt: no evaluations, so not met, in 2 of the files",
    )


def test_bad_trees(tmp_path, targets):
    root = tmp_path / "logs"
    root.mkdir()
    with pytest.raises(BadInput, match="holds no <submission>/<study>/<workload>/<trial>/eval_measurements"):
        read_logs(root, targets)
    log(root, "a/study_0/cifar_jax/trial_1")
    with pytest.raises(BadInput, match=r"no workload .* has a target"):
        read_logs(root, targets)
    log(root, "a/study_0/wmt_jax/trial_1", metric="accuracy")
    with pytest.raises(BadInput, match="no file can be judged by its target"):
        read_logs(root, targets)
    log(root, "a/study_0/wmt_jax/trial_2", values=("bad", 1, 2))
    with pytest.raises(BadInput, match=r"validation/bleu = 'bad' is not a number"):
        read_logs(root, targets)
    log(tmp_path / "flat", "wmt_jax/trial_1")
    with pytest.raises(BadInput, match="is not in folders"):
        read_logs(tmp_path / "flat", targets)
