"""AlgoPerf v0.5: the 17 published scores, whatever the order of rows and columns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness import score
from harness.scoring import RULES, leaderboard, read_targets, study_times
from tests.laws import published
from tests.scoring.boards import COLUMNS, trials, write

FOLDER = "algoperf"


@pytest.fixture(scope="module")
def expected():
    rows = published.rows(FOLDER, "published_scores_v05.csv")
    return {(row["ruleset"], row["submission"]): float(row["published_score"]) for row in rows}


def scores(rules):
    """(ruleset, submission) -> score and its interval."""
    rows = published.rows(FOLDER, "trials_v05.csv")
    workloads = read_targets(published.path(FOLDER, "workload_targets_v05.json")).workloads
    found = {}
    for ruleset in ("external_tuning", "self_tuning"):
        part = [tuple(row[name] for name in COLUMNS) for row in rows if row["ruleset"] == ruleset]
        board = leaderboard(study_times(trials(part), workloads, rules), rules, bootstrap=200)
        for i, name in enumerate(board.submissions):
            found[ruleset, name] = (float(board.scores[i]), *board.ci95[i].tolist())
    return found


def test_all_17_published_scores(expected):
    found = scores(RULES["algoperf"]())
    assert {key: round(value, 4) for key, (value, *_) in found.items()} == expected
    assert len(expected) == 17


def test_exact_rules_stay_close_to_the_trapezoid(expected):
    for key, (value, low, high) in scores(RULES["exact"]()).items():
        assert value == pytest.approx(expected[key], abs=0.06)
        assert 0 <= low <= value <= high <= 1


def test_the_command_on_shuffled_rows_and_columns_extra_workloads_and_a_filter(tmp_path, expected, monkeypatch):
    monkeypatch.setattr(score, "write_document", lambda *_: "no page")
    rows = published.rows(FOLDER, "trials_v05.csv")
    targets = published.path(FOLDER, "workload_targets_v05.json")
    rng = np.random.default_rng(0)
    names = rng.permutation(list(rows[0])).tolist()
    rows += [{**rows[i], "workload": "wmt_post_ln", "study": f"study_{i}"} for i in range(20)]
    shuffled = write(
        tmp_path / "shuffled.csv", [[rows[i][n] for n in names] for i in rng.permutation(len(rows))], names
    )
    words = ["rules=algoperf", "where=ruleset='self_tuning'", "bootstrap=100", f"out={tmp_path}"]
    assert score.main([f"logs={shuffled}", f"targets={targets}", *words]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    wanted = {name: value for (ruleset, name), value in expected.items() if ruleset == "self_tuning"}
    assert {name: round(entry["score"], 4) for name, entry in found.items()} == wanted
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["rows_used"] + sum(data["dropped"].values()) == data["rows_read"] == 4073
