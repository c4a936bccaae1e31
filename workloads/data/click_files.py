"""Click logs from files in the format of Criteo's data sets: label, 13 integers, 26 hexadecimal categories.

TSV: 40 columns apart by tabs, no header, fields may be empty; plain or .gz. Parquet: the same 40 columns in the same order,
under any names, categories as hexadecimal strings or as integers.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workloads.base import BadInput
from workloads.data.clicks import EXAMPLES, SPLITS, Clicks
from workloads.data.corpus import FRACTIONS

INTEGERS, CATEGORIES = 13, 26
LAYOUT = f"label (0 or 1), {INTEGERS} integers, {CATEGORIES} hexadecimal categories"
MOST_ROWS = 8_000_000  # 1.3 GB on the device
_MISSING = 0  # the category of an empty field

Stamp = tuple[str, int, int]  # path, bytes, modification time in ns


def load(written: str, hash_buckets: int) -> Clicks:
    """The click log in a file, a folder or a glob, files in the order of their names (day_2 before day_10); cached per process.

    A category's row is 1 + its number modulo (hash_buckets - 1); row 0 of every field is for empty fields. Integers n become
    log(1 + max(n, 0)), empty ones 0. The last 10% of the rows are held out, the first half of them for validation, as later
    days are in AlgoPerf; where that is more than a generated split has, rows spread evenly over it.
    Raises BadInput where files are missing, unreadable, empty or malformed, or have more than MOST_ROWS rows.
    """
    if hash_buckets < 2:
        raise BadInput(f"workload.hash_buckets={hash_buckets} must be at least 2: one is for empty fields")
    files = _resolve(written)
    if not files:
        raise BadInput(
            f"workload.data=path:{written}: no file there. Give TSV or Parquet files with the columns {LAYOUT}"
        )
    kinds = {path.suffix == ".parquet" for path in files}
    if len(kinds) > 1:
        raise BadInput(
            f"workload.data=path:{written} mixes .parquet with other files: name one kind, e.g. with *.parquet"
        )
    stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _cached(stamps, hash_buckets)


def _resolve(written: str) -> list[Path]:
    path = Path(written).expanduser()
    found = path.iterdir() if written and path.is_dir() else map(Path, glob.glob(os.path.expanduser(written)))
    return sorted((file for file in found if file.is_file() and not file.name.startswith(".")), key=_natural)


def _natural(path: Path) -> tuple[list[list[tuple[int, int]]], Path]:
    """A sort key: as text, but runs of digits by their numbers, so that later days come last."""
    runs = [re.findall(r"[0-9]+|[^0-9]", part) for part in path.parts]
    return [[(ord("0"), int(run)) if run[0] in "0123456789" else (ord(run), 0) for run in part] for part in runs], path


@functools.lru_cache(maxsize=2)
def _cached(stamps: tuple[Stamp, ...], hash_buckets: int) -> Clicks:
    files = [Path(name) for name, _, _ in stamps]
    tables: list[Any] = []
    for path in files:
        tables.append(_read(path, sum(table.num_rows for table in tables)))
    parts = [_columns(path, table, hash_buckets) for path, table in zip(files, tables, strict=True)]
    labels, counts, ids = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    rows = _split_rows(len(labels))
    for split, chosen in rows.items():
        if len(np.unique(labels[chosen])) < 2:
            raise BadInput(
                f"the {split} split of the click log has {len(chosen)} rows, and not both clicks and others; give more rows"
            )
    info = {
        "source": [path.name for path in files],
        "sha256": _digest(files),
        "hash_buckets": hash_buckets,
        "examples": {split: len(chosen) for split, chosen in rows.items()},
        "click_rate": {split: float(labels[chosen].mean()) for split, chosen in rows.items()},
        "split": "contiguous blocks of 90/5/5 % of the rows in file order, long held-out blocks thinned evenly",
    }
    offsets = (np.arange(CATEGORIES) * hash_buckets).astype(np.int32)
    return Clicks(
        {split: ids[chosen] + offsets for split, chosen in rows.items()},
        {split: counts[chosen] for split, chosen in rows.items()},
        {split: labels[chosen] for split, chosen in rows.items()},
        (hash_buckets,) * CATEGORIES,
        info,
    )


def _split_rows(total: int) -> dict[str, np.ndarray]:
    blocks = np.split(np.arange(total), np.round(total * np.cumsum(FRACTIONS)[:-1]).astype(int))
    found = dict(zip(SPLITS, blocks, strict=True))
    for split in SPLITS[1:]:
        if len(found[split]) > EXAMPLES[split]:
            found[split] = found[split][np.linspace(0, len(found[split]) - 1, EXAMPLES[split]).astype(int)]
    return found


def _read(path: Path, before: int) -> Any:
    """One file as a table of 40 columns: floats for the label and the integers, then strings or integers.

    It is refused, before all of it is in memory, where it and the rows `before` it are more than MOST_ROWS.
    """
    import pyarrow as pa

    try:
        table = _read_parquet(path, before) if path.suffix == ".parquet" else _read_tsv(path, before)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"click log '{path}' cannot be read ({reason}); its columns must be: {LAYOUT}") from None
    if not table.num_rows or table.num_columns != 1 + INTEGERS + CATEGORIES:
        raise BadInput(
            f"click log '{path}' has {table.num_rows} rows of {table.num_columns} columns; at least one row of "
            f"{1 + INTEGERS + CATEGORIES} is needed: {LAYOUT}"
        )
    return table


def _read_parquet(path: Path, before: int) -> Any:
    from pyarrow import parquet

    _check_rows(path, before, parquet.read_metadata(path).num_rows)
    return parquet.read_table(path)


def _read_tsv(path: Path, before: int) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    names = [f"c{i}" for i in range(1 + INTEGERS + CATEGORIES)]
    types = {name: pa.string() if i > INTEGERS else pa.float64() for i, name in enumerate(names)}
    batches, rows = [], 0
    with csv.open_csv(
        path,
        csv.ReadOptions(column_names=names),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
    ) as reader:
        for batch in reader:
            batches.append(batch)
            rows += batch.num_rows
            _check_rows(path, before, rows)
        return pa.Table.from_batches(batches, reader.schema)


def _check_rows(path: Path, before: int, rows: int) -> None:
    if before + rows <= MOST_ROWS:
        return
    if before:
        raise BadInput(f"the click logs up to '{path}' have more than {MOST_ROWS} rows: name fewer files")
    if path.suffix == ".parquet":
        raise BadInput(f"click log '{path}' has {rows} rows, more than {MOST_ROWS}: write fewer rows to it")
    lines = f"zcat '{path}' | head -n {MOST_ROWS}" if path.suffix == ".gz" else f"head -n {MOST_ROWS} '{path}'"
    raise BadInput(f"click log '{path}' has more than {MOST_ROWS} rows: cut it, e.g. {lines} > part.tsv")


def _columns(path: Path, table: Any, hash_buckets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) labels, (N, 13) log counts, (N, 26) categories below hash_buckets."""
    labels = _numbers(path, table, 0)
    if not np.isin(labels, (0.0, 1.0)).all():
        raise BadInput(
            f"click log '{path}' has labels that are neither 0 nor 1 in its first column; expected: {LAYOUT}"
        )
    numbers = np.stack([_numbers(path, table, 1 + i) for i in range(INTEGERS)], axis=1)
    ids = [_hashed(path, table, 1 + INTEGERS + i, hash_buckets) for i in range(CATEGORIES)]
    return labels.astype(np.float32), np.log1p(np.maximum(numbers, 0.0)).astype(np.float32), np.stack(ids, axis=1)


def _numbers(path: Path, table: Any, column: int) -> np.ndarray:
    """A column as (N,) float64, empty fields as 0 (which an empty label is not)."""
    import pyarrow as pa

    try:
        values = table.column(column).cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise BadInput(f"click log '{path}', column {column + 1} is no number ({error}); expected: {LAYOUT}") from None
    return values if column == 0 else np.nan_to_num(values, nan=0.0)


def _hashed(path: Path, table: Any, column: int, hash_buckets: int) -> np.ndarray:
    """A column of categories as (N,) int32 rows of its table."""
    import pyarrow as pa

    try:
        encoded = table.column(column).combine_chunks().dictionary_encode()
    except pa.ArrowException:
        raise BadInput(
            f"click log '{path}', column {column + 1} ('{table.column_names[column]}') is of type "
            f"{table.column(column).type}, no category: store hexadecimal strings or integers; expected: {LAYOUT}"
        ) from None
    rows = np.full(len(encoded.dictionary) + 1, _MISSING, np.int32)  # the last one stands for null
    for i, value in enumerate(encoded.dictionary.to_pylist()):
        if value is None or value == "":
            continue
        try:
            rows[i] = 1 + (int(value, 16) if isinstance(value, str) else int(value)) % (hash_buckets - 1)
        except (ValueError, TypeError):
            raise BadInput(
                f"click log '{path}', column {column + 1} has '{value}', no hexadecimal number; expected: {LAYOUT}"
            ) from None
    return rows[encoded.indices.fill_null(len(rows) - 1).to_numpy(zero_copy_only=False)]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()
