"""harness.score: from anybody's table or log tree to scores.json and a page; bad input is refused or spoken of."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from harness import cli, score
from harness.main import main as windtunnel
from tests.scoring.boards import COLUMNS, table, write

TIMES = {
    ("fast", "a"): [10, 11, 12],
    ("fast", "b"): [20, 22, 21],
    ("fast", "a_v"): [10, 10, 10],
    ("slow", "a"): [30, 28, 33],
    ("slow", "b"): ["inf", "inf", 25],
    ("slow", "a_v"): [20, 20, 20],
    ("baseline", "a"): [20, 21, 19],
    ("baseline", "b"): [42, 40, 41],
    ("baseline", "a_v"): [50, 50, 50],
}
SPEC = {"target_metric_name": "loss", "validation_target_value": 1.0}
TARGETS = {
    "benchmark_version": "1",
    "base_workloads": ["a", "b"],
    "held_out_workloads": ["a_v"],
    "workloads": dict.fromkeys(("a", "b", "a_v", "b_v"), SPEC),
}


def rows(times=TIMES):
    return table({key: [float(value) for value in several] for key, several in times.items()})


@pytest.fixture
def trials(tmp_path):
    return write(tmp_path / "trials.csv", rows())


@pytest.fixture
def targets(tmp_path):
    path = tmp_path / "targets.json"
    path.write_text(json.dumps(TARGETS))
    return path


@pytest.fixture
def no_page(monkeypatch):
    """Numbers only: pages take a second each."""
    monkeypatch.setattr(score, "write_document", lambda *_: "no page")


def scored(logs, *words):
    out = logs.parent / "out"
    assert score.main([f"logs={logs}", "bootstrap=100", f"out={out}", *words]) == 0
    return json.loads((out / "scores.json").read_text())


def test_json_page_pictures_and_table(trials, targets, capsys):
    found = scored(trials, f"targets={targets}")
    assert list(found) == ["fast", "baseline", "slow"]
    fast = found["fast"]
    assert fast["score"] == 1.0
    assert fast["rank_ci95"] == [1, 2]  # `slow` met b in a study, and could in most
    assert fast["per_workload"]["a"]["ratio"] == 1.0
    assert fast["per_workload"]["a"]["time_s"] == 11
    assert fast["per_workload"]["a"]["held_out"]["a_v"]["status"] == "counts"
    assert found["baseline"]["per_workload"]["a"]["status"] == "held-out variant not met"
    assert found["baseline"]["score"] == pytest.approx((4 - 41 / 21) / 3 / 2)
    assert found["slow"]["per_workload"]["b"] == {
        "ratio": None, "time_s": None, "status": "not met", "studies": 3, "studies_met": 1, "held_out": {},
    }  # fmt: skip
    assert fast["speedup"]["over"] == "baseline"
    low, high = fast["speedup"]["ci95"]
    assert low < fast["speedup"]["value"] < high
    assert fast["speedup"]["value"] == pytest.approx(1 / fast["versus"]["baseline"]["time_ratio"])
    assert set(fast["leave_one_out"]) == {"a", "b"}
    for key in ("ci95", "bootstrap_percentiles", "stderr", "studies", "rank"):
        assert key in fast
    page = (trials.parent / "out" / "report.html").read_text()
    assert "conditional on these workloads" in page
    assert "too narrow" in page
    figures = {path.stem for path in (trials.parent / "out" / "figures").iterdir()}
    assert {"profiles", "profiles_1", "time_ratios"} <= figures
    printed = capsys.readouterr().out
    for word in ("ranks it may have", "minimum detectable speed-up", "conditional on these workloads", "too narrow"):
        assert word in printed
    data = json.loads((trials.parent / "out" / "data.json").read_text())
    assert data["leaderboards"]["all"]["minimum_detectable_speedup"] > 1
    assert data["command"].startswith("python -m harness.score logs=")


@pytest.mark.usefixtures("no_page")
def test_without_targets_every_workload_counts_and_windtunnel_knows_the_command(trials):
    out = trials.parent / "other"
    assert windtunnel(["score", f"logs={trials}", f"out={out}", "bootstrap=0"]) == 0
    found = json.loads((out / "scores.json").read_text())
    assert set(found["fast"]["per_workload"]) == {"a", "b", "a_v"}
    assert found["fast"]["ci95"] == [None, None]


@pytest.mark.usefixtures("no_page")
def test_leaderboards_are_told_apart_and_named(tmp_path):
    both = [(0.6, rules, *row) for rules in ("self", "external") for row in rows()]
    path = write(tmp_path / "both.csv", both, ("version", "ruleset", *COLUMNS))
    found = scored(path)
    assert list(found) == ["0.6/external", "0.6/self"]
    assert found["0.6/external"] == found["0.6/self"]
    assert scored(path, "where=ruleset='self'") == found["0.6/self"]
    assert list(scored(path, "by=ruleset")) == ["external", "self"]


def test_a_page_has_sections_and_pictures_of_each_leaderboard(tmp_path):
    both = [(rules, *row) for rules in ("self", "external") for row in rows()]
    scored(write(tmp_path / "both.csv", both, ("ruleset", *COLUMNS)), "bootstrap=0")
    assert "external: workloads left out" in (tmp_path / "out" / "report.html").read_text()
    assert {p.stem for p in (tmp_path / "out" / "figures").iterdir()} >= {"self_profiles", "external_time_ratios"}


@pytest.mark.usefixtures("no_page")
def test_rules_agree_with_a_table_that_has_indices_and_exact_needs_none(trials):
    exact, algoperf = scored(trials), scored(trials, "rules=algoperf")
    assert exact["baseline"]["score"] == pytest.approx(algoperf["baseline"]["score"], abs=0.01)
    bare = write(trials.parent / "bare.csv", [(*row[:4], row[5]) for row in rows()], (*COLUMNS[:4], COLUMNS[5]))
    assert scored(bare) == exact


@pytest.mark.usefixtures("no_page")
def test_every_way_to_write_a_time(tmp_path):
    written = {"inf": "Infinity", "nothing": "", "nan": "NaN", "minus": "-1", "half": "12.5", "half_again": "1.25e1"}
    lines = [
        ("s", f"study_{i}", "a", 1, 3 if "half" in key else -1, text) for i, (key, text) in enumerate(written.items())
    ]
    lines += [("s", "study_9", "a", 1, 3, "inf"), ("s", "study_8", "a", 1, "", 7.0)]
    found = scored(write(tmp_path / "t.csv", lines))
    cell = found["s"]["per_workload"]["a"]
    assert (cell["studies"], cell["studies_met"], cell["status"]) == (8, 3, "not met")
    assert notes(tmp_path) == [
        "1 rows have a hit_eval_index but no time_to_target_s: not met",
        "1 rows have a time_to_target_s but no hit_eval_index: met",
    ]
    found = scored(tmp_path / "t.csv", "rules=algoperf")
    assert found["s"]["per_workload"]["a"]["studies_met"] == 2
    assert notes(tmp_path)[1] == "1 rows have a time_to_target_s but no hit_eval_index: not met"


def notes(folder):
    return json.loads((folder / "out" / "data.json").read_text())["notes"]


@pytest.mark.usefixtures("no_page")
def test_an_empty_column_of_indices_is_none_and_a_negative_index_is_not_met(tmp_path, trials):
    empty = [(*row[:4], "", row[5]) for row in rows()]
    assert scored(write(tmp_path / "empty.csv", empty)) == scored(trials)
    negative = [(*row[:4], -1 if row[0] == "fast" else "", row[5]) for row in rows()]
    found = scored(write(tmp_path / "negative.csv", negative))
    assert found["fast"]["score"] == 0
    assert found["baseline"]["score"] > 0
    assert notes(tmp_path)[0] == "9 rows have a time_to_target_s but a negative hit_eval_index: not met"


@pytest.mark.usefixtures("no_page")
def test_workloads_may_be_named_with_their_framework_and_who_is_left_out_is_named(tmp_path, trials, targets):
    plain = scored(trials, f"targets={targets}")
    suffixed = [(*row[:2], f"{row[2]}_{'jax' if row[0] == 'slow' else 'pytorch'}", *row[3:]) for row in rows()]
    suffixed.append(("elsewhere", "study_0", "b_v_jax", "trial_1", 1, 1.0))
    assert scored(write(tmp_path / "s.csv", suffixed), f"targets={targets}") == plain
    assert notes(tmp_path) == [
        "no row is left of submission elsewhere: its workloads are not among those that score",
        "workloads taken without their framework: a_jax, a_pytorch, a_v_jax, a_v_pytorch, b_jax, b_pytorch",
    ]


@pytest.mark.usefixtures("no_page")
def test_cells_that_lack_studies_are_named(tmp_path, targets, capsys):
    lines = [row for row in rows() if row[0] != "slow" or row[2] != "a" or row[1] == "study_0"]
    found = scored(write(tmp_path / "t.csv", lines), f"targets={targets}")
    assert found["slow"]["ci95"] == [None, None]
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert any("slow (a 1 of 3)" in warning for warning in data["leaderboards"]["all"]["warnings"])
    assert "slow (a 1 of 3)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.usefixtures("no_page")
def test_a_baseline_need_not_enter_every_leaderboard(tmp_path, capsys):
    both = [(rules, *row) for rules in ("self", "external") for row in rows() if (rules, row[0]) != ("self", "slow")]
    path = write(tmp_path / "both.csv", both, ("ruleset", *COLUMNS))
    found = scored(path, "baseline=slow")
    assert found["external"]["fast"]["speedup"]["over"] == "slow"
    assert found["self"]["fast"]["speedup"]["over"] == "baseline"
    warnings = {
        name: about["warnings"]
        for name, about in json.loads((tmp_path / "out" / "data.json").read_text())["leaderboards"].items()
    }
    assert warnings == {"external": [], "self": ["'slow' did not enter; speed-ups are over baseline."]}
    assert cli.run(score.main, [f"logs={path}", "baseline=slw"]) == 2
    assert "Did you mean 'slow'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("no_page")
def test_verdicts_are_printed_and_the_error_of_step_times_is_of_the_own_times(tmp_path, capsys):
    times = {(name, "a"): [10.0, 10.1, 9.9] for name in ("one", "two")} | {("slow", "a"): [20.0, 20.1, 19.9]}
    lines = [(*row, 0.05 if row[0] == "one" else 0.0, row[5] / 2) for row in table(times)]
    path = write(tmp_path / "t.csv", lines, (*COLUMNS, "time_rel_stderr", "steps"))
    found = scored(path)
    assert found["one"]["versus"]["two"]["verdict"] == "undecided"
    low, high = found["one"]["versus"]["two"]["ci90"]
    assert (low, high) == pytest.approx((np.exp(-1.645 * 0.05), np.exp(1.645 * 0.05)), abs=1e-4)
    assert found["slow"]["versus"]["two"]["verdict"] == found["slow"]["speedup"]["verdict"] == "slower"
    printed = capsys.readouterr().out
    assert re.search(r"one +two .*\[0\.921, 1\.086\] +undecided", printed)
    assert re.search(r"two +slow .* faster", printed)
    in_steps = scored(path, "columns.time_to_target_s=steps")
    assert in_steps["one"]["versus"]["two"]["verdict"] == "equivalent"
    assert "time_rel_stderr is of the table's own time_to_target_s, so not used" in notes(tmp_path)[0]
    both = scored(path, "columns.time_to_target_s=steps", "columns.time_rel_stderr=time_rel_stderr")
    assert both["one"]["versus"]["two"]["verdict"] == "undecided"


@pytest.mark.usefixtures("no_page")
def test_order_of_rows_and_columns_and_numbers_as_names_do_not_matter(tmp_path):
    lines = [(f"{'fsb'.index(row[0][0])}", row[1][-1], *row[2:]) for row in rows()]
    rng = np.random.default_rng(0)
    found = scored(write(tmp_path / "a.csv", lines))
    order = rng.permutation(6)
    shuffled = [[lines[i][j] for j in order] for i in rng.permutation(len(lines))]
    assert scored(write(tmp_path / "b.csv", shuffled, [COLUMNS[j] for j in order])) == found
    assert set(found) == {"0", "1", "2"}


@pytest.mark.usefixtures("no_page")
def test_missing_workloads_and_variants_are_not_met(tmp_path, targets):
    lines = [row for row in rows() if (row[0], row[2]) not in {("slow", "a_v"), ("fast", "b")}]
    lines.append(("slow", "study_0", "b_v", "trial_1", 1, 1.0))
    found = scored(write(tmp_path / "t.csv", lines), f"targets={targets}")
    assert found["slow"]["per_workload"]["a"]["status"] == "held-out variant not met"
    assert found["fast"]["per_workload"]["b"]["status"] == "not met"
    assert found["fast"]["per_workload"]["b"]["studies"] == 0
    dropped = json.loads((tmp_path / "out" / "data.json").read_text())["dropped"]
    assert dropped == {"workload is not among those that score": 1}


@pytest.mark.usefixtures("no_page")
def test_a_log_tree_scores_as_its_table(tmp_path, targets, trials):
    for submission, study, workload, trial, index, time in rows():
        folder = tmp_path / "logs" / submission / study / f"{workload}_jax" / trial
        folder.mkdir(parents=True)
        curve = [f"{time / 10 * (i + 1) if index >= 0 else i + 1},{1.0 if i == index else 2.0}" for i in range(12)]
        (folder / "eval_measurements.csv").write_text("\n".join(["score,validation/loss", *curve]) + "\n")
    tree = scored(tmp_path / "logs", f"targets={targets}", "rules=algoperf")
    assert tree == scored(trials, f"targets={targets}", "rules=algoperf")


BAD = {
    "no logs": ([], "which logs"),
    "no file": (["logs=nowhere.csv"], "there is no file"),
    "rules": (["logs=X", "rules=algoperv"], "Did you mean 'algoperf'"),
    "word": (["logs=X", "target=T"], "Did you mean 'targets'"),
    "column": (["logs=X", "columns.trial=trail"], "Did you mean 'trial'"),
    "by": (["logs=X", "by=group"], "no column 'group'"),
    "baseline": (["logs=X", "baseline=fats"], "Did you mean 'fast'"),
    "nothing left": (["logs=X", "where=study='study_7'"], "keeps none"),
    "other targets": (["logs=X", "targets=T", "where=workload='c'"], "among the targets|keeps none"),
    "no targets there": (["logs=X", "targets=nowhere.json"], "does not exist"),
    "tree without targets": (["logs=."], "take targets to judge them by"),
    "bootstrap": (["logs=X", "bootstrap=3"], "too few"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_2_with_the_fix(trials, targets, capsys, case):
    words, message = BAD[case]
    words = [word.replace("=X", f"={trials}").replace("targets=T", f"targets={targets}") for word in words]
    assert cli.run(score.main, words) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert re.search(message, printed), printed


FAULTS = {
    "duplicate": (rows()[0], "two rows are submission 'fast', study 'study_0'"),
    "negative": (("fast", "study_7", "a", "trial_1", 2, -3.0), "times must be positive"),
    "minus without index": (("fast", "study_7", "a", "trial_1", "", -1.0), "write inf or leave it empty if not met"),
    "nameless": (("", "study_7", "a", "trial_1", 2, 3.0), "submission is empty"),
    "no number": (("fast", "study_7", "a", "trial_1", 2, "soon"), "time_to_target_s = 'soon' is not a number"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faulty_rows_are_refused_with_their_place(tmp_path, capsys, case):
    row, message = FAULTS[case]
    path = write(tmp_path / "t.csv", [*rows(), row])
    assert cli.run(score.main, [f"logs={path}"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_table_without_indices_cannot_be_scored_as_algoperf_does(tmp_path, capsys):
    bare = write(tmp_path / "bare.csv", [(*row[:4], row[5]) for row in rows()], (*COLUMNS[:4], COLUMNS[5]))
    assert cli.run(score.main, [f"logs={bare}", "rules=algoperf"]) == 2
    assert "no column 'hit_eval_index'" in " ".join(capsys.readouterr().err.split())
