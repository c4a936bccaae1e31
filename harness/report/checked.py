"""Sections of a study's checks, from checks.json, which may be partial or hostile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.report import sections, text
from harness.report.canvas import Picture
from harness.report.document import table_view
from harness.report.drawing import picture
from harness.report.inputs import array, mapping, sequence

_MOST = 24  # tables and pictures of a check


@dataclass(frozen=True)
class Checked:
    """What page.Section shows of one check."""

    id: str
    title: str
    lead: str
    pictures: list[Picture]
    tables: list[tuple[str, str, sections.Table]]
    facts: list[tuple[str, str, sections.Pairs]]


def check_sections(checks: Mapping[str, Mapping[str, Any]]) -> Iterator[Checked]:
    """One section a check: the verdict of every series, tables, pictures."""
    for i, (name, entry) in enumerate(checks.items()):
        verdicts = {series: mapping(found) for series, found in mapping(entry.get("verdicts")).items()}
        rows = tuple(
            (series, text.plain(found.get("verdict")), text.plain(found.get("reason")))
            for series, found in verdicts.items()
        )
        tables = [Table("Verdicts", ("series", "verdict", "why"), rows), *map(_table, _entries(entry, "tables"))]
        yield Checked(
            id=f"check-{i}",
            title=text.short(name.replace("_", " ").capitalize(), 60),
            lead=text.clean(entry.get("title") or ""),
            pictures=[picture(_plot(plot), f"check_{i}_{k}") for k, plot in enumerate(_entries(entry, "plots"))],
            tables=[(table.title, "", table_view(f"check-{i}-{k}", table)["grid"]) for k, table in enumerate(tables)],
            facts=[],
        )


def _entries(entry: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [mapping(one) for one in sequence(entry.get(key))[:_MOST]]


def _table(entry: Mapping[str, Any]) -> Table:
    header = tuple(text.plain(word) for word in sequence(entry.get("header")))
    rows = tuple(tuple(sequence(row)) for row in sequence(entry.get("rows")))
    return Table(text.clean(entry.get("title") or ""), header, rows)


def _plot(entry: Mapping[str, Any]) -> Plot:
    layers = []
    for one in sequence(entry.get("layers")):
        layer = mapping(one)
        x = array(layer.get("x"))
        ends = {key: array(layer[key], x.size) for key in ("low", "high") if key in layer}
        kind = "line" if layer.get("kind") == "line" else "points"
        ends = ends if len(ends) == 2 else {}
        layers.append(Layer(text.plain(layer.get("label")), x, array(layer.get("y"), x.size), kind=kind, **ends))  # type: ignore[arg-type]
    title, x_label, y_label, caption, alt = (
        text.clean(entry.get(key) or "") for key in ("title", "x_label", "y_label", "caption", "alt")
    )
    return Plot(
        "check",
        title,
        x_label,
        y_label,
        tuple(layers),
        log_x=bool(entry.get("log_x", True)),
        log_y=bool(entry.get("log_y", True)),
        caption=caption,
        alt=alt,
    )
