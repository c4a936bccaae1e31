"""Medians, held-out rules, profiles and scores against plain Python and against numbers worked out by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from harness.scoring import RULES, StudyTimes, Workloads, leaderboard
from harness.scoring.profiles import in_the_running, median_times, profiles, ratios, score
from tests.scoring.boards import simulate

EXACT, ALGOPERF = RULES["exact"](), RULES["algoperf"]()
INF, NAN = math.inf, math.nan
HELD_OUT = Workloads(("a", "b", "c"), {"a_1": "a", "c_1": "c", "c_2": "c"})


def plain_scores(seconds, workloads, exact):
    """The rules read out loud: loops over submissions and columns, no arrays."""
    columns, base = workloads.columns, workloads.base
    entrants = range(len(seconds))
    time = {}
    for s in entrants:
        for c, name in enumerate(columns):
            there = [x for x in seconds[s][c] if not math.isnan(x)]
            time[s, name] = statistics.median(there) if there else INF
    for s in entrants:
        for variant, of in workloads.held_out.items():
            if time[s, of] == INF:
                time[s, variant] = INF
    for name in columns:
        best = min(time[s, name] for s in entrants)
        for s in entrants:
            if time[s, name] > 4 * best:
                time[s, name] = INF
    for s in entrants:
        for variant, of in workloads.held_out.items():
            if time[s, variant] == INF:
                time[s, of] = INF
    found = []
    for s in entrants:
        ratio = []
        for name in base:
            best = min(time[other, name] for other in entrants)
            ratio.append(INF if time[s, name] == INF else time[s, name] / best)
        if exact:
            found.append(sum(max(0.0, 4 - r) / 3 for r in ratio) / len(base))
            continue
        tau = [1 + 3 * i / 99 for i in range(100)]
        rho = [sum(r <= one + 1e-13 for r in ratio) / len(base) for one in tau]
        found.append(sum((rho[i] + rho[i + 1]) / 2 * (tau[i + 1] - tau[i]) for i in range(99)) / 3)
    return found


@pytest.mark.parametrize("rules", [EXACT, ALGOPERF], ids=lambda rules: rules.name)
@pytest.mark.parametrize("seed", range(40))
def test_scores_against_plain_python(rules, seed):
    rng = np.random.default_rng(seed)
    seconds = np.exp(rng.normal(0, 0.7, (int(rng.integers(1, 7)), 6, int(rng.integers(1, 6)))))
    seconds[rng.random(seconds.shape) < 0.15] = INF
    seconds[rng.random(seconds.shape) < 0.1] = NAN
    if seed % 4 == 0:
        seconds = np.where(np.isfinite(seconds), np.ceil(seconds), seconds)  # ties, and ratios of exactly 4
    found = score(ratios(median_times(seconds), HELD_OUT), rules)
    np.testing.assert_allclose(found, plain_scores(seconds.tolist(), HELD_OUT, rules is EXACT), atol=1e-12)


def test_median_of_the_studies_present():
    cells = {
        (1.0, 3.0, 2.0): 2.0,
        (1.0, NAN, 2.0): 1.5,
        (1.0, INF, 2.0): 2.0,
        (1.0, INF, NAN): INF,
        (INF, INF, 2.0): INF,
        (NAN, 7.0, NAN): 7.0,
        (NAN, NAN, NAN): INF,
    }
    np.testing.assert_array_equal(median_times(np.array(list(cells))), list(cells.values()))
    even = np.array([[1.0, 2.0, INF, 3.0], [1.0, INF, INF, 3.0], [4.0, 3.0, 2.0, 1.0]])
    np.testing.assert_array_equal(median_times(even), [2.5, INF, 2.5])


def test_the_held_out_rules_in_their_order():
    times = np.array(
        [
            # a, b, c, a_1, c_1, c_2
            [10.0, 10.0, 10.0, 10.0, 10.0, 10.0],
            [40.0, 41.0, 10.0, 10.0, 41.0, 10.0],  # 4x stays, more does not; c_1 takes c with it
            [INF, 10.0, 10.0, 1.0, 10.0, 10.0],  # a_1 without a must not set the best of a_1
        ]
    )
    counts = in_the_running(times, HELD_OUT)
    np.testing.assert_array_equal(counts[:, :3], [[10, 10, 10], [40, INF, INF], [INF, 10, 10]])
    np.testing.assert_array_equal(counts[:, 3:], [[10, 10, 10], [10, INF, 10], [INF, 10, 10]])
    assert ratios(times, HELD_OUT)[1, 0] == 4.0


def test_ratios_are_to_the_fastest_that_is_left():
    times = np.array([[1.0, INF], [1.5, 1.0], [3.0, 1.0]])
    np.testing.assert_array_equal(ratios(times, Workloads(("a",), {"a_1": "a"}))[:, 0], [INF, 1.0, 2.0])


def test_a_column_nobody_finished_still_counts():
    times = np.array([[1.0, INF], [2.0, INF]])
    np.testing.assert_allclose(score(ratios(times, Workloads(("a", "b"))), EXACT), [1 / 2, 2 / 3 / 2])


def test_the_trapezoid_of_a_ratio_on_and_beside_a_point():
    tau = np.linspace(1, 4, 100)
    for ratio in (1.0, 1.2, tau[50], np.nextafter(tau[50], 9), 4.0, np.nextafter(4.0, 9), INF):
        rho = (ratio <= tau).astype(float)
        assert ALGOPERF.area(np.array([ratio]))[0] == pytest.approx(np.trapezoid(rho, tau) / 3, abs=1e-14)
    assert EXACT.area(np.array([1.0, 2.5, 4.0, INF])).tolist() == [1.0, 0.5, 0.0, 0.0]


def test_profiles_integrate_to_scores():
    times, _ = simulate(np.random.default_rng(1), 3, fail=True)
    ratio = ratios(median_times(times.seconds), times.workloads)
    tau = np.linspace(1, 4, 30_001)
    areas = np.trapezoid(profiles(ratio, tau), tau, axis=-1) / 3
    np.testing.assert_allclose(areas, score(ratio, EXACT), atol=1e-4)


def test_statuses_say_why():
    seconds = np.array([[10.0, 10, 10, 10, 10, 10], [41.0, 10, 10, 10, 50, 10], [INF, INF, 10, 10, 10, 10]])[..., None]
    board = leaderboard(StudyTimes(("x", "y", "z"), HELD_OUT, ("only",), seconds), EXACT)
    assert board.statuses[0].tolist() == ["counts"] * 6
    over = "over 4x the fastest"
    assert board.statuses[1].tolist() == [over, "counts", "held-out variant not met", "counts", over, "counts"]
    assert board.statuses[2].tolist() == ["not met", "not met", "counts", "base not met", "counts", "counts"]
    for name, entry in board.to_json().items():
        for workload, cell in entry["per_workload"].items():
            assert (cell["status"] == "counts") == math.isfinite(cell["ratio"]), (name, workload)
