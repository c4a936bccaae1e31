"""Files that may hold a table of runs, read into columns of cells: CSV, TSV, JSON, JSON Lines, Parquet, our own studies."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.records.cells import plain_numbers
from harness.records.store import PUBLISHED, Store
from harness.records.text import printable
from workloads.base import BadInput

Column = np.ndarray | list[Any]


@dataclass(frozen=True)
class Cells:
    """columns: name -> (n,) array whose type is known, or list of n cells (str, int, float; missing "") to be parsed.

    rows: (n,) int64, where each row stands in its source. place: what these numbers count ("line" or "row").
    """

    columns: Mapping[str, Column]
    rows: np.ndarray
    place: str


def read_file(path: Path) -> Cells:
    """The cells of one file. Raises BadInput if it is not what its name says or holds no rows, OSError as the disk does."""
    read = READERS.get(kind_of(path))
    if read is None:
        raise BadInput(
            f"{path} is not a kind of table that can be read; the name must end in {', '.join(READERS)} (or one of them "
            "with .gz). Export spreadsheets as CSV"
        )
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is not a whole gzip file ({error}); make it again") from None
    if not content.strip():
        raise BadInput(f"{path} is empty; a table of runs needs a header and one row per run")
    return _checked(path, read(path, content))


def read_study(path: Path) -> Cells:
    """The trials of one of our studies. Raises BadInput if it has none yet."""
    return _checked(path, _from_arrow(Store(path).trials(), parse_text=False))


def is_study(path: Path) -> bool:
    return (path / "trials").is_dir() or (path / PUBLISHED).is_file()


def kind_of(path: Path) -> str:
    """The suffix that tells the format: ".csv" for "a.csv" and for "a.csv.gz"."""
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def _checked(path: Path, cells: Cells) -> Cells:
    if not len(cells.rows):
        raise BadInput(f"{path} has no rows; a table of runs needs one row per run")
    return cells


def _decoded(path: Path, content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(f"{path} is UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{path} is not UTF-8 text (line {line}: byte 0x{content[error.start]:02x}); save it as UTF-8, for example "
            "with iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        raise BadInput(f"{path} holds zero bytes, so it is not text; export it as CSV in UTF-8")
    return text


def _read_csv(path: Path, content: bytes) -> Cells:
    text = _decoded(path, content)
    delimiter = "\t" if kind_of(path) == ".tsv" else _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = [name.strip() for name in next(row for row in reader if any(row))]
        for row in reader:
            if len(row) == len(header):
                rows.append(row)
                lines.append(reader.line_num)
            elif any(row):
                raise _ragged(path, reader.line_num, row, header, delimiter)
    except StopIteration:
        raise BadInput(f"{path} is empty; a table of runs needs a header and one row per run") from None
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}; check the quotes there") from None
    columns = dict(zip(_header(path, header), map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    return Cells(columns, np.array(lines, np.int64), "line")


def _delimiter(text: str) -> str:
    """The one that splits the first line most; a comma where that is a tie."""
    first = text.lstrip().splitlines()[0]
    try:
        return max(",;\t", key=lambda delimiter: len(next(csv.reader([first], delimiter=delimiter))))
    except csv.Error:
        return ","


def _header(path: Path, names: Sequence[str]) -> list[str]:
    """Column names; the nameless ones (an index that pandas wrote) are called column_1, column_2 …"""
    if plain_numbers(names) is not None:
        raise BadInput(f"{path} begins with numbers; its first line must name the columns")
    named = [name or f"column_{position}" for position, name in enumerate(names, 1)]
    _refuse_repeated(str(path), named)
    return named


def _refuse_repeated(source: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise BadInput(f"{source} has more than one column called '{printable(repeated[0])}'; rename or remove one")


def _ragged(path: Path, line: int, row: Sequence[str], header: Sequence[str], delimiter: str) -> BadInput:
    named = "tab" if delimiter == "\t" else f"'{delimiter}'"
    return BadInput(
        f"{path}, line {line} has {len(row)} cells, but the header has {len(header)}; a value that contains {named} "
        'needs quotes ("1,234"), and an empty cell still needs its delimiter'
    )


def _read_jsonl(path: Path, content: bytes) -> Cells:
    records: list[Any] = []
    lines: list[int] = []
    for number, line in enumerate(_decoded(path, content).split("\n"), 1):
        if line.strip():
            records.append(_loaded(f"{path}, line {number}", line))
            lines.append(number)
    return _from_records(path, records, lines, "line")


def _read_json(path: Path, content: bytes) -> Cells:
    records = _loaded(str(path), _decoded(path, content), "; if it has one record per line, call it .jsonl")
    if not isinstance(records, list):
        raise BadInput(f'{path} must hold a list of records, [{{"params": 1e6, "loss": 3.1}}, …]')
    return _from_records(path, records, range(1, len(records) + 1), "row")


def _loaded(where: str, text: str, hint: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not valid JSON ({error}){hint}") from None


def _from_records(path: Path, records: Sequence[Any], rows: Sequence[int], place: str) -> Cells:
    columns: dict[str, list[Any]] = {}
    for index, record in enumerate(records):
        where = f"{path}, {place} {rows[index]}"
        if not isinstance(record, dict):
            raise BadInput(f"{where} is {type(record).__name__}, not a record: it must be an object of column: value")
        for name, value in _flat(record):
            column = columns.setdefault(name, [])
            if len(column) > index:
                raise BadInput(f"{where} has '{printable(name)}' twice, as a dotted name and nested; rename one")
            column.extend([""] * (index - len(column)))
            column.append(_cell(value))
    for column in columns.values():
        column.extend([""] * (len(records) - len(column)))
    return Cells(columns, np.array(rows, np.int64), place)


_PACKED = frozenset({"config", "summary", "summaryMetrics", "summary_metrics", "json_config"})
"""What W&B's interfaces hand out as JSON inside of a string."""


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested objects as dotted names; W&B's {"value": x, "desc": …} as x, its own bookkeeping (_wandb) left out."""
    for key, value in record.items():
        if key in _PACKED and isinstance(value, str) and value.lstrip().startswith("{"):
            with suppress(ValueError, RecursionError):
                value = json.loads(value)
        if isinstance(value, dict) and "value" in value and value.keys() <= {"value", "desc"}:
            value = value["value"]
        if isinstance(value, dict):
            if key != "_wandb":
                yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (bool, list)):
        return json.dumps(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="replace").decode()  # JSON can hold half a character, which is no text
    return value


def _read_parquet(path: Path, content: bytes) -> Cells:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); write it again"
        ) from None
    return _from_arrow(table, parse_text=True)


def _from_arrow(table: pa.Table, parse_text: bool) -> Cells:
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    _refuse_repeated("the table", table.column_names)
    columns: dict[str, Column] = {}
    for name in table.column_names:
        column = _from_arrow_column(table.column(name))
        typed = isinstance(column, np.ndarray) or parse_text
        columns[name] = column if typed else np.array(column, object)
    return Cells(columns, np.arange(1, table.num_rows + 1), "row")


def _from_arrow_column(column: pa.ChunkedArray) -> Column:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    try:
        return column.cast(pa.string()).fill_null("").to_pylist()
    except pa.ArrowException:  # lists, maps, bytes
        return ["" if value is None else json.dumps(value, default=str) for value in column.to_pylist()]


READERS: dict[str, Callable[[Path, bytes], Cells]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
}
