"""A leaderboard's pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from harness.laws.plots import HeatMap
from harness.report.drawing import picture
from harness.report.heat import heat_picture
from harness.scoring import RULES, leaderboard
from harness.scoring.pictures import profile_plots, ratio_map
from harness.scoring.profiles import profiles
from tests.scoring.boards import simulate

EXACT = RULES["exact"]()


def board(**options):
    times, _ = simulate(np.random.default_rng(0), 5, **options)
    return leaderboard(times, EXACT, bootstrap=100)


def test_profiles_are_steps_that_hold_their_value_until_the_next():
    found = board(fail=True)
    layers = profile_plots(found)[0].layers
    assert [layer.label for layer in layers] == [found.submissions[i] for i in found.order]
    for i, layer in zip(found.order, layers, strict=True):
        assert np.all((np.diff(layer.x) == 0) | (np.diff(layer.y) == 0))
        between = (layer.x[:-1:2] + layer.x[1::2]) / 2
        np.testing.assert_array_equal(layer.y[:-1:2], profiles(found.ratios[i], between))
        assert (layer.x[0], layer.x[-1]) == (1.0, 4.0)
        assert layer.x.size > 2, "two vertices would be taken for a line of reference"


def test_of_many_submissions_the_highest_scores_are_drawn():
    plot = profile_plots(board(submissions=20))[0]
    assert len(plot.layers) == 18
    assert "The 18 highest scores of 20." in plot.caption


def test_bands_hold_their_line_and_stay_between_0_and_1():
    found = board(submissions=12)
    plots = profile_plots(found)
    assert len(plots) == 4
    for plot in plots[1:]:
        for layer in plot.layers:
            assert np.all((layer.low <= layer.y) & (layer.y <= layer.high))
            assert layer.low.min() >= 0
            assert layer.high.max() <= 1
        assert "<path" in str(picture(plot).svg())
    assert len(profile_plots(replace(found, draws=None))) == 1


def test_the_map_marks_what_was_not_met_and_what_is_ruled_out(tmp_path):
    found = board(fail=True)
    heat = ratio_map(found)
    assert heat.rows == tuple(found.submissions[i] for i in found.order)
    assert np.isinf(heat.values).sum() == (found.statuses == "not met").sum() > 0
    assert heat.faint.sum() == (~np.isin(found.statuses, ["not met", "counts"])).sum()
    svg = str(heat_picture(heat).svg())
    assert svg.count("∞") == np.isinf(heat.values).sum()
    pixels = imread(heat_picture(heat).write_png(tmp_path))
    assert (np.abs(pixels[..., :3] - 1).max(axis=-1) > 0.05).mean() > 0.1, "blank"


def heat(values, **options):
    values = np.array(values, float)
    rows, columns = (tuple(f"{word}{i}" for i in range(n)) for word, n in zip("rc", values.shape, strict=True))
    return HeatMap("h", "Title", rows, columns, values, (1.0, 4.0), np.zeros(values.shape, bool), **options)


ODD = {
    "empty": heat(np.empty((0, 0))),
    "one cell": heat([[2.0]]),
    "nothing finite": heat([[math.inf, math.nan], [-math.inf, math.inf]]),
    "huge, zero, negative": heat([[1e300, 0.0], [-1.0, 1e-300]]),
    "forty rows": heat(np.linspace(1, 9, 560).reshape(40, 14)),
    "hostile": replace(heat([[1.0]]), rows=("_<script>\u202e$x^{$" * 9,), columns=("\u2066" * 50,), title="$</svg>"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_maps_are_drawn(name):
    one = heat_picture(ODD[name])
    svg = str(one.svg())
    assert "<script" not in svg
    assert not [c for c in svg + one.alt if c in "\u202e\u2066"]
    assert one.wide
