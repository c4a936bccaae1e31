"""What two studies recorded, without what two runs of one study may differ in: when, where and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.records.store import Store

_OF_THE_RUN = {"attempt", "started_at", "finished_at", "code_version"}


def content(root: Path, without: Sequence[str] = ()) -> tuple[list[dict[str, Any]], pa.Table]:
    """(rows, curves) of a study, floats as their bits, without some columns of the rows."""
    store = Store(root)
    table = store.trials()
    kept = [name for name in table.column_names if name not in {*_OF_THE_RUN, *without} and not name.endswith("_s")]
    curves = store.curves().set_column(0, "trial", store.curves()["trial"].cast(pa.string()))
    return _bits(table.select(kept)).to_pylist(), _bits(curves).sort_by([("trial", "ascending"), ("step", "ascending")])


def _bits(table: pa.Table) -> pa.Table:
    for index, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table.column(index).combine_chunks()
            integers = pa.int64() if field.type == pa.float64() else pa.int32()
            table = table.set_column(index, field.name, pc.if_else(column.is_valid(), _view(column, integers), None))
    return table


def _view(column: pa.Array, integers: pa.DataType) -> pa.Array:
    return column.fill_null(0.0).view(integers)
