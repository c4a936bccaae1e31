"""Speed-ups against known laws: values, coverage and verdicts."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from harness.judging import joint as joint_law
from harness.judging.joint import Joint, Point, fit_joint
from harness.judging.speedup import Losses, SpeedUp, equivalent_horizon, overall, speed_ups, survives_scale
from workloads.base import BadInput

HORIZONS = np.array([1e3, 2e3, 4e3])


def law(d):
    return 1 + 30 * np.asarray(d, float) ** -0.5


def table(speed, rng, seeds=3, noise=0.003, shared=0.01):
    """(ours, baseline): a method that makes `speed` times as much of its data; what a seed does is shared."""
    both = shared * rng.standard_normal((3, seeds))
    own = [noise * rng.standard_normal((3, seeds)) for _ in range(2)]
    means = law(HORIZONS * speed), law(HORIZONS)
    return [Losses(HORIZONS, mean[:, None] * np.exp(both + one)) for mean, one in zip(means, own, strict=True)]


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.3, 1.45])
def test_the_longest_run_of_a_faster_method_is_extrapolated_by_half_at_most(speed):
    value, low, high = equivalent_horizon(HORIZONS, law(HORIZONS), float(law(4e3 * speed)))
    assert value == low == high == pytest.approx(4e3 * speed, rel=0.01)


def test_beyond_the_bracket_there_is_no_value():
    value, low, high = equivalent_horizon(HORIZONS, law(HORIZONS), float(law(4e3 * 1.6)))
    assert np.isnan(value)
    assert (low, high) == (6e3, np.inf)
    value, low, high = equivalent_horizon(HORIZONS, law(HORIZONS), float(law(1e3 / 1.6)))
    assert np.isnan(value)
    assert (low, high) == (0.0, pytest.approx(1e3 / 1.5))
    assert equivalent_horizon(HORIZONS, law(HORIZONS), np.nan)[1] == 0.0


def test_runs_that_no_power_law_fits_are_joined_piecewise():
    mean = np.array([2.0, 1.9, 1.0])  # falls ever faster
    assert equivalent_horizon(HORIZONS, mean, 1.9)[0] == pytest.approx(2e3)
    assert 2e3 < equivalent_horizon(HORIZONS, mean, 1.4)[0] < 4e3


def test_a_baseline_that_does_not_fall_is_refused():
    with pytest.raises(BadInput, match="does not fall"):
        equivalent_horizon(HORIZONS, np.array([1.0, 1.0, 1.1]), 1.0)


@pytest.mark.parametrize(("speed", "expected"), [(1.0, "equivalent"), (1.25, "faster"), (0.8, "slower")])
def test_intervals_cover_and_verdicts_are_right(speed, expected):
    rng = np.random.default_rng(7)
    covered, verdicts, truths = [], [], []
    for _ in range(25):
        sizes = {str(size): speed_ups(size, *table(speed, rng), rng) for size in (1e5, 2e5)}
        covered += [entry.ci95[0] <= speed <= entry.ci95[1] for found in sizes.values() for entry in found]
        everything = overall({size: [found] for size, found in sizes.items()})
        verdicts.append(everything.verdict)
        truths.append(everything.ci95[0] <= speed <= everything.ci95[1])
    assert 0.89 <= np.mean(covered) <= 0.995
    assert np.mean(truths) >= 0.9
    assert verdicts.count(expected) >= 20
    assert {"faster": "slower", "slower": "faster"}.get(expected, "none") not in verdicts


def test_one_method_under_two_names_is_equivalent():
    rng = np.random.default_rng(0)
    ours, _ = table(1.0, rng)
    found = whole(*speed_ups(1e5, ours, ours, rng))
    assert found.verdict == "equivalent"
    assert found.value == pytest.approx(1.0, abs=0.002)


def test_a_method_that_diverges_everywhere_is_slower():
    rng = np.random.default_rng(0)
    _, baseline = table(1.0, rng)
    found = speed_ups(1e5, Losses(HORIZONS, np.full((3, 3), np.nan)), baseline, rng)
    assert whole(*found).verdict == "slower"
    assert all(np.isnan(entry.value) and entry.low == 0 for entry in found)


def whole(*found):
    """`overall` of one group."""
    return overall({"one": [list(found)]})


def entry(size, value, half=0.02):
    ends = (value * (1 - half), value * (1 + half))
    return SpeedUp(size, 1e3, value, ends, ends, value, value)


def beyond(value, ci95, low=None, high=None):
    """A setting whose interval reaches what may be asked of the baseline."""
    return SpeedUp(1e5, 1e3, value, ci95, ci95, value if low is None else low, value if high is None else high)


def test_settings_beyond_the_bracket_are_heard():
    fast, slow, vague = beyond(1.3, (1.21, np.inf)), beyond(0.7, (0.0, 0.78)), beyond(0.7, (0.0, 1.1))
    equal, faster = [entry(1e5, 1.0)] * 3, [entry(1e5, 1.2)] * 3
    assert whole(*equal).verdict == "equivalent"
    assert whole(*equal, fast).verdict == whole(*equal, slow).verdict == "undecided"
    assert whole(*faster, fast).verdict == "faster"
    assert whole(*faster, slow).verdict == whole(*faster, vague).verdict == "undecided"
    assert "of 5 settings 1 faster and 1 slower" in whole(*equal, fast, slow).reason
    assert "of 4 settings 1 too uncertain" in whole(*equal, vague).reason
    assert whole(slow, slow).verdict == "slower"
    assert whole(slow, fast).verdict == whole(slow, vague).verdict == "undecided"


def test_workloads_count_alike_and_may_disagree():
    many, few = [entry(1e5, 1.3)] * 12, [entry(1e5, 0.8)] * 2
    mixed = overall({"image_mlp": [many], "ctr": [few]})
    assert mixed.verdict == "mixed"
    assert "Faster on image_mlp and slower on ctr" in mixed.reason
    assert mixed.value == pytest.approx(math.sqrt(1.3 * 0.8))
    assert overall({"image_mlp": [many], "ctr": [[entry(1e5, 1.0, 0.1)]]}).verdict == "faster"
    assert overall({"image_mlp": [many], "ctr": [[entry(1e5, 0.93)]]}).verdict == "mixed"
    # the mean is near 1, and no workload is slower, but one is too far away to be called the same
    near = {"a": [[entry(1e5, 1.12)]], "b": [[entry(1e5, 0.97)]], "c": [[entry(1e5, 0.97)]]}
    assert overall(near).verdict != "equivalent"
    same = {"a": [[entry(1e5, 1.03)]], "b": [[entry(1e5, 0.98)]]}
    assert overall(same).verdict == "equivalent"


def test_sizes_count_alike_whatever_is_bracketed_of_them():
    """So that the whole and its only workload say the same."""
    sizes = [[entry(1e4, 1.4)], [entry(4e4, 1.0)] * 3]
    found = overall({"one": sizes, "other": sizes})
    assert found.value == overall({"small": sizes[:1], "large": sizes[1:]}).value == pytest.approx(math.sqrt(1.4))


def test_a_workload_without_a_law_of_the_baseline_is_named_and_nothing_is_equivalent():
    found = overall({"a": [[entry(1e5, 1.0)]], "b": [()]})
    assert found.verdict == "undecided"
    assert "no law at a size or more of b" in found.reason
    assert overall({"a": [[entry(1e5, 1.2)]], "b": [()]}).verdict == "faster"


def test_a_workload_beyond_all_runs_may_make_it_mixed():
    lost = SpeedUp(1e5, 1e3, math.nan, (math.nan, math.nan), (math.nan, math.nan), 0.0, 0.7, diverged=True)
    found = overall({"a": [[entry(1e5, 1.4)]], "b": [[lost]]})
    assert found.verdict == "mixed"
    fast = beyond(math.nan, (1.6, math.inf), 1.5, math.inf)
    assert overall({"a": [[fast]], "b": [[lost]]}).verdict == "mixed"
    assert overall({"a": [[fast]], "b": [[fast]]}).verdict == "faster"


def test_the_horizons_of_a_size_depend_on_each_other():
    """Their speed-ups are read off one law of the baseline: the interval of their mean knows it."""
    rng = np.random.default_rng(5)
    found = speed_ups(1e5, *table(1.1, rng, noise=0.01), rng)
    alone = [replace(one, draws=np.empty(0)) for one in found]
    widths = [math.log(mean.ci95[1] / mean.ci95[0]) for mean in (whole(*found), whole(*alone))]
    assert widths[0] > widths[1]


def test_methods_that_differ_by_the_luck_of_tuning_alone_are_not_told_apart():
    """One optimizer twice, each study with the best of its own eight points in four dimensions."""
    rng = np.random.default_rng(11)

    def studied():
        excess = 2.0 * np.min(np.sum(rng.uniform(-1, 1, (3, 3, 8, 4)) ** 2, axis=-1), axis=-1)  # (horizons, studies)
        return Losses(HORIZONS, law(HORIZONS)[:, None] * np.exp(0.05 * excess + 0.003 * rng.standard_normal((3, 3))))

    verdicts = []
    for _ in range(75):
        groups = {}
        for workload in "ab":
            sizes = []
            for size in (1e5, 2e5):
                with suppress(BadInput):
                    sizes.append(speed_ups(size, studied(), studied(), rng))
            groups[workload] = sizes
        verdicts.append(overall(groups).verdict)
    wrong = sum(verdicts.count(verdict) for verdict in ("faster", "slower", "mixed"))
    assert wrong <= 0.08 * len(verdicts)


def test_points_beyond_a_flat_baseline_decide_nothing():
    """The same method twice, at the end of what it can learn: noise alone puts it beyond the bracket."""
    rng = np.random.default_rng(3)
    verdicts = []
    for _ in range(100):
        tables = [np.exp(0.01 * rng.standard_normal((3, 2))) for _ in range(2)]
        try:
            found = speed_ups(1e5, *(Losses(HORIZONS, one) for one in tables), rng)
        except BadInput:
            continue
        verdicts.append(whole(*found).verdict)
    assert len(verdicts) > 40
    assert verdicts.count("slower") + verdicts.count("faster") <= 2


def test_a_diverged_run_costs_its_own_horizon():
    ours, baseline = table(1.3, np.random.default_rng(0))
    ours.losses[2, 0] = np.nan
    found = speed_ups(1e5, ours, baseline, np.random.default_rng(0))
    assert [one.inside for one in found] == [True, True, False]
    assert found[2].diverged
    assert found[2].side == -1
    baseline.losses[1, 0] = np.nan
    found = speed_ups(1e5, ours, baseline, np.random.default_rng(0))
    assert [one.inside for one in found][:2] == [True, True]
    baseline.losses[2, 1] = np.nan
    with pytest.raises(BadInput, match="diverged"):
        speed_ups(1e5, ours, baseline, np.random.default_rng(0))


def test_what_happens_with_size_is_said_only_where_sizes_tell():
    assert survives_scale([entry(1e5, 1.4), entry(4e5, 1.2), entry(16e5, 1.05)])[0] == "shrinks"
    assert survives_scale([entry(1e5, 1.05), entry(4e5, 1.2), entry(16e5, 1.4)])[0] == "grows"
    assert survives_scale([entry(1e5, 1.2), entry(4e5, 1.2), entry(16e5, 1.2)])[0] == "keeps"
    assert survives_scale([entry(1e5, 1.2, 0.3), entry(4e5, 1.3, 0.3)])[0] == "undecided"
    assert survives_scale([entry(1e5, 1.2)])[0] == "undecided"
    slow = [
        entry(1e5, 1.2, 0.1),
        entry(2e5, 1.12, 0.1),
        entry(4e5, 1.07, 0.1),
    ]  # -0.08 a doubling is no proof of keeping
    assert survives_scale(slow)[0] == "undecided"
    apart = [replace(entry(1e4, 1.3, 0.1), horizon=1e3), replace(entry(4e4, 1.3, 0.1), horizon=2e3)]
    assert "no horizon at which two sizes" in survives_scale(apart)[1]


def test_sizes_that_lack_the_fastest_horizons_say_nothing_of_scale():
    grid = [replace(entry(size, value), horizon=h) for size in (1e5, 2e5) for h, value in ((1e3, 1.1), (2e3, 1.4))]
    assert survives_scale(grid)[0] == "keeps"
    fast = replace(beyond(math.nan, (1.5, math.inf), 1.5, math.inf), size=2e5, horizon=2e3)
    assert survives_scale(grid[:3])[0] == "keeps"  # a level for each horizon: nothing seems to shrink
    grown = [*grid[:2], replace(grid[2], value=1.1), replace(fast, low=2.0)]
    assert survives_scale(grown)[0] == "undecided"


def test_the_joint_law_finds_what_a_method_makes_of_parameters_and_data(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = 1.3, 1.5

    def loss(n, d, method):
        scale = (a, b) if method == "new" else (1.0, 1.0)
        return 1.5 + 50 * (scale[0] * n) ** -0.4 + 60 * (scale[1] * d) ** -0.4

    points = [
        Point(m, n, d, loss(n, d, m) * np.exp(1e-4 * rng.standard_normal()), 1e-4)
        for m in ("adamw", "new")
        for n in (1e4, 1e5, 1e6)
        for d in (1e5, 1e6, 1e7)
    ]
    joint = fit_joint(points, "adamw", rng)
    value, (low, high) = joint.speed_up("new", 4e6, 4e7)
    gap = loss(4e6, 4e7, "new") - 1.5 - 50 * 4e6**-0.4
    truth = (60 / gap) ** 2.5 / 4e7
    assert value == pytest.approx(truth, rel=0.1)
    assert low < truth < high
    assert joint.speed_up("adamw", 4e6, 4e7)[0] == pytest.approx(1.0)
    assert (joint.largest, joint.per_parameter, joint.doubts) == (1e6, 1e3, ())
    monkeypatch.setattr(joint_law, "_DRAWS", 2)
    flat = [replace(point, loss=loss(1e5, point.horizon, point.method)) for point in points if point.size < 1e6]
    doubts = " ".join(fit_joint(flat, "adamw", rng).doubts)
    assert "two sizes" in doubts
    assert "end at the bound" in doubts
    with pytest.raises(BadInput, match="two sizes"):
        fit_joint(points[:3], "adamw", rng)


def test_what_the_baseline_never_reaches_is_infinitely_fast():
    values = np.array([1.0, 5.0, 0.3, 5.0, 0.3, math.log(50.0), 0.0])
    names = ("E", "log_A", "alpha", "log_B", "beta", "log_a", "log_b")
    draws = np.stack([values, values, np.where(np.arange(7) == 5, 0.1, values)])
    found = Joint(("adamw", "new"), names, values, draws, 1e6, 20.0, 3).speed_up("new", 1e4, 1e9)
    assert found[0] == found[1][1] == math.inf
    assert math.isfinite(found[1][0])
