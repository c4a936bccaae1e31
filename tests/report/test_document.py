"""The page of any analysis: whole, self-contained, harmless, readable on every screen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.laws.plots import Contour, Layer, Plot
from harness.laws.procedures.base import Table
from harness.report.document import LONG, MOST_CELLS, Section, cell, write_document
from tests.report import fitted
from tests.report.browser import DARK, LIGHT, chromium, console, contrast, luminance, needs_chromium, probe
from tests.report.test_hostile import STRINGS
from workloads.base import BadInput

X = np.geomspace(1e6, 1e9, 5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report of a fit; read only."""
    folder = tmp_path_factory.mktemp("results") / "a fit"
    return write_document(folder, "Runs of 2026", "Loss against size and data.", fitted.sections(), fitted.COMMAND)


def write(folder: Path, sections: Sequence[Section], **words: str) -> str:
    path = write_document(folder, words.get("title", "t"), words.get("lead", "l"), sections, words.get("command", "c"))
    return path.read_text(encoding="utf-8")


def simple(name: str) -> Plot:
    return Plot(name, "Title", "x", "y", (Layer("a", X, X),))


def cells(page: str) -> list[list[str]]:
    """The text of every row of every table's body."""
    bodies = "".join(re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL))
    return [
        [re.sub(r"<[^>]*>", "", one) for one in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", bodies)
    ]


def test_everything_is_on_the_page(written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    for text in ("Runs of 2026", "Loss against size and data.", "python -m harness.fit runs=runs.csv", "240 of 245"):
        assert text in page
    for section in fitted.sections(100):
        assert f"<bdi>{section.title}</bdi></h2>" in page
        for warning in section.warnings:
            assert page.index(warning) < page.index("Parameters")
    names = {"surface", "residuals", "prediction", "isoflop", "crowd"}
    assert set(re.findall(r'data-figure="([^"]+)"', page)) == names
    assert {path.name for path in (written.parent / "figures").iterdir()} == {f"{name}.png" for name in names}
    assert ["alpha", "0.3478", "0.015", "[0.318, 0.377]", "yes"] in cells(page)
    assert ["epsilon", "3.200 × 10⁻⁶", "–", "[–, ∞]", "no"] in cells(page)
    assert sum(row[0].startswith("run-") for row in cells(page)) == 240
    assert ">2 warnings</span>" in page
    assert len(page) < 700_000


def test_the_file_is_self_contained_and_has_one_script(written: Path) -> None:
    page = written.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href|action|poster)\s*=\s*["\']?(?!#)[^"\'\s>]+', page)
    assert not re.findall(r"url\((?!#)|@import|http(?!-equiv)", page)
    assert page.count("<script") == 1
    assert re.search(r"default-src &#39;none&#39;;.*script-src &#39;sha256-", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (-np.inf, "−∞"),
        (True, "yes"),
        (np.False_, "no"),
        (3, "3"),
        (-12_345_678_901, "−12,345,678,901"),
        (10**40, "1 × 10⁴⁰"),
        (np.int64(1234), "1,234"),
        (0.33917, "0.3392"),
        (-0.0000321, "−3.210 × 10⁻⁵"),
        (np.float32(0.5), "0.5"),
        ((0.1, 0.25), "[0.1, 0.25]"),
        ((-0.1, None), "[−0.1, –]"),
        (np.array([1.5, np.inf]), "[1.5, ∞]"),
        ((None, np.nan), "–"),
        ((1, 2, 3), "1, 2, 3"),
        ((), "–"),
        ("", "–"),
        ("two\nlines \u202e", "two lines \\u202e"),
        ("x" * 500, "x" * 159 + "…"),
        ({"a": 1.5}, "a: 1.5"),
        (np.arange(3), "0, 1, 2"),
    ],
)
def test_cells(value: Any, shown: str) -> None:
    assert cell(value)[0] == shown


def test_long_tables_sort_by_number_and_share_their_decimals(tmp_path: Path) -> None:
    rows = tuple((f"r{i}", 0.001 * (i - 10), 10.0 ** -(i % 9), 1.5 + i / 64) for i in range(LONG + 10))
    table = Table("Long", ("run", "residual", "rate", "loss"), rows)
    page = write(tmp_path, [Section("s", tables=(table,))])
    assert cells(page)[3] == ["r3", "−0.00700", "0.001", "1.547"]
    assert 'data-v="-0.007"' in page
    assert 'class="scroll tall"' in page
    assert 'class="scroll tall"' not in write(tmp_path, [Section("s", tables=(Table("", ("a",), rows[:LONG]),))])


def test_a_table_too_long_for_a_page_is_cut_and_says_so(tmp_path: Path) -> None:
    table = Table("Long", ("i", "square"), tuple((i, i * i) for i in range(10_000)))
    page = write(tmp_path, [Section("s", tables=(table,))])
    assert len(cells(page)) == MOST_CELLS // 2
    assert f"The first {MOST_CELLS // 2:,} of 10,000 rows." in page
    assert len(page) < 600_000


def test_ragged_and_empty_tables(tmp_path: Path) -> None:
    tables = (Table("a", ("x", "y"), ((1,), (1, 2, 3), ())), Table("", (), ()), Table("c", ("x",), ()))
    page = write(tmp_path, [Section("s", tables=tables)])
    assert cells(page) == [["1", "–", "–"], ["1", "2", "3"], ["–", "–", "–"]]


def test_nothing_to_report(tmp_path: Path) -> None:
    assert "There is nothing to report." in write(tmp_path, [])
    assert "<h2><bdi>alone</bdi></h2>" in write(tmp_path, [Section("alone")])


def test_plots_of_one_name_are_numbered(tmp_path: Path) -> None:
    plots = [simple(name) for name in ("residuals", "Residuals", "residuals_2", "../residuals", "")]
    page = write(tmp_path, [Section("a", plots=tuple(plots[:2])), Section("b", plots=tuple(plots[2:]))])
    names = ["residuals", "Residuals_2", "residuals_2_2", "residuals_3", "plot"]
    assert re.findall(r'data-figure="([^"]+)"', page) == names
    assert {path.name for path in tmp_path.rglob("*.png")} == {f"{name}.png" for name in names}
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "figures"}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_plots_share_the_points_that_a_page_can_carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = 10 ** np.random.default_rng(0).normal(0, 1, (2, 3000))
    section = Section("s", plots=(Plot("p", "t", "x", "y", (Layer("a", x, y),)), simple("q")))
    assert re.search(r"\b1,[1-5]\d\d of 3,000 points", write(tmp_path, [section]))
    monkeypatch.setattr("harness.report.document.PAGE_POINTS", 800)
    assert re.search(r"\b(3\d\d|400) of 3,000 points", write(tmp_path, [section]))


def test_a_failure_leaves_the_page_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path, [Section("before", plots=(simple("p"),))])
    picture = (tmp_path / "figures" / "p.png").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.records.files.os.replace", fail)
    with pytest.raises(BadInput, match="No space left on device; choose another folder"):
        write(tmp_path, [Section("after", plots=(Plot("p", "", "", "", ()),))])
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert (tmp_path / "figures" / "p.png").read_bytes() == picture
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write the report"):
        write_document(tmp_path / "file" / "below", "t", "l", [], "c")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with hostile strings wherever a string can be."""
    evil = " ".join(STRINGS)
    plots = (
        Plot(evil, evil, evil, evil, (Layer(evil, X, X), Layer(f"_{evil}", X, X, kind="line")), caption=evil, alt=evil),
        Plot(evil, evil, evil, evil, (), Contour(X, X, np.outer(X, X), evil)),
    )
    tables = tuple(Table(evil, (evil, evil), ((evil, (evil, evil)), ({evil: evil}, 1.0)) * n) for n in (1, 40))
    sections = [Section("x" * 300 + evil, f"{evil}\n\n{evil}", ((evil, evil),), tables, plots, (evil, evil))] * 2
    return write_document(tmp_path_factory.mktemp("hostile"), evil, evil, sections, evil)


def test_markup_is_escaped(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    assert page.count("<script") == 1
    for forbidden in ("<img", "<b ", "<svg onload", 'onerror="', "]]></style>", "{{49}}"):
        assert forbidden not in page
    assert "&lt;script&gt;" in page
    assert "{{7*7}}" in page
    assert not [c for c in page if c in "\u202e\u2066\x07\x1b"]


@needs_chromium
def test_nothing_hostile_runs_even_without_the_security_policy(hostile: Path) -> None:
    found = probe(hostile, LIGHT, 400)
    assert found["images"] == 0
    assert found["handlers"] == 0
    assert found["scripts"] == 2  # the page's own and the probe
    assert "owned" in found["title"]  # as text
    assert found["title"] != "owned"
    assert found["overflow"] <= 0


@needs_chromium
def test_no_console_errors_under_the_security_policy(written: Path) -> None:
    finished = chromium(written, "--dump-dom")
    assert console(finished) == []
    assert "Runs of 2026 · windtunnel" in finished.stdout


@needs_chromium
@pytest.mark.parametrize(("scheme", "width"), [(DARK, 400), (LIGHT, 1280)])
def test_both_colour_schemes_are_readable_at_both_widths(written: Path, scheme: int, width: int) -> None:
    found = probe(written, scheme, width)
    assert (luminance(found["page"]) > 0.5) == (scheme == LIGHT)
    assert contrast(found["ink"], found["page"]) > 10
    assert len(found["labels"]) > 8
    for colour in found["labels"]:
        assert contrast(colour, found["paper"]) > 3, colour
    assert found["overflow"] <= 0


_SORTING = """<script>addEventListener("load", () => {
  const part = document.querySelector(".long");
  const shown = () => [...part.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
  const column = (i) => shown().map((row) => row.cells[i].textContent);
  part.querySelectorAll("th button")[1].click();
  const sorted = column(1);
  const input = part.querySelector("input");
  input.value = "run-01 yes";
  input.dispatchEvent(new Event("input"));
  const result = { sorted, filtered: column(0).sort(), count: part.querySelector(".count").textContent };
  document.documentElement.dataset.probe = JSON.stringify(result);
});</script>"""


@needs_chromium
def test_long_tables_sort_and_filter(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.report.browser._PROBE", _SORTING)
    found = probe(written, LIGHT, 900)
    sizes = [int(text.replace(",", "")) for text in found["sorted"]]
    assert len(sizes) == 240
    assert sizes == sorted(sizes)
    used = [f"run-{i:03d}" for i in range(10, 20) if i % 7]
    assert found["filtered"] == used
    assert found["count"] == f"{len(used)} of 240"
