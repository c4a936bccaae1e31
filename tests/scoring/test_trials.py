"""From trials to the times of studies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.scoring import RULES, Workloads, study_times
from harness.scoring.trials import natural
from tests.scoring.boards import trials
from workloads.base import BadInput

EXACT, ALGOPERF = RULES["exact"](), RULES["algoperf"]()
ONE = Workloads(("w",))
INF, NAN = math.inf, math.nan


def chosen(rules, *found):
    """The study's time, from (trial, index, time) of its trials, in any order."""
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(4):
        rows = [("s", "study_0", "w", *one) for one in rng.permutation(np.array(found, object)).tolist()]
        answers.add(float(study_times(trials(rows), ONE, rules).seconds[0, 0, 0]))
    assert len(answers) == 1, "the order of rows matters"
    return answers.pop()


def test_algoperf_takes_the_earliest_index_and_exact_the_earliest_time():
    found = (("trial_1", 5, 100.0), ("trial_2", 3, 200.0), ("trial_3", 7, 50.0))
    assert chosen(ALGOPERF, *found) == 200.0
    assert chosen(EXACT, *found) == 50.0


def test_ties_go_to_the_first_trial_in_natural_order():
    found = (("trial_10", 3, 100.0), ("trial_2", 3, 200.0), ("trial_11", 3, 300.0))
    assert chosen(ALGOPERF, *found) == 200.0


@pytest.mark.parametrize("rules", [EXACT, ALGOPERF])
@pytest.mark.parametrize(
    "missed", [(-1, INF), (-1, 70.0), (-1, -1.0), (NAN, INF), (3, NAN), (3, INF), (-1, NAN), (NAN, NAN)]
)
def test_what_did_not_meet_the_target_is_never_chosen(rules, missed):
    assert chosen(rules, ("trial_1", *missed), ("trial_2", 8, 80.0)) == 80.0
    assert chosen(rules, ("trial_1", *missed)) == INF


def test_a_time_without_an_index_is_met_where_rules_need_none():
    found = (("trial_1", NAN, 70.0), ("trial_2", 8, 80.0))
    assert chosen(EXACT, *found) == 70.0
    assert chosen(ALGOPERF, *found) == 80.0
    assert chosen(ALGOPERF, ("trial_1", NAN, -1.0)) == INF


def test_the_error_of_a_step_time_is_the_mean_of_its_cell():
    rows = [("a", f"study_{k}", name, "t", -1, INF) for name in ("w", "x", "other") for k in range(2)]
    rows.append(("b", "study_0", "x", "t", 1, 1.0))
    table = replace(trials(rows), time_rel_stderr=np.array([0.01, 0.03, 0.0, 0.0, 9.0, 9.0, 0.05]))
    times = study_times(table, Workloads(("w", "x"), {"w_v": "w"}), EXACT)
    np.testing.assert_allclose(times.time_rel_stderr, [[0.02, 0.0, 0.0], [0.0, 0.05, 0.0]])
    np.testing.assert_array_equal(study_times(trials(rows), ONE, EXACT).time_rel_stderr, [[0.0], [0.0]])
    for bad in (-0.01, NAN, INF):
        with pytest.raises(BadInput, match=r"workload 'x', trial 't' has time_rel_stderr = .*use 0.01 for 1%"):
            replace(table, time_rel_stderr=np.array([*table.time_rel_stderr[:-1], bad]))


def test_absent_studies_are_nan_failed_ones_inf_and_other_workloads_left_out():
    rows = [
        ("b", "study_10", "w", "t", 1, 10.0),
        ("b", "study_2", "w", "t", -1, INF),
        ("a", "study_2", "w_variant", "t", 1, 20.0),
        ("b", "study_2", "never_heard_of", "t", 1, 1.0),
    ]
    times = study_times(trials(rows), Workloads(("w", "x"), {"w_variant": "w"}), EXACT)
    assert times.submissions == ("a", "b")
    assert times.studies == ("study_2", "study_10")
    expected = [[[NAN, NAN], [NAN, NAN], [20.0, NAN]], [[INF, 10.0], [NAN, NAN], [NAN, NAN]]]
    np.testing.assert_array_equal(times.seconds, expected)


def test_a_repeated_trial_is_refused_and_so_is_a_hit_in_no_time():
    row = ("s", "study_0", "w", "trial_1", 3, 10.0)
    with pytest.raises(BadInput, match="two rows are submission 's', study 'study_0', workload 'w', trial 'trial_1'"):
        trials([row, row])
    for index, time in ((3, 0.0), (3, -5.0), (NAN, -1.0)):
        with pytest.raises(BadInput, match="times must be positive: write inf or leave it empty if not met"):
            study_times(trials([(*row[:4], index, time)]), ONE, EXACT)


def test_natural_order():
    ordered = [
        "",
        "2",
        "10",
        "Trial_3",
        "b",
        "trial_1",
        "trial_1_b",
        "trial_02",
        "trial_2",
        "trial_10",
        "x1",
        "x" + "9" * 5000,
    ]
    assert sorted(np.random.default_rng(0).permutation(ordered).tolist(), key=natural) == ordered
