"""On simulated leaderboards intervals hold what they should as often as they say, and verdicts have power.

Tolerances allow for about 3 standard errors of the simulation; the wider runs are quoted in harness/scoring/resampling.py.
"""

from __future__ import annotations

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
        held.append(inside(np.log(pairs.ci95)[upper], true))
    assert 0.90 < np.mean(held) < 0.985


@pytest.mark.parametrize("studies", [3, 5])
def test_a_speedup_of_the_detectable_size_is_found_in_80_percent(studies):
    rng = np.random.default_rng(0)
    noise, workloads = 0.05, 4
    stderr = noise * np.sqrt(2 / (workloads * studies))
    pairs = compare(between(rng, 0.0, noise, workloads, studies))
    needed = float(np.log(pairs.detectable[0, 1]) / pairs.stderr[0, 1])
    found = [compare(between(rng, needed * stderr, noise, workloads, studies)).ci95[0, 1, 1] < 1 for _ in range(500)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def between(rng, gap, noise, workloads, studies):
    """Two submissions, the first faster by `gap` in the log."""
    logs = rng.normal(size=(1, workloads, 1)) + noise * rng.normal(size=(2, workloads, studies))
    logs[0] -= gap
    names = tuple(f"w{i}" for i in range(workloads))
    return StudyTimes(("a", "b"), Workloads(names), tuple(map(str, range(studies))), np.exp(logs))
