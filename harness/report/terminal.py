"""Sections of a report as text on the terminal."""

from __future__ import annotations

from harness.records.listing import show
from harness.records.text import printable
from harness.report.document import Section, cell


def print_section(section: Section) -> None:
    """Title, text, facts, tables and warnings; pictures are for the page."""
    if not (section.text or section.facts or section.tables or section.warnings):
        return
    print(f"\n{printable(section.title)}")
    if section.text:
        print(f"  {printable(section.text)}")
    for key, value in section.facts:
        print(f"  {printable(key)}: {printable(value)}")
    for table in section.tables:
        print()
        show(table.header, [[cell(v)[0] if isinstance(v, tuple) else v for v in row] for row in table.rows], fixed=True)
    for warning in section.warnings:
        print(f"  warning: {printable(warning)}")
