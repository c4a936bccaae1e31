"""From a user's table to the points that a law or a procedure takes; nothing is dropped without a count and a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.records.importers import Table, clean, read_table, select_columns, where
from harness.records.table import as_numbers
from workloads.base import BadInput

ROLES = ("weights", "stderr", "cluster")


@dataclass
class Outliers:
    """Which points are left out before fitting. drop_highest, drop_lowest: that many of the response."""

    drop_highest: int = 0
    drop_lowest: int = 0


@dataclass
class Source:
    """Where the points come from.

    runs: CSV, TSV, Parquet, JSONL, JSON (also .gz), W&B export, a study folder, or a pattern of files ("curves/*.csv").
    columns: wanted name -> column of the table, or arithmetic on columns. where: SQL condition of rows to use.
    held_out: SQL condition of rows that are only predicted. weights, stderr, cluster: columns.
    """

    runs: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    where: str = ""
    held_out: str = ""
    weights: str = ""
    stderr: str = ""
    cluster: str = ""
    outliers: Outliers = field(default_factory=Outliers)


@dataclass(frozen=True)
class Points:
    """columns: name -> (n,); held_out: the same of the rows only predicted, or None. data: fit.json's account of the rows."""

    columns: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray] | None
    data: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.data["notes"])


def read_points(
    source: Source,
    needed: Sequence[str],
    *,
    text: Sequence[str] = (),
    optional: Sequence[str] = (),
    may_be_zero: Sequence[str] = (),
    may_lack: Sequence[str] = (),
    response: str | None = None,
) -> Points:
    """The rows of source.runs with finite, positive numbers in `needed`.

    text: those of the columns that are labels. optional: columns taken if they are there. may_be_zero: finite numbers of any
    sign. may_lack: numbers that a row need not have (the loss of a row that only describes a schedule). response: what
    outliers are judged by.
    Raises BadInput on missing columns, on numbers that are none, and where no row is left.
    """
    if not source.runs:
        raise BadInput("which table? runs=FILE takes CSV, TSV, Parquet, JSONL, JSON or a study's folder")
    table = read_table(source.runs)
    roles = {role: column for role in ROLES if (column := getattr(source, role))}
    wanted = (*needed, *roles)
    table = select_columns(table, {**source.columns, **roles}, wanted, optional)
    if source.where:
        table = where(table, source.where)
    held = where(table, source.held_out) if source.held_out else None
    if source.held_out:
        table = where(table, f"NOT ({source.held_out})")
    present = [name for name in optional if name in table.columns]
    labels = {*text, "cluster"}
    loose = {*labels, *may_be_zero, *may_lack}
    strict = [name for name in (*needed, *present, *roles) if name not in loose]
    finite = [name for name in may_be_zero if name in (*needed, *present)]
    apart = [name for name in (*needed, *present) if name in loose]
    table = clean(as_numbers(table, may_lack), strict, finite, apart)
    table = _without_outliers(table, response, source.outliers)
    names = [*wanted, *present]
    taken = {name: table.columns[name] for name in names}
    data = {
        "source": table.source,
        "rows_read": table.rows_read,
        "rows_used": len(table),
        "dropped": dict(table.dropped),
        "columns": dict(source.columns) | roles,
        "where": source.where or None,
        "held_out": source.held_out or None,
        "outliers": {"drop_highest": source.outliers.drop_highest, "drop_lowest": source.outliers.drop_lowest},
        "notes": list(table.notes),
    }
    if held is None:
        return Points(taken, None, data)
    held = clean(as_numbers(held, may_lack), strict, finite)
    return Points(taken, {name: held.columns[name] for name in names}, data)


def _without_outliers(table: Table, response: str | None, outliers: Outliers) -> Table:
    asked = {"highest": outliers.drop_highest, "lowest": outliers.drop_lowest}
    if min(asked.values()) < 0:
        raise BadInput("outliers.drop_highest and outliers.drop_lowest count points; they cannot be negative")
    if not any(asked.values()):
        return table
    if response is None:
        raise BadInput("outliers.* need one response to judge by; this estimate has none: use where= instead")
    if sum(asked.values()) >= len(table):
        raise BadInput(f"outliers.* would drop {sum(asked.values())} of {len(table)} rows")
    order = np.argsort(table.columns[response], kind="stable")
    keep = np.ones(len(table), bool)
    keep[order[: asked["lowest"]]] = False
    keep[order[len(table) - asked["highest"] :]] = False
    dropped = {f"outliers: {count} {which} {response}": count for which, count in asked.items() if count}
    columns = {name: column[keep] for name, column in table.columns.items()}
    rows = None if table.rows is None else table.rows[keep]
    return replace(table, columns=columns, dropped={**table.dropped, **dropped}, rows=rows)


def broadcast_lists(given: Mapping[str, str], names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """`what.N=1e9,1e10 what.D=2e11` as columns of equal length; one value serves all. Raises BadInput on other words."""
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        raise BadInput(
            f"{what} needs a list of numbers for each of {', '.join(names)}, e.g. {what}.{names[0]}=1e9,1e10"
        )
    columns = {name: numbers(f"{what}.{name}", given[name]) for name in names}
    length = max(column.size for column in columns.values())
    uneven = [name for name, column in columns.items() if column.size not in (1, length)]
    if uneven:
        raise BadInput(f"{what}.{uneven[0]} has {columns[uneven[0]].size} values where others have {length}")
    return {name: np.broadcast_to(column, length).copy() for name, column in columns.items()}


def numbers(key: str, text: str) -> np.ndarray:
    """A comma list of finite positive numbers, or BadInput."""
    try:
        values = np.array([float(word) for word in str(text).split(",")])
    except ValueError:
        raise BadInput(f"{key}={text} must be a comma list of numbers, e.g. 1e9,1e10") from None
    if not np.all(np.isfinite(values) & (values > 0)):
        raise BadInput(f"{key}={text}: every number must be finite and positive")
    return values
