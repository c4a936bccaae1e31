"""Plots as pictures: nothing that cannot be drawn is fatal, nothing is silently dropped, keys and ticks stay readable."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from harness.laws.plots import Contour, Layer, Plot
from harness.report import drawing
from harness.report.canvas import PNG_DPI, Picture, _style
from harness.report.drawing import MOST_POINTS, file_name, picture
from harness.report.palette import LIGHT, SERIES
from harness.report.ticks import MOST_TICKS, limits, linear_ticks, log_ticks, tick_text
from tests.report import fitted

ONE = np.array([1.0])
NAN = np.array([np.nan, np.nan])
X, Y = np.geomspace(1e6, 1e9, 20), np.geomspace(4, 2, 20)
HOSTILE = "_<script>alert(1)</script> $x^{$ \u202e\u2066 & 損失\n" * 3


def plot(*layers: Layer, **options: Any) -> Plot:
    return Plot("p", "Title", "parameters", "loss", layers, **options)


def figure_of(one: Picture) -> Figure:
    """The figure, laid out and drawn."""
    with _style(one.name):
        figure = Figure(figsize=one.size, dpi=PNG_DPI, layout="constrained")
        one.draw(figure, LIGHT)
        FigureCanvasAgg(figure).print_png(io.BytesIO())
    return figure


SURFACE = Contour(X, X, X[:, None] ** -0.3 + X[None, :] ** -0.2, "loss")
ODD: dict[str, Plot] = {
    "no layers": plot(),
    "empty layer": plot(Layer("a", np.empty(0), np.empty(0)), Layer("b", X, Y)),
    "all NaN": plot(Layer("a", NAN, NAN), Layer("b", NAN, NAN, NAN, NAN, "line")),
    "one point": plot(Layer("a", ONE, ONE, ONE - 0.1, ONE + 0.1)),
    "one point of a line": plot(Layer("a", ONE, ONE, kind="line")),
    "one value, zero, linear": plot(Layer("a", ONE * 0, ONE * 0), log_x=False, log_y=False),
    "one value apart from rounding": plot(Layer("a", ONE.repeat(2), np.array([2.0, np.nextafter(2.0, 3.0)]))),
    "not positive on log axes": plot(Layer("a", np.array([-1.0, 0.0, 1.0]), np.array([1.0, 1.0, -1.0]))),
    "infinite bars": plot(Layer("a", X, Y, np.full(20, -np.inf), np.full(20, np.inf))),
    "infinite band": plot(Layer("a", X, Y, np.full(20, -np.inf), np.full(20, np.inf), "line"), log_y=False),
    "NaN bars": plot(Layer("a", X, Y, np.full(20, np.nan), np.full(20, np.nan))),
    "huge and tiny": plot(Layer("a", np.array([1e-300, 1e-50, 1e50, 1e300]), np.array([1e-300, 1e-50, 1e50, 1e300]))),
    "huge, linear": plot(
        Layer("a", np.array([-1e308, 1e308, 1.0]), np.array([-1e99, 1e99, 1.0])), log_x=False, log_y=False
    ),
    "hostile": Plot(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, (Layer(HOSTILE, X, Y), Layer("", X, Y)), caption=HOSTILE, alt=HOSTILE
    ),
    "no labels": plot(Layer("", X, Y), Layer("", X, Y, kind="line")),
    "forty labels": plot(
        *(Layer(f"the name of optimizer {chr(97 + i % 26)}{i // 26}", X, Y * (1 + i)) for i in range(40))
    ),
    "gaps": plot(Layer("a", X, np.where(np.arange(20) % 3, Y, np.nan), Y - 0.1, Y + 0.1, "line")),
    "flat surface": plot(contour=Contour(X, X, np.ones((20, 20)), "loss")),
    "surface of NaN": plot(Layer("a", X, X), contour=Contour(X, X, np.full((20, 20), np.nan), "loss")),
    "surface with holes": plot(contour=dataclasses.replace(SURFACE, z=np.where(X > 1e8, np.nan, SURFACE.z))),
    "surface with a negative column": plot(contour=dataclasses.replace(SURFACE, x=np.linspace(-1, 9, 20), label="")),
    "surface of one row": plot(contour=Contour(X, X[:1], SURFACE.z[:1], "loss")),
    "integers": plot(Layer("a", np.arange(1, 9), np.arange(1, 9)), log_x=False, log_y=False),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_plots_are_drawn(name: str, tmp_path: Path) -> None:
    one = picture(ODD[name])
    svg = str(one.svg())
    assert "<script" not in svg
    assert not [c for c in svg if c in "\u202e\u2066"]
    assert len(svg) < 300_000
    pixels = imread(one.write_png(tmp_path))
    assert (np.abs(pixels[..., :3] - 1).max(axis=-1) > 0.05).mean() > 0.003, "blank"
    assert [path.parent for path in tmp_path.rglob("*.png")] == [tmp_path]


def test_what_has_no_place_is_counted() -> None:
    assert "5 values have no place" not in picture(plot(Layer("a", X, Y))).caption
    some = Layer("a", np.array([-1.0, 0.0, 1.0, 2.0, np.nan]), np.array([1.0, 1.0, -1.0, 2.0, 1.0]))
    assert "4 values have no place on these axes (not finite, or not positive" in picture(plot(some)).caption
    assert "1 value has no place on these axes (not finite)." in picture(plot(some, log_x=False, log_y=False)).caption
    assert "nothing to draw" in picture(ODD["all NaN"]).alt
    assert "no level lines" in picture(ODD["flat surface"]).caption
    assert "no level lines" not in picture(ODD["surface with holes"]).caption


def test_points_appear_where_they_are() -> None:
    """Of 20 points of a layer and their bars and of a line and its band, each is in the figure."""
    figure = figure_of(
        picture(plot(Layer("runs", X, Y, Y * 0.9, Y * 1.2), Layer("fit", X, Y, Y * 0.8, Y * 1.1, "line")))
    )
    (ax,) = figure.axes
    points, line = ax.lines
    for drawn in (points, line):
        np.testing.assert_allclose(drawn.get_xydata(), np.column_stack([X, Y]))
    bars = next(c for c in ax.collections if len(c.get_paths()) == 20)
    np.testing.assert_allclose([path.vertices[:, 1] for path in bars.get_paths()], np.column_stack([Y * 0.9, Y * 1.2]))
    band = next(c for c in ax.collections if len(c.get_paths()) == 1).get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2 * 0.8, 4 * 1.1))
    low, high = ax.get_ylim()
    assert low < 2 * 0.8
    assert high > 4 * 1.2
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_bands_keep_to_their_lines_around_gaps() -> None:
    one = picture(plot(Layer("a", X, np.where(np.arange(20) % 5, Y, np.nan), Y * 0.99, Y * 1.01, "line")))
    for band in figure_of(one).axes[0].collections:
        for path in band.get_paths():
            x, y = path.vertices.T
            fitted_y = np.exp(np.interp(np.log(x), np.log(X), np.log(Y)))
            np.testing.assert_allclose(y, fitted_y, rtol=0.011)


def test_far_ends_of_bands_do_not_squeeze_the_data() -> None:
    wide = Layer("fit", X, Y, np.full(20, 1e-9), np.full(20, 1e9), "line")
    low, high = figure_of(picture(plot(wide))).axes[0].get_ylim()
    assert 0.5 < low < 2
    assert 4 < high < 10


@pytest.mark.parametrize("points", [2, 10, 600])
def test_the_key_never_covers_data(points: int) -> None:
    x = np.geomspace(1, 100, points)
    for labels in (3, 10, 40):
        long = [Layer(f"a rather long label of {chr(97 + i % 26)} {i}", x, x + i) for i in range(labels)]
        figure = figure_of(picture(plot(*long)))
        (ax,) = figure.axes
        key = ax.get_legend()
        assert key is not None
        box, area = key.get_window_extent(), ax.get_window_extent()
        assert box.y0 >= area.y1 - 1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
        assert area.height > 0.45 * 3.4 * PNG_DPI, "the key leaves no room"


def test_labels_share_a_look_and_differ_in_it() -> None:
    names = [f"optimizer {chr(97 + i)}" for i in range(14)]
    ax = figure_of(picture(plot(*(Layer(name, X, Y + i) for i, name in enumerate(names))))).axes[0]
    looks = [(line.get_color(), line.get_marker()) for line in ax.lines]
    assert len(set(looks)) == 14
    assert {colour for colour, _ in looks} == {LIGHT.series(i) for i in range(len(SERIES))}
    both = figure_of(picture(plot(Layer("b", X, Y), Layer("a", X, Y), Layer("b", X, Y, kind="line")))).axes[0]
    assert both.lines[0].get_color() == both.lines[2].get_color() != both.lines[1].get_color()
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["b", "a"]


def test_ordered_labels_take_a_scale_of_colours() -> None:
    def colours(labels: list[str]) -> list[str]:
        ax = figure_of(picture(plot(*(Layer(label, X, Y) for label in labels)))).axes[0]
        return [line.get_color() for line in ax.lines]

    rising = [f"{flops:.1e} FLOPs" for flops in np.geomspace(1e18, 1e22, 8)]
    assert colours(rising) == [LIGHT.scale(i, 8) for i in range(8)]
    assert colours([*rising[4:], *rising[:4]]) == [LIGHT.scale(i, 8) for i in (4, 5, 6, 7, 0, 1, 2, 3)]
    assert colours(["optimum", *rising, "other"])[::9] == [LIGHT.series(0), LIGHT.series(2)]
    assert colours(rising[:3]) == [LIGHT.series(i) for i in range(3)]
    assert colours(["a 1", "b 2", "c 3", "d 4"]) == [LIGHT.series(i) for i in range(4)]


def test_lines_belong_to_the_points_they_are_named_after() -> None:
    layers = []
    for i in range(6):
        layers.append(Layer(f"{i} FLOPs", X, Y + i))
        layers += [Layer(f"{i} FLOPs, {method}", X, Y + i, kind="line") for method in ("Akima", "parabola")]
    ax = figure_of(picture(plot(*layers))).axes[0]
    drawn = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    for i in range(6):
        colour = LIGHT.scale(i, 6)
        assert drawn[3 * i : 3 * i + 3] == [(colour, "None"), (colour, "-"), (colour, "--")]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [*(f"{i} FLOPs" for i in range(6)), "Akima", "parabola"]
    apart = figure_of(picture(plot(Layer("law", X, Y, kind="line"), Layer("law, 3 bits", X, Y, kind="line")))).axes[0]
    assert [line.get_color() for line in apart.lines] == [LIGHT.series(0), LIGHT.series(1)]


def test_reference_lines_are_ink() -> None:
    ends, zero = np.array([1.0, 9.0]), np.zeros(2)
    layers = (
        Layer("zero", ends, zero, kind="line"),
        Layer("points", np.array([1.0, 5.0, 9.0]), np.array([-1.0, 1.0, 2.0])),
    )
    ax = figure_of(picture(plot(*layers, log_y=False))).axes[0]
    assert [line.get_color() for line in ax.lines] == [LIGHT["muted"], LIGHT.series(0)]
    assert len(figure_of(picture(plot(layers[1], log_y=False))).axes[0].lines) == 2


def test_crowds_are_thinned_but_outliers_stay() -> None:
    random = np.random.default_rng(0)
    x, y = 10 ** random.normal(8, 0.2, 10_000), 10 ** random.normal(0.4, 0.02, 10_000)
    x[9_977], y[9_977] = 1e11, 9.0
    one = picture(plot(Layer("runs", x, y), Layer("predicted", ONE * 1e8, ONE * 3)))
    drawn = figure_of(one).axes[0].lines
    count = drawn[0].get_xdata().size
    assert MOST_POINTS / 3 < count <= MOST_POINTS
    assert (1e11, 9.0) in {tuple(point) for point in drawn[0].get_xydata()}
    assert drawn[1].get_xdata().size == 1
    assert f"{count + 1:,} of 10,001 points are drawn" in one.caption
    assert len(one.svg()) < 300_000
    barred = picture(plot(Layer("runs", x, y, y * 0.99, y * 1.01)))
    assert len(barred.svg()) < 400_000
    assert "points are drawn" not in picture(plot(Layer("runs", x[:500], y[:500]))).caption


def test_long_lines_keep_their_peaks() -> None:
    y = np.ones(100_000)
    y[54_321] = 7.0
    one = picture(plot(Layer("a", np.arange(1, 100_001), y, kind="line")))
    line = figure_of(one).axes[0].lines[0]
    assert line.get_ydata().max() == 7.0
    assert line.get_xdata().size <= 1100
    assert line.get_xdata()[-1] == 100_000


def test_level_lines_lie_at_their_levels_with_numbers_on_them() -> None:
    one = picture(fitted.contour_plot(np.array([1e8, 1e9]), np.array([1e10, 1e11])))
    ax = figure_of(one).axes[0]
    (lines,) = [c for c in ax.collections if hasattr(c, "levels")]
    assert 5 <= len(lines.levels) <= drawing.MOST_LEVELS
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        at = path.vertices[np.isfinite(path.vertices).all(axis=1)]
        np.testing.assert_allclose(fitted.law(at[:, 0], at[:, 1]), level, rtol=0.02)
    svg = str(one.svg())
    shown = set(re.findall(r">([\d.]+)</text>", svg))
    assert len(shown & {tick_text(level) for level in lines.levels}) >= 5
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "runs",
        "compute-optimal",
        "level lines: loss (nats/token)",
    ]


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (4e7, 3e10, True, ["100 M", "300 M", "1 G", "3 G", "10 G", "30 G"]),
        (1e17, 1e25, True, ["10¹⁷", "10¹⁹", "10²¹", "10²³", "10²⁵"]),
        (1e18, 1e22, True, ["10¹⁸", "10¹⁹", "10²⁰", "10²¹", "10²²"]),
        (1.9, 4.2, True, ["2", "2.5", "3", "3.5", "4"]),
        (2.0001, 2.0009, True, ["2.0002", "2.0004", "2.0006", "2.0008"]),
        (1e-5, 1e-1, True, ["10⁻⁵", "0.0001", "0.001", "0.01", "0.1"]),
        (-0.011, 0.011, False, ["−0.01", "−0.005", "0", "0.005", "0.01"]),
        (0, 70_000, False, ["0", "20 k", "40 k", "60 k"]),
        (3, 9, True, ["3", "4", "5", "6", "7", "8", "9"]),
    ],
)
def test_ticks(low: float, high: float, log: bool, expected: list[str]) -> None:
    assert [tick_text(tick) for tick in (log_ticks if log else linear_ticks)(low, high)] == expected


def test_every_axis_has_a_few_different_ticks() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        low = 10.0 ** random.uniform(-12, 24)
        high = low * 10**10 ** random.uniform(-3, 1.3)
        for ticks in (log_ticks, linear_ticks):
            texts = [tick_text(tick) for tick in ticks(low, high)]
            assert 2 <= len(texts) <= MOST_TICKS + 1, (low, high, texts)
            assert len(set(texts)) == len(texts), (low, high, texts)


def test_limits_hold_the_values() -> None:
    values = np.array([3.0, np.nan, 8.0, -1.0])
    assert limits(values, log=True) == pytest.approx((3 * (3 / 8) ** 0.05, 8 * (8 / 3) ** 0.05))
    assert limits(values, log=False) == pytest.approx((-1.45, 8.45))
    low, high = limits(ONE * 5, log=False)
    assert low < 5 < high


def test_texts_default_to_the_data() -> None:
    one = picture(plot(Layer("runs", X, Y), caption="A sentence."))
    assert one.alt == "Title: loss against parameters; runs from 2 to 4."
    assert one.caption == "A sentence."
    assert picture(plot(Layer("runs", X, Y), alt="Own words.")).alt == "Own words."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss_vs-N2", "loss_vs-N2"),
        ("../../etc/passwd", "etc_passwd"),
        ("", "plot"),
        ("損失", "plot"),
        ("a" * 99, "a" * 60),
    ],
)
def test_names_of_files_are_harmless(name: str, expected: str) -> None:
    assert file_name(name) == expected


def test_every_colour_is_a_property_of_the_page() -> None:
    makers: list[Callable[[], Plot]] = [fitted.isoflop_plot, lambda: fitted.crowd_plot(300)]
    for make in makers:
        svg = str(picture(make()).svg())
        assert "var(--" in svg
        assert not re.findall(r"(?:fill|stroke): #(?!000000)[0-9a-f]{6}", svg)


def test_drawing_needs_no_jax() -> None:
    """The modules that draw can be loaded where jax cannot (the package's __init__ aside, which makes whole reports)."""
    code = """
import sys, types
from pathlib import Path
sys.modules["jax"] = None
package = types.ModuleType("harness.report")
package.__path__ = [str(Path("harness/report").resolve())]
sys.modules["harness.report"] = package
import harness.report.drawing as drawing
assert drawing.file_name("a b") == "a_b"
"""
    root = Path(__file__).parents[2]
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr
