"""A table of runs: give its columns the names a law wants, leave out what cannot be fitted, and count all of it.

A missing number is NaN, a missing text "". Every row that is left out is counted under one reason, so that
len(table) + sum(table.dropped.values()) == table.rows_read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from harness.records.cells import first_fault, has_fractions, plain_numbers, written_numbers
from harness.records.expressions import Expression
from harness.records.query import Names, select
from harness.records.text import printable
from workloads.base import BadInput

FILE = "file"
"""The column that tells which of several files a row is from."""

_SHOWN = 60  # names in a message; exports of W&B may have hundreds of columns


@dataclass(frozen=True)
class Table:
    """A table of runs.

    columns: name -> (n,) array, float64 where numeric, object (str) otherwise.
    source: what it was read from. rows_read: rows there. dropped: reason -> rows left out since.
    notes: warnings that a reader of the results must know.
    rows: (n,) where each row stands in its source, or None; place: what that counts ("line" or "row").
    """

    columns: Mapping[str, np.ndarray]
    source: str
    rows_read: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...]
    rows: np.ndarray | None = None
    place: str = "row"

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def select_columns(
    table: Table, mapping: Mapping[str, str], needed: Sequence[str], optional: Sequence[str] = ()
) -> Table:
    """The table with the columns `needed` (and those of `optional` that can be had), beside all that it had before.

    mapping: wanted name -> a column (in full, or the last component of a dotted name that only one column has), or
    arithmetic on columns and other wanted names, the table's own first ("flops / (6 * params)", "`D/N` * N";
    harness.records.expressions). A name that is not mapped is taken as it is. Raises BadInput on a missing column,
    listing what is there, and on text where arithmetic needs numbers.
    """
    wanted = [*needed, *optional]
    for name in mapping:
        if name not in wanted:
            raise BadInput(f"columns.{name} is not used here; {close(name, wanted)}what is used: {listed(wanted)}")
    columns = dict(table.columns)
    notes = list(table.notes)
    for name in wanted:
        if name in mapping:
            columns[name], added = _derived(table, mapping, name)
            notes += added
        elif name not in columns and name in needed:
            raise BadInput(
                f"{table.source} has no column '{name}', which is needed; say which one it is with columns.{name}=COLUMN. "
                f"{_columns_there(table, name)}"
            )
    return replace(table, columns=columns, notes=tuple(dict.fromkeys(notes)))


def _derived(table: Table, mapping: Mapping[str, str], name: str) -> tuple[np.ndarray, list[str]]:
    """The column that `columns.name=…` asks for, and notes on it."""
    text = mapping[name].strip()
    source = _find(table, text[1:-1] if re.fullmatch("`[^`]+`", text) else text)
    if source is not None:
        return table.columns[source], _replaced(table, name, text) if source != name else []
    if not re.search(r"[-+*/()`\d]", text):
        raise _unknown(table, name, text)
    try:
        expression = Expression(text)
    except BadInput as error:
        raise BadInput(f"columns.{name}: {error}. {_columns_there(table, text)}") from None
    others = {other: value for other, value in mapping.items() if other != name}
    inputs: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for word in expression.names:
        inputs[word], added = _input(table, others, name, word)
        notes += added
    values = np.broadcast_to(expression(inputs), len(table)).copy()
    return values, [*notes, f"{name} = {printable(text)}", *_replaced(table, name, text)]


def _input(table: Table, others: Mapping[str, str], name: str, word: str) -> tuple[np.ndarray, list[str]]:
    """Numbers for `word` in the expression for `name`: a column, or one of the `others` that are mapped."""
    notes: list[str] = []
    if word not in table.columns and word in others:
        values, notes = _derived(table, others, word)
        table = replace(table, columns={**table.columns, word: values})
    source = _find(table, word)
    if source is None:
        raise _unknown(table, name, word)
    used = as_numbers(table, [source])
    return used.columns[source], [*notes, *used.notes[len(table.notes) :]]


def _replaced(table: Table, name: str, text: str) -> list[str]:
    if name not in table.columns:
        return []
    return [f"columns.{name}={printable(text)} takes the place of the table's own '{name}'"]


def _find(table: Table, word: str) -> str | None:
    """The column of this name, or the only one whose dotted name ends in it."""
    if word in table.columns:
        return word
    ends = [name for name in table.columns if name.rpartition(".")[2] == word]
    return ends[0] if len(ends) == 1 else None


def as_numbers(table: Table, names: Iterable[str]) -> Table:
    """The table with these columns as float64. Raises BadInput with the first cell that is no number, and its fix."""
    columns = dict(table.columns)
    notes = list(table.notes)
    point = has_fractions(columns.values())
    for name in names:
        if name not in columns:
            raise BadInput(f"{table.source} has no column '{printable(name)}'. {_columns_there(table, name)}")
        if columns[name].dtype != object:
            continue
        values = plain_numbers(columns[name])
        written = written_numbers(columns[name].tolist(), point) if values is None else None
        if written is not None:
            values = written[0]
            notes.append(f"column '{name}' had {written[1]}")
        if values is None:
            row, why = first_fault(columns[name].tolist(), point)
            shown = printable(columns[name][row])
            shown = shown if len(shown) <= 40 else shown[:40] + "…"
            raise BadInput(f"{_where_is(table, row)}: {name} = '{shown}' {why}")
        columns[name] = values
    return replace(table, columns=columns, notes=tuple(notes))


def clean(table: Table, positive: Sequence[str], finite: Sequence[str] = (), apart: Sequence[str] = ()) -> Table:
    """Without the rows in which a column of `positive` is not finite and > 0, or one of `finite` is not finite.

    Each row left out counts under the first reason that holds ("loss is not finite"). Rows equal in all these columns and
    those of `apart` (labels, or numbers that may be missing) stay and are noted. Raises BadInput on text in one of them,
    and if no row is left.
    """
    names = list(dict.fromkeys([*positive, *finite]))
    table = as_numbers(table, names)
    keep = np.ones(len(table), bool)
    dropped: dict[str, int] = {}
    with np.errstate(invalid="ignore"):
        tests = [(f"{name} is not finite", np.isfinite(table.columns[name])) for name in names]
        tests += [(f"{name} is not positive", table.columns[name] > 0) for name in dict.fromkeys(positive)]
    for reason, good in tests:
        count = int(np.sum(keep & ~good))
        keep &= good
        if count:
            dropped[reason] = count
    if not keep.any():
        reasons = "; ".join(f"{reason}: {count}" for reason, count in {**table.dropped, **dropped}.items())
        raise BadInput(
            f"no usable row is left of the {table.rows_read} in {table.source} ({reasons}); correct the table or columns.*"
        )
    table = _kept(table, keep, dropped)
    names += [name for name in apart if name not in names]
    repeated = _repeated(table, names)
    if not repeated:
        return table
    verb = "row repeats" if repeated == 1 else "rows repeat"
    return replace(table, notes=(*table.notes, f"{repeated} {verb} another in all of {', '.join(names)}; kept"))


def _repeated(table: Table, names: Sequence[str]) -> int:
    if not names:
        return 0
    codes = np.stack([np.unique(table.columns[name], return_inverse=True)[1] for name in names], axis=1)
    return len(codes) - len(np.unique(codes, axis=0))


def where(table: Table, expression: str) -> Table:
    """The rows that meet a DuckDB SQL condition on the columns (harness.records.query); the others are counted.

    Names that are not plain words go in double quotes ("Model Size" > 1e6). A missing number is NaN, which is above all
    others. Raises BadInput on bad SQL, and if no row is left.
    """
    if not expression.strip():
        return table
    names = Names(_told_apart(list(table.columns), expression))
    used = names.columns_of(expression) or set(names.columns[:1])
    columns = {
        name: pa.array(values.tolist() if values.dtype == object else values)
        for name, values in table.columns.items()
        if name in used
    }
    keep = np.zeros(len(table), bool)
    keep[select(pa.table(columns), names, expression)] = True
    if not keep.any():
        raise BadInput(f"where={expression} keeps none of the {len(table)} rows of {table.source}; loosen it")
    left_out = int(np.sum(~keep))
    return _kept(table, keep, {f"where: {expression}": left_out} if left_out else {})


def _told_apart(names: Sequence[str], expression: str) -> list[str]:
    """SQL takes N and n for the same name: of such columns, the one that is written in the expression."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.lower(), []).append(name)
    chosen = []
    for group in groups.values():
        written = [name for name in group if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", expression)]
        if len(written) > 1:
            raise BadInput(
                f"where takes {listed(written)} for the same column, since SQL ignores case; use one of them"
            )
        chosen.append((written or group)[0])
    return chosen


def _kept(table: Table, keep: np.ndarray, dropped: Mapping[str, int]) -> Table:
    counts = dict(table.dropped)
    for reason, count in dropped.items():
        counts[reason] = counts.get(reason, 0) + count
    columns = {name: values[keep] for name, values in table.columns.items()}
    rows = np.arange(1, len(table) + 1) if table.rows is None else table.rows
    return replace(table, columns=columns, dropped=counts, rows=rows[keep])


def _where_is(table: Table, index: int) -> str:
    row = index + 1 if table.rows is None else int(table.rows[index])
    file = f" of {printable(table.columns[FILE][index])}" if FILE in table.columns else ""
    return f"{table.source}, {table.place} {row}{file}"


def _unknown(table: Table, name: str, word: str) -> BadInput:
    return BadInput(f"columns.{name}: {table.source} has no column '{printable(word)}'. {_columns_there(table, word)}")


def _columns_there(table: Table, word: str) -> str:
    return f"{close(word, table.columns)}Columns there: {listed(table.columns)}."


def close(word: str, valid: Iterable[str]) -> str:
    """The nearest name, whatever its case, as a question; empty if none is near."""
    lower = {name.lower(): name for name in valid}
    found = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f"Did you mean '{printable(lower[found[0]])}'? " if found else ""


def listed(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
