"""Targets as AlgoPerf writes them, with and without directions."""

from __future__ import annotations

import copy
import json

import pytest

from harness.scoring import Workloads, read_targets
from workloads.base import BadInput

ENTRY = {
    "benchmark_version": "0.5",
    "base_workloads": ["mri", "mri_big", "wmt"],
    "held_out_workloads": ["mri_big_tanh", "mri_tanh"],
    "workloads": {
        "mri": {"target_metric_name": "ssim", "validation_target_value": 0.7, "step_hint": 10},
        "mri_big": {"target_metric_name": "ssim", "validation_target_value": 0.7},
        "mri_tanh": {"target_metric_name": "ssim", "validation_target_value": 0.6},
        "mri_big_tanh": {"target_metric_name": "ssim", "validation_target_value": 0.6},
        "wmt": {"target_metric_name": "bleu", "target_metric_goal": "maximize", "validation_target_value": 30},
        "odd": {"target_metric_name": "regret", "validation_target_value": 1},
        "lm": {"target_metric_name": "regret", "target_metric_goal": "minimize", "validation_target_value": 1},
    },
}


def written(folder, entry):
    path = folder / "targets.json"
    path.write_text(json.dumps(entry))
    return path


def test_targets_and_the_bases_of_variants(tmp_path):
    found = read_targets(written(tmp_path, ENTRY))
    assert found.version == "0.5"
    assert found.workloads == Workloads(("mri", "mri_big", "wmt"), {"mri_big_tanh": "mri_big", "mri_tanh": "mri"})
    assert found.workloads.columns == ("mri", "mri_big", "wmt", "mri_big_tanh", "mri_tanh")
    assert found.workloads.variants == ((3, 1), (4, 0))
    assert [found.of(name)[1] for name in ("mri", "wmt", "lm")] == ["maximize", "maximize", "minimize"]
    with pytest.raises(BadInput, match='"target_metric_goal": "minimize" or "maximize"'):
        found.of("odd")


def test_a_base_may_be_named_and_held_out_workloads_may_lack(tmp_path):
    entry = copy.deepcopy(ENTRY)
    entry["workloads"]["mri_tanh"]["base_workload"] = "wmt"
    assert read_targets(written(tmp_path, entry)).workloads.held_out["mri_tanh"] == "wmt"
    del entry["held_out_workloads"]
    assert read_targets(written(tmp_path, entry)).workloads.held_out == {}


def change(**changes):
    return {**copy.deepcopy(ENTRY), **changes}


BAD = {
    "no workloads": (change(workloads=[]), "not a file of targets"),
    "list": ([1], "not a file of targets"),
    "no base": (change(base_workloads=[]), "at least one base workload"),
    "base is no list": (change(base_workloads="mri"), "must be a list"),
    "misspelled": (change(base_workloads=["wmtt"]), "Did you mean 'wmt'"),
    "no base of a variant": (change(held_out_workloads=["lm"]), "begins with the name of no base workload"),
    "twice": (change(base_workloads=["mri", "mri"], held_out_workloads=[]), "named twice"),
    "no value": (change(workloads={**ENTRY["workloads"], "odd": {"target_metric_name": "x"}}), "workloads.odd needs"),
    "no entry": (change(workloads={**ENTRY["workloads"], "odd": 3}), "workloads.odd needs"),
    "goal": (
        change(workloads={**ENTRY["workloads"], "odd": {**ENTRY["workloads"]["wmt"], "target_metric_goal": "up"}}),
        "use minimize or maximize",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_targets(tmp_path, case):
    entry, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        read_targets(written(tmp_path, entry))


def test_workloads_without_one_of_them():
    rest, columns = Workloads(("a", "b"), {"b_1": "b", "a_1": "a"}).without("a")
    assert rest == Workloads(("b",), {"b_1": "b"})
    assert columns == [1, 2]
