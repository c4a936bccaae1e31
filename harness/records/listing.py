"""Tables as text: rich on a terminal, plain aligned columns elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from harness.records.text import printable

_GAP = 2
_LONGEST = 60


def cell(value: Any) -> str:
    """One value as shown: six significant digits, '-' for null."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = printable(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def show(
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    fixed: bool,
    notes: Sequence[str] = (),
    out: TextIO | None = None,
) -> None:
    """Print a table. On a terminal, columns that do not fit are left out and named (fixed: shortened instead).

    Elsewhere everything is printed, and `notes` go to standard error, so that what is piped on is the table alone.
    """
    out = out or sys.stdout
    names = [printable(header) for header in headers]
    cells = [[cell(value) for value in row] for row in rows]
    right = [all(isinstance(row[i], (int, float, type(None))) for row in rows) for i in range(len(names))]
    if out.isatty():
        _on_terminal(names, cells, right, fixed, notes, out)
        return
    for line in _aligned(names, cells, right):
        print(line, file=out)
    for note in notes:
        print(note, file=sys.stderr)


def _widths(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]


def _aligned(names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = _widths(names, cells)
    return [
        (" " * _GAP)
        .join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        )
        .rstrip()
        for row in [names, *cells]
    ]


def _on_terminal(
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    fixed: bool,
    notes: Sequence[str],
    out: TextIO,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    shown = list(range(len(names))) if fixed else _fitting(_widths(names, cells), width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i in shown:
        table.add_column(Text(names[i]), justify="right" if right[i] else "left", no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*(Text(row[i]) for i in shown))
    console = Console(
        file=out, width=width, height=25, highlight=False
    )  # rich ignores a width without a height on dumb terminals
    console.print(table)
    hidden = [names[i] for i in range(len(names)) if i not in shown]
    if hidden:
        notes = [*notes, f"not shown here: {', '.join(hidden)} (choose with columns=a,b,c)"]
    for note in notes:
        console.print(Text(note))


def _fitting(widths: Sequence[int], width: int) -> list[int]:
    """The columns that fit, earlier ones first, never none."""
    shown: list[int] = []
    used = 0
    for i, needed in enumerate(widths):
        if not shown or used + _GAP + 1 + needed <= width:
            used += needed + (_GAP + 1 if shown else 0)
            shown.append(i)
    return shown
