"""On simulated leaderboards intervals hold what they should as often as they say, and verdicts have power.

Tolerances allow for about 3 standard errors of the simulation; the wider runs are quoted in harness/scoring/resampling.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.scoring import RULES, StudyTimes, Workloads, leaderboard
from harness.scoring.pairs import compare
from harness.scoring.profiles import ratios, score
from harness.scoring.resampling import ranks
from tests.scoring.boards import simulate

EXACT = RULES["exact"]()


@pytest.mark.parametrize(("studies", "optimism"), [(3, 0.80), (5, 0.98)])
@pytest.mark.parametrize("kind", [{}, {"fail": True}, {"shared": 0.05}], ids=["clean", "failures", "shared"])
def test_coverage_of_scores_and_ranks(studies, optimism, kind):
    rng = np.random.default_rng(studies)
    held, percentile, ranked = [], [], []
    for i in range(60):
        times, truth = simulate(rng, studies, **kind)
        true = score(ratios(truth, times.workloads), EXACT)
        board = leaderboard(times, EXACT, bootstrap=150, seed=i)
        held.append(inside(board.ci95, true))
        percentile.append(inside(board.percentiles, true))
        ranked.append(inside(board.rank_ci95, ranks(true)))
    assert np.mean(held) > 0.91
    assert np.mean(percentile) < min(optimism, np.mean(held))
    assert np.mean(ranked) > 0.94


def inside(ends, value):
    return (ends[:, 0] - 1e-9 <= value) & (value <= ends[:, 1] + 1e-9)


@pytest.mark.parametrize("studies", [3, 5])
@pytest.mark.parametrize("kind", [{}, {"fail": True}, {"shared": 0.05}], ids=["clean", "failures", "shared"])
def test_coverage_of_time_ratios(studies, kind):
    rng = np.random.default_rng(10 + studies)
    held = []
    for _ in range(150):
        times, truth = simulate(rng, studies, submissions=4, **(kind | {"fail": False}))
        if "fail" in kind:  # failures of single studies, which leave the workloads of a pair as they are
            gone = rng.random(times.seconds.shape) < 0.1
            gone &= gone.sum(axis=-1, keepdims=True) < studies / 2
            times = StudyTimes(times.submissions, times.workloads, times.studies, np.where(gone, np.inf, times.seconds))
        pairs = compare(times)
        upper = np.triu_indices(4, 1)
        true = np.mean(np.log(truth)[:, None] - np.log(truth)[None], axis=-1)[upper]
        known = np.isfinite(pairs.stderr)[upper]  # unless both met a workload in one study only
        held += inside(np.log(pairs.ci95)[upper], true)[known].tolist()
    assert len(held) > 0.65 * 150 * 6
    assert 0.90 < np.mean(held) < 0.985


def lacking(times, studies, left):
    """The same without all but `left` of the studies in half of the last submission's cells, the noisiest among them."""
    seconds = times.seconds.copy()
    spread = np.log(seconds).std(axis=-1).mean(axis=0)
    seconds[-1, np.argsort(spread)[1::2], left:] = np.nan
    return StudyTimes(times.submissions, times.workloads, tuple(range(studies)), seconds)


def test_coverage_where_cells_lack_studies():
    """With the studies of the whole table as degrees of freedom, and their K / (K - 1), the ratios' intervals held 84%."""
    rng = np.random.default_rng(20)
    ratio, scored = [], []
    for i in range(300):
        full, truth = simulate(rng, 5, submissions=2)
        times = lacking(full, 5, 2)
        pairs = compare(times)
        ratio.append(inside(np.log(pairs.ci95[:1, 1]), np.log(truth[0] / truth[1]).mean()))
        if i < 60:
            board = leaderboard(times, EXACT, bootstrap=150, seed=i)
            scored.append(inside(board.ci95, score(ratios(truth, times.workloads), EXACT)))
    assert 0.93 < np.mean(ratio) < 0.995
    assert np.mean(scored) > 0.91
    board = leaderboard(lacking(full, 5, 1), EXACT, bootstrap=150)
    assert np.isnan(board.pairs.ci95[0, 1]).all()
    assert np.isnan(board.ci95[1]).all()
    assert board.pairs.verdict[0, 1] == "undecided"


def test_coverage_with_errors_of_step_times():
    """The error is the same in all studies, so their variation does not show it."""
    rng = np.random.default_rng(30)
    held, blind, scored = [], [], []
    upper = np.triu_indices(4, 1)
    for i in range(150):
        exact, truth = simulate(rng, 5, submissions=4)
        stderr = rng.uniform(0.05, 0.15, (4, 8))
        seconds = exact.seconds * np.exp(stderr * rng.normal(size=stderr.shape))[..., None]
        times = replace(exact, seconds=seconds, time_rel_stderr=stderr)
        true = np.mean(np.log(truth)[:, None] - np.log(truth)[None], axis=-1)[upper]
        held.append(inside(np.log(compare(times).ci95)[upper], true))
        blind.append(inside(np.log(compare(replace(exact, seconds=seconds)).ci95)[upper], true))
        if i < 60:
            board = leaderboard(times, EXACT, bootstrap=150, seed=i)
            scored.append(inside(board.ci95, score(ratios(truth, times.workloads), EXACT)))
    assert 0.92 < np.mean(held) < 0.985
    assert np.mean(blind) < 0.85
    assert np.mean(scored) > 0.93


@pytest.mark.parametrize("studies", [3, 5])
def test_a_speedup_of_the_detectable_size_is_found_in_80_percent(studies):
    rng = np.random.default_rng(0)
    noise, workloads = 0.05, 4
    stderr = noise * np.sqrt(2 / (workloads * studies))
    pairs = compare(between(rng, 0.0, noise, workloads, studies))
    needed = float(np.log(pairs.detectable[0, 1]) / pairs.stderr[0, 1])
    found = [compare(between(rng, needed * stderr, noise, workloads, studies)).ci95[0, 1, 1] < 1 for _ in range(500)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_a_speedup_of_the_detectable_size_is_found_in_80_percent_despite_errors_of_step_times():
    rng = np.random.default_rng(1)
    noise, error, workloads, studies = 0.01, 0.03, 4, 5
    exact = compare(replace(between(rng, 0.0, 1e-9, workloads, studies), time_rel_stderr=np.array([[error]])))
    needed = float(np.log(exact.detectable[0, 1]))
    assert needed == pytest.approx(2.8 * np.sqrt(2 / workloads) * error, rel=0.01)
    found = []
    for _ in range(500):
        gap = needed + error * rng.normal(size=(workloads, 2)).sum(axis=1)
        times = between(rng, gap[:, None], noise, workloads, studies)
        found.append(compare(replace(times, time_rel_stderr=np.array([[error]]))).ci95[0, 1, 1] < 1)
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def between(rng, gap, noise, workloads, studies):
    """Two submissions, the first faster by `gap` in the log."""
    logs = rng.normal(size=(1, workloads, 1)) + noise * rng.normal(size=(2, workloads, studies))
    logs[0] -= gap
    names = tuple(f"w{i}" for i in range(workloads))
    return StudyTimes(("a", "b"), Workloads(names), tuple(map(str, range(studies))), np.exp(logs))
