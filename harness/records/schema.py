"""The columns of the records: the fixed part in one place, the configuration inferred, drift between files resolved."""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

VERSION = 1
VERSION_KEY = b"windtunnel.records"

FINISHED = ("ok", "diverged")
STATUSES = (*FINISHED, "stopped", "failed")

KEY = ("trial", "status", "attempt")
"""What decides which of a trial's rows counts."""

TRIALS = pa.schema(
    [
        ("trial", pa.string()),  # 16 hex digits
        ("attempt", pa.string()),  # the fragment that recorded it; ordered by time
        ("study", pa.string()),
        ("status", pa.string()),
        ("seed", pa.int64()),
        ("data_seed", pa.int64()),
        ("initial_loss", pa.float64()),  # losses in the workload's unit; NaN is a result
        ("final_loss", pa.float64()),  # validation
        ("best_loss", pa.float64()),  # validation
        ("test_loss", pa.float64()),
        ("final_metric", pa.float64()),
        ("best_metric", pa.float64()),
        ("test_metric", pa.float64()),
        ("diverged_step", pa.int64()),
        ("params", pa.int64()),
        ("horizon", pa.int64()),  # steps asked for
        ("steps", pa.int64()),  # steps done
        ("tokens", pa.int64()),
        ("flops", pa.float64()),  # XLA's cost analysis of the single step x steps
        ("flops_6nd", pa.float64()),  # 6 x params x tokens
        ("matmul_flops", pa.float64()),  # of the matrix multiplications alone, counted by hand
        ("compile_s", pa.float64()),  # clocks: this trial's share of its pack's seconds
        ("data_s", pa.float64()),
        ("train_s", pa.float64()),
        ("eval_s", pa.float64()),
        ("checkpoint_s", pa.float64()),
        ("records_s", pa.float64()),
        ("pack", pa.string()),
        ("pack_size", pa.int64()),
        ("device", pa.string()),
        ("devices", pa.int64()),
        ("xla_flags", pa.string()),
        ("data_sha256", pa.string()),
        ("code_version", pa.string()),
        ("packages", pa.string()),  # JSON: name -> version
        ("started_at", pa.string()),  # ISO 8601, UTC
        ("finished_at", pa.string()),
        ("error", pa.string()),
        ("config", pa.string()),  # JSON: the full resolved configuration
    ]
)

CURVES = pa.schema(
    [
        ("trial", pa.dictionary(pa.int32(), pa.string())),
        ("attempt", pa.dictionary(pa.int32(), pa.string())),
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("lr", pa.float32()),
        ("train_loss", pa.float32()),
        ("eval_loss", pa.float32()),  # null where nothing was evaluated
        ("eval_metric", pa.float32()),
    ]
)


class Drift(ValueError):
    """A column of the fixed schema holds something else."""


def trials_table(rows: Sequence[Mapping[str, Any]], attempt: str) -> pa.Table:
    """Rows as written by the engine -> table: fixed columns cast to their types, the others inferred.

    Raises ValueError if a row has no 16-hex `trial`, an unknown `status`, or a value that its fixed column cannot hold.
    """
    for row in rows:
        _check_row(row)
    names = dict.fromkeys([*TRIALS.names, *(name for row in rows for name in row)])
    columns = {name: [row.get(name) for row in rows] for name in names}
    columns["attempt"] = [attempt] * len(rows)
    return pa.table(
        {name: _column(name, values) for name, values in columns.items()},
        metadata={VERSION_KEY: str(VERSION).encode()},
    )


def _check_row(row: Mapping[str, Any]) -> None:
    trial, status = row.get("trial"), row.get("status")
    if not (isinstance(trial, str) and len(trial) == 16 and set(trial) <= set("0123456789abcdef")):
        raise ValueError(f"trial={trial!r} must be 16 hexadecimal digits")
    if status not in STATUSES:
        raise ValueError(f"trial {trial}: status={status!r} must be one of {', '.join(STATUSES)}")


def _column(name: str, values: list[Any]) -> pa.Array:
    values = [_native(value) for value in values]
    if name not in TRIALS.names:
        return _inferred(values)
    kind = TRIALS.field(name).type
    try:
        return pa.array([_coerce(value, kind) for value in values], kind, from_pandas=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"column '{name}' must hold {kind}: {error}") from None


def _coerce(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_integer(kind):
        whole = int(value)
        if whole != value:
            raise ValueError(f"{value!r} is not a whole number")
        return whole
    if pa.types.is_floating(kind):
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)


def _native(value: Any) -> Any:
    """Plain Python for numpy scalars; strings that UTF-8 cannot hold are escaped."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    return value


def _inferred(values: list[Any]) -> pa.Array:
    present = [value for value in values if value is not None]
    if not present:
        return pa.nulls(len(values))
    if all(isinstance(value, bool) for value in present):
        return pa.array(values, pa.bool_())
    if all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in present):
        if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present):
            return pa.array(values, pa.int64())
        return pa.array([_as_float(value) for value in values], pa.float64(), from_pandas=False)
    texts = [value if value is None or isinstance(value, str) else _native(json.dumps(value)) for value in values]
    return pa.array(texts, pa.string())


def _as_float(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def curves_table(curves: Mapping[str, Mapping[str, Any]], attempt: str) -> pa.Table:
    """Trial id -> column -> 1-D array, as a long table; entries masked in numpy masked arrays become null, NaN stays.

    Raises ValueError if a curve has no `step` or its columns differ in length.
    """
    tables = [_curve(trial, columns, attempt) for trial, columns in curves.items()]
    return unify(tables).replace_schema_metadata({VERSION_KEY: str(VERSION).encode()})


def _curve(trial: str, columns: Mapping[str, Any], attempt: str) -> pa.Table:
    if "step" not in columns:
        raise ValueError(f"the curve of trial {trial} has no 'step'")
    points = len(columns["step"])
    data: dict[str, pa.Array] = {}
    for name in dict.fromkeys([*CURVES.names, *columns]):
        kind = CURVES.field(name).type if name in CURVES.names else None
        if name in ("trial", "attempt"):
            value = trial if name == "trial" else attempt
            data[name] = pa.DictionaryArray.from_arrays(np.zeros(points, np.int32), pa.array([value]))
        elif name not in columns:
            data[name] = pa.nulls(points, kind)
        elif len(columns[name]) != points:
            raise ValueError(f"the curve of trial {trial} has {points} steps but {len(columns[name])} of '{name}'")
        else:
            data[name] = _points(columns[name], kind)
    return pa.table(data)


def _points(values: Any, kind: pa.DataType | None) -> pa.Array:
    array = np.ma.asarray(values)
    mask = np.ma.getmaskarray(array)
    plain = np.where(mask, np.zeros((), array.dtype), array.data)
    if kind is not None:
        plain = plain.astype(kind.to_pandas_dtype())
    return pa.array(plain, kind, mask=mask, from_pandas=False)


def conform(table: pa.Table, fixed: pa.Schema) -> pa.Table:
    """The table with its fixed columns in their types, metadata dropped. Raises Drift if one cannot be cast."""
    table = table.replace_schema_metadata(None)
    for index, field in enumerate(table.schema):
        position = fixed.get_field_index(field.name)
        if position < 0 or field.type == (kind := fixed.field(position).type):
            continue
        try:
            table = table.set_column(index, field.name, table.column(index).cast(kind))
        except pa.ArrowException as error:
            raise Drift(f"column '{field.name}' holds {field.type}, not {kind} ({error})") from None
    return table


def unify(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of all rows, columns matched by name; absent ones null, types promoted (numbers to float, else text).

    Raises nothing on drift: any two types have a common one.
    """
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid:
        pass  # the schemas differ
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    schema = pa.schema([(name, _common(found)) for name, found in kinds.items()])
    return pa.concat_tables([_fit(table, schema) for table in tables])


def _common(kinds: Iterable[pa.DataType]) -> pa.DataType:
    found = [kind for kind in kinds if not pa.types.is_null(kind)]
    if len(found) == 1:
        return found[0]
    if not found:
        return pa.null()
    numeric = all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in found)
    return pa.float64() if numeric else pa.string()


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        position = table.schema.get_field_index(field.name)
        if position < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            columns.append(_convert(table.column(position), field.type))
    return pa.table(columns, schema=schema)


def _convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_integer(column.type) and pa.types.is_floating(kind):
        return column.cast(kind, safe=False)  # beyond 2^53 the nearest float
    try:
        return column.cast(kind)
    except pa.ArrowException:  # nested columns of a foreign file
        texts = [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
