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


def test_an_unfinished_last_line_is_dropped_and_a_missing_time_is_not_met(tmp_path, targets):
    root = tmp_path / "logs"
    header = "score,validation/bleu,global_step\n"
    cut = {
        "before": "10,1.0,0\n20,31.0,100\n30,2",
        "hit": "10,1.0,0\n20,3",
        "zeros": "10,1.0,0\n" + "\0" * 64,
        "only": "10,1.0",
        "whole": "10,31.0,0\n20,1,100",
    }
    for trial, lines in cut.items():
        log(root, f"a/study_0/wmt_jax/{trial}")
        (root / f"a/study_0/wmt_jax/{trial}/eval_measurements.csv").write_text(header + lines)
    log(root, "a/study_0/wmt_jax/timeless")
    (root / "a/study_0/wmt_jax/timeless/eval_measurements.csv").write_text("time,validation/bleu\n1,31\n")
    table = read_logs(root, targets)
    met = {trial: time for (*_, trial), (_, time) in rows(table).items() if np.isfinite(time)}
    assert met == {"before": 20.0, "whole": 10.0}
    files = ", ".join(
        f"a/study_0/wmt_jax/{trial}/eval_measurements.csv" for trial in ("before", "hit", "only", "zeros")
    )
    assert table.notes == (
        "wmt: no column 'score', so not met, in 1 of the files",
        "wmt: no evaluations, so not met, in 1 of the files",
        f"the last line is not whole (a killed run?), so dropped, in {files}",
    )
    log(root, "b/study_0/wmt_jax/trial_1")
    (root / "b/study_0/wmt_jax/trial_1/eval_measurements.csv").write_text(header + "10,1.0\n20,31.0,100\n")
    with pytest.raises(BadInput, match="line 2 has 2 cells, but the header has 3"):
        read_logs(root, targets)


def test_what_the_tree_lacks_is_named(tmp_path, targets):
    root = tmp_path / "logs"
    log(root, "a/study_0/wmt_jax/trial_1")
    log(root, "only_variants/study_0/wmt_post_ln_jax/trial_1")
    for place in (
        "a/study_0/wmt_jax/trial_2",
        "b/study_0/criteo1tb_pytorch/trial_1",
        "c",
        "a/study_0/cifar_jax/trial_1",
    ):
        (root / place).mkdir(parents=True)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    assert read_logs(root, targets).notes == (
        "no eval_measurements.csv, so no trial, in a/study_0/wmt_jax/trial_2, b/study_0/criteo1tb_pytorch/trial_1",
        "no file there, so not followed, behind the links gone",
        "no trial that can be scored is left of b, c, only_variants",
    )


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path, targets):
    root, store = tmp_path / "logs", tmp_path / "store"
    log(store, "v3/study_0/wmt_jax/trial_1")
    log(root, "plain/study_0/wmt_jax/trial_1")
    (root / "linked").symlink_to(store / "v3")
    (root / "again").symlink_to(store / "v3")
    (root / "plain/study_0/up").symlink_to(root / "plain")
    (store / "v3/study_0/top").symlink_to(tmp_path)
    table = read_logs(root, targets)
    assert [place[0] for place in rows(table)] == ["again", "linked", "plain"]
    assert table.notes == ()
    assert rows(read_logs(root / "linked", targets)) == {("linked", "study_0", "wmt", "trial_1"): (1, 20.0)}


@pytest.mark.parametrize(
    "place",
    [
        "a/study_0/wmt_jax/2024-01-01/trial_1",
        "a/study_0/wmt_jax/trial_1/2024-01-01",
        "a/study_0/2024-01-01/wmt_jax/trial_1",
        "a/study_0/wmt_jax",
    ],
)
def test_a_level_too_many_or_missing_is_told_with_the_layout(tmp_path, targets, place):
    log(tmp_path / "logs", place)
    log(tmp_path / "logs", "b/study_0/wmt_jax/trial_1")
    with pytest.raises(
        BadInput, match=r"in folders <submission>/study_k/<workload>_<framework>/trial_j .*: move it there"
    ):
        read_logs(tmp_path / "logs", targets)


def test_one_trial_in_two_frameworks_is_refused_with_both_paths(tmp_path, targets):
    log(tmp_path, "a/study_0/wmt_jax/trial_1")
    log(tmp_path, "a/study_0/wmt_pytorch/trial_1")
    with pytest.raises(BadInput, match=r"wmt_jax/trial_1/eval_.* and .*wmt_pytorch/trial_1/eval_.* are the same trial"):
        read_logs(tmp_path, targets)


def test_a_file_that_cannot_be_read_is_named(tmp_path, targets):
    log(tmp_path, "a/study_0/wmt_jax/trial_1")
    file = tmp_path / "a/study_0/wmt_jax/trial_2/eval_measurements.csv"
    file.mkdir(parents=True)
    with pytest.raises(
        BadInput, match=r"cannot read .*trial_2/eval_measurements.csv: Is a directory; it must be a file"
    ):
        read_logs(tmp_path, targets)
    file.rmdir()
    file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"cannot read .*trial_2/eval_measurements.csv: No such file"):
        read_logs(tmp_path, targets)


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
    with pytest.raises(BadInput, match=r"line 2: validation/bleu = 'bad' is not a number; .*empty \(not met\)$"):
        read_logs(root, targets)
    log(tmp_path / "flat", "wmt_jax/trial_1")
    with pytest.raises(BadInput, match="is not in folders"):
        read_logs(tmp_path / "flat", targets)
