"""Speed-ups against known laws: values, coverage and verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
        sizes = [speed_ups(size, *table(speed, rng), rng) for size in (1e5, 2e5)]
        found = [entry for size in sizes for entry in size]
        covered += [entry.ci95[0] <= speed <= entry.ci95[1] for entry in found]
        whole = overall(found)
        verdicts.append(whole.verdict)
        truths.append(whole.ci95[0] <= speed <= whole.ci95[1])
    assert 0.89 <= np.mean(covered) <= 0.995
    assert np.mean(truths) >= 0.9
    assert verdicts.count(expected) >= 20
    assert {"faster": "slower", "slower": "faster"}.get(expected, "none") not in verdicts


def test_one_method_under_two_names_is_equivalent():
    rng = np.random.default_rng(0)
    ours, _ = table(1.0, rng)
    whole = overall(speed_ups(1e5, ours, ours, rng))
    assert whole.verdict == "equivalent"
    assert whole.value == pytest.approx(1.0, abs=0.002)


def test_a_method_that_diverges_everywhere_is_slower():
    rng = np.random.default_rng(0)
    _, baseline = table(1.0, rng)
    found = speed_ups(1e5, Losses(HORIZONS, np.full((3, 3), np.nan)), baseline, rng)
    assert overall(found).verdict == "slower"
    assert all(np.isnan(entry.value) and entry.low == 0 for entry in found)


def entry(size, value, half=0.02):
    ends = (value * (1 - half), value * (1 + half))
    return SpeedUp(size, 1e3, value, ends, ends, value, value)


def beyond(value, ci95, low=None, high=None):
    """A setting whose interval reaches what may be asked of the baseline."""
    return SpeedUp(1e5, 1e3, value, ci95, ci95, value if low is None else low, value if high is None else high)


def test_settings_beyond_the_bracket_are_heard():
    fast, slow, vague = beyond(1.3, (1.21, np.inf)), beyond(0.7, (0.0, 0.78)), beyond(0.7, (0.0, 1.1))
    equal, faster = [entry(1e5, 1.0)] * 3, [entry(1e5, 1.2)] * 3
    assert overall(equal).verdict == "equivalent"
    assert overall([*equal, fast]).verdict == overall([*equal, slow]).verdict == "undecided"
    assert overall([*faster, fast]).verdict == "faster"
    assert overall([*faster, slow]).verdict == overall([*faster, vague]).verdict == "undecided"
    assert "1 settings are faster and 1 slower" in overall([*equal, fast, slow]).reason
    assert "1 settings are too uncertain" in overall([*equal, vague]).reason
    assert overall([slow, slow]).verdict == "slower"
    assert overall([slow, fast]).verdict == overall([slow, vague]).verdict == "undecided"


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
        verdicts.append(overall(found).verdict)
    assert len(verdicts) > 40
    assert verdicts.count("slower") + verdicts.count("faster") <= 2


def test_a_diverged_run_of_the_baseline_is_named():
    ours, baseline = table(1.0, np.random.default_rng(0))
    baseline.losses[1, 0] = np.nan
    with pytest.raises(BadInput, match="diverged"):
        speed_ups(1e5, ours, baseline, np.random.default_rng(0))


def test_what_happens_with_size_is_said_only_where_sizes_tell():
    assert survives_scale([entry(1e5, 1.4), entry(4e5, 1.2), entry(16e5, 1.05)])[0] == "shrinks"
    assert survives_scale([entry(1e5, 1.05), entry(4e5, 1.2), entry(16e5, 1.4)])[0] == "grows"
    assert survives_scale([entry(1e5, 1.2), entry(4e5, 1.2), entry(16e5, 1.2)])[0] == "keeps"
    assert survives_scale([entry(1e5, 1.2, 0.3), entry(4e5, 1.3, 0.3)])[0] == "undecided"
    assert survives_scale([entry(1e5, 1.2)])[0] == "undecided"


def test_the_joint_law_finds_what_a_method_makes_of_parameters_and_data():
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
    assert (joint.largest, joint.per_parameter) == (1e6, 1e3)
    with pytest.raises(BadInput, match="two sizes"):
        fit_joint(points[:3], "adamw", rng)


def test_what_the_baseline_never_reaches_is_infinitely_fast():
    values = np.array([1.0, 5.0, 0.3, 5.0, 0.3, math.log(50.0), 0.0])
    names = ("E", "log_A", "alpha", "log_B", "beta", "log_a", "log_b")
    draws = np.stack([values, values, np.where(np.arange(7) == 5, 0.1, values)])
    found = Joint(("adamw", "new"), names, values, draws, 1e6, 20.0).speed_up("new", 1e4, 1e9)
    assert found[0] == found[1][1] == math.inf
    assert math.isfinite(found[1][0])
