"""A report of any analysis: titled sections of facts, warnings, tables and plots, as one self-contained HTML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.laws.plots import HeatMap, Plot
from harness.laws.procedures.base import Table
from harness.records.files import atomic_write_bytes, atomic_write_text, own_folder
from harness.report import sections as study
from harness.report.canvas import Picture
from harness.report.drawing import MOST_POINTS, file_name, picture
from harness.report.heat import heat_picture
from harness.report.template import render
from harness.report.text import MISSING, plain, quantity, short
from workloads.base import BadInput

FILE = "report.html"
FIGURES = "figures"
LONG = 15  # rows; longer tables scroll, and can be sorted and filtered
PAGE_POINTS = 15_000  # of all pictures together: 2.2 megabytes
MOST_CELLS = 6000  # of a table; some 50 bytes each


@dataclass(frozen=True)
class Section:
    """What is under one heading. text: paragraphs, parted by empty lines. facts: (term, value). warnings: come first."""

    title: str
    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot | HeatMap, ...] = ()
    warnings: tuple[str, ...] = ()


def write_document(folder: Path, title: str, lead: str, sections: Sequence[Section], command: str) -> Path:
    """Write folder/report.html and folder/figures/NAME.png, a file a plot; returns the path of report.html.

    command: what a reader types to get this page again. Everything is shown as text, whatever it holds; plots of the
    same name are numbered. Raises BadInput if the folder cannot be written to.
    """
    names: set[str] = set()
    share = min(MOST_POINTS, PAGE_POINTS // max(1, sum(len(section.plots) for section in sections)))
    pictures = [[_named(plot, names, share) for plot in section.plots] for section in sections]
    shown = [_shown(i, section, mine) for i, (section, mine) in enumerate(zip(sections, pictures, strict=True), 1)]
    page = render("document.html", {"name": title, "lead": lead, "sections": shown, "command": command})
    try:
        figures = own_folder(folder / FIGURES)
        with TemporaryDirectory() as scratch:
            for one in (one for mine in pictures for one in mine):
                written = one.write_png(Path(scratch))
                atomic_write_bytes(figures / written.name, written.read_bytes())
        atomic_write_text(folder / FILE, page)
    except OSError as error:
        raise BadInput(
            f"cannot write the report to {folder}: {error.strerror}; choose another folder or make it writable"
        ) from None
    return folder / FILE


def _named(plot: Plot | HeatMap, names: set[str], most_points: int) -> Picture:
    """The plot's picture under a name that no other has, even where file systems ignore case."""
    name = base = file_name(plot.name)
    number = 1
    while name.lower() in names:
        number += 1
        name = f"{base}_{number}"
    names.add(name.lower())
    return heat_picture(plot, name) if isinstance(plot, HeatMap) else picture(plot, name, most_points)


def _shown(index: int, section: Section, pictures: list[Picture]) -> Mapping[str, Any]:
    """What the template shows of a section: short tables come before its pictures, long ones after."""
    tables = [table_view(f"table-{index}-{i}", table) for i, table in enumerate(section.tables, 1)]
    return {
        "id": f"section-{index}",
        "title": section.title,
        "short_title": short(section.title, 60),
        "paragraphs": [part for part in section.text.split("\n\n") if part.strip()],
        "warnings": section.warnings,
        "facts": [(term, value if isinstance(value, str) else cell(value)[0]) for term, value in section.facts],
        "short_tables": [table for table in tables if not table["long"]],
        "pictures": pictures,
        "long_tables": [table for table in tables if table["long"]],
    }


def table_view(name: str, table: Table) -> Mapping[str, Any]:
    """What the templates show of a table."""
    columns = max([1, len(table.header), *map(len, table.rows)])
    most = max(LONG, MOST_CELLS // columns)
    rows = [[_own(value) for _, value in zip_longest(range(columns), row)] for row in table.rows[:most]]
    shown = [_column(list(values), len(rows) > LONG) for values in zip(*rows, strict=True)]
    headings = [(short(heading, 48), "") for _, heading in zip_longest(range(columns), table.header, fillvalue="")]
    left_out = f"The first {most:,} of {len(table.rows):,} rows." if len(table.rows) > most else ""
    return {
        "id": name,
        "title": table.title,
        "left_out": left_out,
        "long": len(rows) > LONG,
        "grid": study.Table(headings, [list(row) for row in zip(*shown, strict=True)]),
    }


def _column(values: list[Any], long: bool) -> list[tuple[str, float | None]]:
    decimals = _decimals([v for v in values if isinstance(v, float) and math.isfinite(v)]) if long else None
    if decimals is None:
        return [cell(value) for value in values]
    return [
        (f"{value:,.{decimals}f}".replace("-", "−"), value)
        if isinstance(value, float) and math.isfinite(value)
        else cell(value)
        for value in values
    ]


def _decimals(values: list[float]) -> int | None:
    """Decimals that suit a whole column: its numbers are of similar size, or of both signs as residuals are."""
    largest = max(map(abs, values), default=0.0)
    if not 1e-4 <= largest < 1e5 or (min(values) >= 0 and max(values) >= 300 * min(values)):
        return None
    return max(0, 3 - math.floor(math.log10(largest)))


def cell(value: Any) -> tuple[str, float | None]:
    """A value as a reader wants it, and the number to sort by, if it has one.

    Pairs of numbers are intervals; None and NaN are missing; whole numbers have all their digits, others four.
    """
    value = _own(value)
    if value is None or isinstance(value, bool):
        return {None: MISSING, True: "yes", False: "no"}[value], None
    if isinstance(value, (int, float)):
        return _number(value), float(value) if math.isfinite(value) else None
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(_is_number(end) for end in value):
        ends = [math.nan if end is None else end for end in value]
        if all(math.isnan(end) for end in ends):
            return MISSING, None
        return f"[{_number(ends[0])}, {_number(ends[1])}]", float(ends[0]) if math.isfinite(ends[0]) else None
    return short(value if isinstance(value, str) else plain(value), 160) or MISSING, None


def _own(value: Any) -> Any:
    """Arrays and their scalars as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return MISSING if math.isnan(value) else "∞" if value > 0 else "−∞"
    if isinstance(value, int) and abs(value) < 10**15:
        return f"{value:,}".replace("-", "−")
    return quantity(value, 4).replace(".000 ×", " ×").replace("-", "−")
