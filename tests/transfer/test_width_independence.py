"""Width independence of sharpness on simulated curves with known slopes, and on planted failures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.transfer.width_independence import width_independence
from workloads.base import BadInput

WIDTHS = np.array([32.0, 64.0, 128.0, 256.0])
STEPS = np.arange(0, 100, 10)
WINDOW = (20, 90)


def table(slope, *, run=0.05, wobble=0.0, measured=0.03, seeds=4, widths=WIDTHS, rng=None):
    """Curves with progressive sharpening; slope: number, or one a step. Noise of a run, a width, a measurement."""
    rng = rng or np.random.default_rng(5)
    width, seed, step = (axis.ravel() for axis in np.meshgrid(widths, np.arange(seeds), STEPS, indexing="ij"))
    shape = (len(widths), seeds, STEPS.size)
    y = np.log(10) + 0.5 * STEPS / 100 + np.log(widths / 32)[:, None, None] * np.broadcast_to(slope, STEPS.shape)
    y = y + rng.normal(0, run, (*shape[:2], 1)) + rng.normal(0, 0.3, (1, seeds, 1))
    y = y + rng.normal(0, wobble, (shape[0], 1, 1)) + rng.normal(0, measured, shape)
    return {"width": width, "step": step, "sharpness": np.exp(y).ravel(), "seed": seed}


def judge(rows, **options):
    return width_independence(**rows, **{"window": WINDOW, **options})


def without(rows, drop):
    return {name: column[~drop] for name, column in rows.items()}


def simulated(count, slope, **options):
    rng = np.random.default_rng(6)
    return [judge(table(slope, rng=rng, **options)) for _ in range(count)]


def share(results, verdict):
    return np.mean([result.verdict == verdict for result in results])


@pytest.mark.parametrize(
    ("slope", "right", "wrong"), [(0.0, "independent", "dependent"), (-0.5, "dependent", "independent")]
)
def test_power_and_coverage(slope, right, wrong):
    results = simulated(100, slope)
    assert share(results, right) >= 0.8
    assert share(results, wrong) <= 0.05
    assert 0.9 <= np.mean([low <= slope <= high for low, high in (r.slope.interval(0.95) for r in results)]) <= 1.0


@pytest.mark.parametrize("options", [{"wobble": 0.1}, {"wobble": 0.05, "seeds": 2}, {"seeds": 1}])
def test_coverage_with_lack_of_fit_and_with_one_seed(options):
    results = simulated(150, 0.0, **options)
    assert 0.9 <= np.mean([low <= 0 <= high for low, high in (r.slope.interval(0.95) for r in results)]) <= 1.0


def test_a_slope_at_the_bound_is_not_called_independent():
    assert share(simulated(100, 0.15), "independent") <= 0.1


def test_noise_is_undecided():
    assert share(simulated(50, 0.0, run=0.8), "undecided") >= 0.9


def test_slope_and_level_are_those_of_the_window():
    rows = table(np.where(STEPS >= 20, -0.3, 2.0), run=0.0, measured=0.0)
    found = judge(rows)
    np.testing.assert_allclose(found.slope.value, -0.3, atol=1e-9)
    np.testing.assert_allclose(found.halves, -0.3, atol=1e-9)
    np.testing.assert_allclose(found.level / found.level[0], (WIDTHS / 32) ** -0.3)
    assert judge(rows, window=(0, 10)).slope.value == pytest.approx(2.0)


def test_slopes_that_cancel_over_the_window_are_not_independence():
    rows = table(np.linspace(-0.8, 0.8, STEPS.size), run=0.01)
    found = judge(rows, window=(0, 90))
    assert abs(found.slope.value) < 0.1
    assert found.verdict == "undecided"
    assert "over the window" in found.reason
    assert judge(rows, window=(0, 40)).verdict == judge(rows, window=(50, 90)).verdict == "dependent"


def test_shared_seeds_do_not_count_as_noise():
    """The seeds' common part (0.3 a seed) drops out where all widths have the same seeds, and only there."""
    rows = table(0.0)
    own = {**rows, "seed": [f"{w}-{s}" for w, s in zip(rows["width"], rows["seed"], strict=True)]}
    paired, apart = (np.ptp(judge(r).slope.interval(0.95)) for r in (rows, own))
    assert paired < apart / 2


def test_incomplete_runs_are_left_out_whole():
    rows = table(0.0)
    wild = (rows["width"] == 256) & (rows["seed"] == 1)
    late = wild & (rows["step"] >= 50)
    for bad in (np.nan, np.inf, -1.0, 0.0):
        broken = {**rows, "sharpness": np.where(late, bad, np.where(wild, 1e6, rows["sharpness"]))}
        found = judge(broken)
        assert (found.runs, found.left_out) == (15, 1)
        assert found.verdict == "independent"
    ended = judge(without({**rows, "sharpness": np.where(wild, 1e6, rows["sharpness"])}, late))
    assert (ended.runs, ended.left_out) == (15, 1)
    gone = judge(without(rows, wild & (rows["step"] >= 20)))
    assert (gone.runs, gone.left_out) == (15, 1)


def test_an_extreme_width_without_runs_is_undecided():
    rows = table(-0.5)
    diverged = (rows["width"] == 256) & (rows["step"] >= 50)
    found = judge({**rows, "sharpness": np.where(diverged, np.nan, rows["sharpness"])})
    assert found.verdict == "undecided"
    assert "width 256" in found.reason
    assert np.isnan(found.level[-1])
    middle = (rows["width"] == 64) & (rows["step"] >= 50)
    assert judge({**rows, "sharpness": np.where(middle, np.nan, rows["sharpness"])}).verdict == "dependent"
    nothing = judge({**rows, "sharpness": np.full(rows["width"].size, np.nan)})
    assert (nothing.verdict, nothing.runs, nothing.left_out) == ("undecided", 0, 16)


def test_two_widths_are_undecided():
    found = judge(table(-0.5, widths=WIDTHS[:2]))
    assert (found.verdict, found.slope) == ("undecided", None)
    assert "add widths" in found.reason


def test_a_wider_bound_is_the_callers_choice():
    rows = table(-0.3)
    assert judge(rows).verdict == "dependent"
    assert judge(rows, bound=0.5).verdict == "independent"


def test_json_holds_what_the_result_does():
    found = judge(table(0.0, widths=WIDTHS[:2]))
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["halves"] == [None, None]
    record = json.loads(json.dumps(judge(table(0.0)).to_json(), allow_nan=False))
    assert record["verdict"] == "independent"
    assert record["widths"] == WIDTHS.tolist()
    assert record["slope"]["ci95"][0] < record["slope"]["ci90"][0] < record["slope"]["exponent"]


def test_bad_tables_name_the_fix():
    rows = table(0.0)
    with pytest.raises(BadInput, match="steps are 0 to 90"):
        judge(rows, window=(200, 300))
    with pytest.raises(BadInput, match="one entry"):
        judge({**rows, "step": rows["step"][:-1]})
    with pytest.raises(BadInput, match="width holds 0"):
        judge({**rows, "width": np.zeros(rows["width"].size)})
    with pytest.raises(BadInput, match="twice"):
        judge({**rows, "seed": None})
    with pytest.raises(BadInput, match="bound"):
        judge(rows, bound=0.0)
