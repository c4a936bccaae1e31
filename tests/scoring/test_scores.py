"""Leaderboards: resampling, ranks, ratios, leave-one-out."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from harness.judging.speedup import Verdict
from harness.scoring import RULES, StudyTimes, Workloads, leaderboard
from harness.scoring.resampling import pooled_freedom, resample
from tests.scoring.boards import simulate
from workloads.base import BadInput

EXACT = RULES["exact"]()
INF, NAN = math.inf, math.nan


def board_of(seconds, workloads=None, **options):
    seconds = np.asarray(seconds, float)
    workloads = workloads or Workloads(tuple(f"w{i}" for i in range(seconds.shape[1])))
    names = tuple(f"s{i}" for i in range(len(seconds)))
    studies = tuple(f"study_{k}" for k in range(seconds.shape[2]))
    return leaderboard(StudyTimes(names, workloads, studies, seconds), EXACT, **options)


def test_studies_are_resampled_jointly():
    """Noise that a study gives to all submissions alike moves no ratio, so it moves no resampled score."""
    rng = np.random.default_rng(0)
    shared = np.exp(rng.normal(size=(1, 1, 5)))
    times = np.exp(rng.normal(size=(4, 3, 1))) * shared
    board = board_of(times)
    np.testing.assert_allclose(board.draws.scores, np.tile(board.scores, (1000, 1)), atol=1e-12)
    np.testing.assert_allclose(board.stderr, 0, atol=1e-12)


def test_resamples_of_few_studies_are_all_there_are():
    times, _ = simulate(np.random.default_rng(2), 3)
    draws = resample(times, EXACT, 2000, seed=0)
    assert (
        len(np.unique(np.round(draws.scores, 12), axis=0)) == 4
    )  # one study drawn twice or more decides alone; or all three are there
    again = resample(times, EXACT, 2000, seed=0)
    np.testing.assert_array_equal(draws.scores, again.scores)


def test_missing_studies_are_replaced_by_own_ones_and_count_as_few_as_they_are():
    """Two studies of five: medians of two draws from these two."""
    seconds = np.ones((2, 3, 5))
    seconds[0] = [2.0, 3.0, NAN, NAN, NAN]
    board = board_of(seconds)
    values, counts = np.unique(board.draws.ratios[:, 0, 0], return_counts=True)
    assert values.tolist() == [2.0, 2.5, 3.0]
    np.testing.assert_allclose(counts / 1000, [0.25, 0.5, 0.25], atol=0.05)
    assert np.all(board.draws.ratios[:, 0] == board.draws.ratios[:, 0, :1]), (
        "the same for workloads of the same studies"
    )
    assert board.studies.tolist() == [2, 5]


def test_the_interval_is_t_around_the_score():
    times, _ = simulate(np.random.default_rng(4), 5)
    board = leaderboard(times, EXACT)
    reach = stats.t.ppf(0.975, 4) * board.draws.scores.std(axis=0, ddof=1)
    np.testing.assert_allclose(board.ci95[:, 0], np.clip(board.scores - reach, 0, 1))
    np.testing.assert_allclose(board.ci95[:, 1], np.clip(board.scores + reach, 0, 1))


def test_one_study_or_no_bootstrap_means_no_interval():
    times, _ = simulate(np.random.default_rng(5), 1)
    for board in (leaderboard(times, EXACT), board_of(np.ones((3, 2, 4)) * np.arange(1, 5), bootstrap=0)):
        assert board.draws is None
        assert np.isnan(board.ci95).all()
        assert board.rank_ci95.tolist() == [[1, len(board.scores)]] * len(board.scores)
        board.to_json()


def test_ranks_of_equal_scores_and_their_order():
    times = np.array([[2.0], [1.0], [1.0], [INF]])[..., None] * np.ones(3)
    board = board_of(times)
    assert board.ranks.tolist() == [3, 1, 1, 4]
    assert board.order == [1, 2, 0, 3]
    assert board.rank_ci95.tolist() == [[3, 3], [1, 2], [1, 2], [4, 4]]


def test_ratios_do_not_depend_on_who_else_entered_and_scores_do():
    times, _ = simulate(np.random.default_rng(6), 5)
    fast = times.seconds[:1] * 0.3
    alone, joined = board_of(times.seconds), board_of(np.concatenate([times.seconds, fast]))
    np.testing.assert_array_equal(alone.pairs.log_ratio, joined.pairs.log_ratio[:6, :6])
    np.testing.assert_array_equal(alone.pairs.ci95, joined.pairs.ci95[:6, :6])
    assert np.all(joined.scores[:6] < alone.scores)


def test_the_ratio_of_a_full_table_is_the_paired_t_interval():
    rng = np.random.default_rng(7)
    logs = rng.normal(size=(2, 6, 5))
    board = board_of(np.exp(logs))
    by_study = (logs[0] - logs[1]).mean(axis=0)
    test = stats.ttest_1samp(by_study, 0.0)
    np.testing.assert_allclose(board.pairs.log_ratio[0, 1], by_study.mean())
    np.testing.assert_allclose(np.log(board.pairs.ci95[0, 1]), list(test.confidence_interval(0.95)))
    np.testing.assert_allclose(board.pairs.log_ratio, -board.pairs.log_ratio.T, atol=1e-15)
    low, high = board.speedup(0, 1)["ci95"]
    assert low < board.speedup(0, 1)["value"] < high


def test_ratios_are_over_workloads_that_both_met():
    times = np.array(
        [[[1.0, 1.1, 1.2], [2.0, 2.0, INF], [5.0, INF, INF]], [[2.0, 2.0, 2.0], [1.0, NAN, 1.0], [5.0, 5.0, 5.0]]]
    )
    board = board_of(times)
    means = [
        np.mean(np.log([1 / 2, 1.1 / 2, 1.2 / 2])),
        math.log(2),
    ]  # the third workload is not met; the second in one study
    assert board.pairs.log_ratio[0, 1] == pytest.approx(np.mean(means))
    assert board.pairs.workloads.tolist() == [[2, 2], [2, 3]]
    assert board.pairs.studies[0, 1] == 3


def test_degrees_of_freedom_where_cells_lack_studies():
    studies = np.array([[5, 5, 5], [5, 2, 5], [5, 1, 5], [5, 0, 3], [0, 0, 0], [2, 5, 3]])
    variance = np.array([[1, 2, 3], [1, 0, 1], [1, 0, 1], [0, 7, 1], [1, 1, 1], [0, 0, 0]], float)
    alike = 1 / np.mean([1, 1 / 2, 1 / math.sqrt(2)]) ** 2
    np.testing.assert_allclose(pooled_freedom(variance, studies), [4, 4, NAN, 2, NAN, alike])


def test_a_study_alone_in_its_cell_leaves_intervals_unknown_and_every_such_cell_is_named():
    rng = np.random.default_rng(11)
    seconds = np.exp(rng.normal(0, 0.01, (3, 3, 3))) * np.array([1.0, 1.2, 1.3])[:, None, None]
    seconds[1, 0, 1:] = NAN
    seconds[2, 1:, 2] = NAN
    seconds[:, 2, 2] = [1.0, NAN, NAN]
    board = board_of(seconds)
    assert board.uneven == ("s1 (w0 1, w2 2 of 3)", "s2 (w1 2, w2 2 of 3)")
    assert np.isnan(board.ci95).any(axis=1).tolist() == [False, True, False]
    assert board.rank_ci95.tolist() == [[1, 2], [1, 3], [2, 3]]
    assert np.isnan(board.pairs.ci95[0]).any(axis=-1).tolist() == [False, True, False]
    assert board_of(np.ones((2, 2, 3))).uneven == ()
    seconds[:, 0] = NAN
    assert board_of(seconds).uneven == ("s1 (w2 2 of 3)", "s2 (w1 2, w2 2 of 3)"), "nobody entered w0"


def test_where_the_fastest_has_one_study_no_ratio_to_it_has_an_interval():
    seconds = np.exp(np.random.default_rng(12).normal(0, 0.01, (2, 2, 3)))
    seconds[1, 0] = [0.5, NAN, NAN]
    assert np.isnan(board_of(seconds).ci95).all()
    seconds[1, 0] = [2.0, NAN, NAN]
    assert np.isnan(board_of(seconds).ci95).any(axis=1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("gap", "noise", "verdict"),
    [
        (0.0, 0.0, "equivalent"),
        (0.02, 0.0, "equivalent"),  # though the 95% interval excludes 1
        (-0.2, 0.01, "faster"),
        (0.2, 0.01, "slower"),
        (0.0, 0.2, "undecided"),
    ],
)
def test_verdicts_on_time_ratios(gap, noise, verdict):
    """A time of exp(gap) over the other's, the studies' ratios spread by noise."""
    logs = np.zeros((2, 2, 3))
    logs[0] = gap + noise * np.array([-1, 0, 1])
    board = board_of(np.exp(logs))
    opposite = {"faster": "slower", "slower": "faster"}
    assert board.pairs.verdict.tolist() == [["equivalent", verdict], [opposite.get(verdict, verdict), "equivalent"]]
    assert set(board.pairs.verdict.ravel()) <= set(get_args(Verdict))
    entry = board.to_json()["s0"]["versus"]["s1"]
    assert entry["verdict"] == board.speedup(0, 1)["verdict"] == verdict
    reach = stats.t.ppf(0.95, 2) * noise / math.sqrt(3)
    np.testing.assert_allclose(np.log(entry["ci90"]), [gap - reach, gap + reach], atol=1e-12)
    np.testing.assert_allclose(board.speedup(0, 1)["ci90"], 1 / entry["ci90"][::-1])


def test_errors_of_step_times_widen_ratios_and_scores():
    times, _ = simulate(np.random.default_rng(13), 5, submissions=3)
    stderr = np.full((3, 8), 0.01)
    stderr[0, 0] = 0.2
    exact, timed = leaderboard(times, EXACT), leaderboard(replace(times, time_rel_stderr=stderr), EXACT)
    assert timed.pairs.time_stderr[0, 1] == pytest.approx(math.sqrt(0.2**2 + 7 * 0.01**2 + 8 * 0.01**2) / 8)
    assert timed.pairs.time_stderr[0, 0] == 0.0
    for level, ends, bare in ((0.95, timed.pairs.ci95, exact.pairs.ci95), (0.9, timed.pairs.ci90, exact.pairs.ci90)):
        reach, before = (np.diff(np.log(one[0, 1]))[0] / 2 for one in (ends, bare))
        extra = stats.norm.ppf((1 + level) / 2) * timed.pairs.time_stderr[0, 1]
        assert reach == pytest.approx(math.hypot(before, extra))
    np.testing.assert_array_equal(timed.scores, exact.scores)
    same = board_of(np.ones((2, 1, 3)) * [[[1.0]], [[2.0]]])
    np.testing.assert_allclose(same.stderr, 0.0, atol=1e-12)
    same = leaderboard(replace(same.times, time_rel_stderr=np.array([[0.03], [0.04]])), EXACT, bootstrap=4000)
    assert same.stderr[1] == pytest.approx(2 * 0.05 / 3, rel=0.1)  # of (4 - ratio) / 3


def test_nothing_in_common_is_unknown():
    board = board_of([[[1.0, 1.0], [INF, INF]], [[INF, INF], [1.0, 1.0]]])
    entry = board.to_json()["s0"]["versus"]["s1"]
    assert math.isnan(entry["time_ratio"])
    assert np.isnan(entry["ci95"]).all()
    assert entry["workloads"] == entry["studies"] == 0


def test_leaving_out_a_workload_is_scoring_without_its_columns():
    rng = np.random.default_rng(8)
    held_out = Workloads(("a", "b", "c"), {"a_1": "a", "c_1": "c"})
    seconds = np.exp(rng.normal(size=(5, 5, 3)))
    board = board_of(seconds, held_out)
    rest = board_of(seconds[:, [1, 2, 4]], Workloads(("b", "c"), {"c_1": "c"}))
    np.testing.assert_array_equal(board.without[0], rest.scores)
    entry = board.to_json()["s0"]["leave_one_out"]["a"]
    assert entry["change"] == pytest.approx(rest.scores[0] - board.scores[0])
    assert entry["rank"] == rest.ranks[0]
    assert board_of(seconds[:, :1]).to_json()["s0"]["leave_one_out"] == {}


def test_the_baseline_is_the_one_asked_for_the_one_called_so_or_the_best():
    times, _ = simulate(np.random.default_rng(9), 3)
    assert leaderboard(times, EXACT, baseline="submission_4").baseline == 4
    assert leaderboard(times, EXACT).baseline == int(np.argmax(leaderboard(times, EXACT).scores))
    named = StudyTimes(("a", "baseline", *times.submissions[2:]), times.workloads, times.studies, times.seconds)
    assert leaderboard(named, EXACT).baseline == 1
    with pytest.raises(BadInput, match="Did you mean 'submission_4'"):
        leaderboard(times, EXACT, baseline="submision_4")
    with pytest.raises(BadInput, match="bootstrap=10 is too few"):
        leaderboard(times, EXACT, bootstrap=10)


def test_a_hundred_submissions_take_seconds():
    rng = np.random.default_rng(10)
    seconds = np.exp(rng.normal(0, 0.4, (100, 14, 5)))
    seconds[rng.random(seconds.shape) < 0.1] = INF
    seconds[rng.random(seconds.shape) < 0.02] = NAN
    workloads = Workloads(tuple(f"w{i}" for i in range(8)), {f"w{i}_held": f"w{i}" for i in range(6)})
    start = time.process_time()
    board_of(seconds, workloads).to_json()
    assert time.process_time() - start < 5
