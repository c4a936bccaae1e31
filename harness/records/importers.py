"""Anybody's table of runs, from files of many kinds.

table = read_table("points.csv")
table = select_columns(table, {"N": "params", "D": "flops / (6 * params)"}, needed=("N", "D", "loss"))
table = clean(table, positive=("N", "D", "loss"))
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.cells import has_fractions, plain_numbers, written_numbers
from harness.records.formats import READERS, Cells, Column, is_study, kind_of, read_file, read_study
from harness.records.table import FILE, Table, clean, close, listed, select_columns, where
from workloads.base import BadInput

__all__ = ["FILE", "Table", "clean", "read_table", "select_columns", "where"]

_UNFINISHED = frozenset(
    {"crashed", "failed", "killed", "running", "pending", "preempted", "preempting", "stopped", "diverged"}
)
_FINISHED = frozenset({"finished", "ok"})


def read_table(source: str | Path) -> Table:
    """Read .csv, .tsv, .parquet, .jsonl, .ndjson, .json (all also as .gz), or a folder of one of our studies.

    Nested JSON, such as runs of W&B with their config and summary, gets dotted names (config.lr). A pattern such as
    "runs/*.csv" reads several of these one after the other and adds a column `file`: the name without suffix, or the
    path below what they share where names repeat. Texts that are numbers ("1,234", "70M"; harness.records.cells) become
    numbers, which is noted. Raises BadInput on what is not there, cannot be read, or has no rows.
    """
    path = Path(source).expanduser()
    try:
        if not path.exists() and glob.has_magic(str(path)):
            return _read_several(str(path))
        return _table(_read_one(path), str(path), ())
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None


def _read_one(path: Path) -> Cells:
    if path.is_dir():
        if is_study(path):
            return read_study(path)
        raise _no_study(path)
    if not path.exists():
        raise _no_file(path)
    return read_file(path)


def _read_several(pattern: str) -> Table:
    paths = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not paths:
        raise _no_file(Path(pattern))
    pieces = [_read_one(path) for path in paths]
    if any(FILE in piece.columns for piece in pieces):
        raise BadInput(
            f"{pattern}: a column '{FILE}' is added where several files are read, and they have one; rename it"
        )
    columns, notes = _joined(pieces, [str(path) for path in paths])
    names = [np.full(len(piece.rows), name, object) for piece, name in zip(pieces, _labels(paths), strict=True)]
    columns[FILE] = np.concatenate(names)
    rows = np.concatenate([piece.rows for piece in pieces])
    places = {piece.place for piece in pieces}
    return _table(Cells(columns, rows, places.pop() if len(places) == 1 else "row"), pattern, notes)


def _labels(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its stem; where stems repeat, what distinguishes the paths."""
    stems = [_stem(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    shared = 0
    while len({path.parts[shared] for path in paths}) == 1:
        shared += 1
    below = [Path(*path.parts[shared:]) for path in paths]
    labels = [(path.parent / _stem(path)).as_posix() for path in below]
    return labels if len(set(labels)) == len(labels) else [path.as_posix() for path in below]


def _stem(path: Path) -> str:
    return Path(path.stem if path.suffix == ".gz" else path.name).stem if not path.is_dir() else path.name


def _joined(pieces: Sequence[Cells], sources: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
    """The columns of all pieces one after the other, and a note for each that some piece lacks."""
    columns: dict[str, Column] = {}
    notes = []
    for name in dict.fromkeys(name for piece in pieces for name in piece.columns):
        lacking = [source for piece, source in zip(pieces, sources, strict=True) if name not in piece.columns]
        if lacking:
            notes.append(f"column '{name}' is not in {_counted(len(lacking), 'file')} ({listed(lacking)}): empty there")
        columns[name] = _concatenated([(piece.columns.get(name), len(piece.rows)) for piece in pieces])
    return columns, notes


def _concatenated(parts: Sequence[tuple[Column | None, int]]) -> Column:
    kinds = {part.dtype if isinstance(part, np.ndarray) else None for part, _ in parts if part is not None}
    if len(kinds) == 1 and (kind := next(iter(kinds))) is not None:
        missing: Any = "" if kind.kind == "O" else np.nan
        return np.concatenate([np.full(rows, missing, kind) if part is None else part for part, rows in parts])
    return [cell for part, rows in parts for cell in ([""] * rows if part is None else part)]


def _table(cells: Cells, source: str, notes: Iterable[str]) -> Table:
    columns = {name: column for name, column in cells.columns.items() if not _is_blank(name, column)}
    done = {name: _typed(column) for name, column in columns.items()}
    point = has_fractions(column for column in done.values() if column is not None)
    notes = list(notes)
    typed: dict[str, np.ndarray] = {}
    for name, values in done.items():
        written = written_numbers(list(columns[name]), point) if values is None else None
        if written is not None:
            notes.append(f"column '{name}' had {written[1]}")
            typed[name] = written[0]
        else:
            typed[name] = _text(columns[name]) if values is None else values
    notes += _unfinished(typed)
    return Table(typed, source, len(cells.rows), {}, tuple(notes), cells.rows, cells.place)


def _is_blank(name: str, column: Column) -> bool:
    """Left behind by a delimiter at the end of every line."""
    return re.fullmatch(r"column_\d+", name) is not None and isinstance(column, list) and not any(column)


def _typed(column: Column) -> np.ndarray | None:
    return column if isinstance(column, np.ndarray) else plain_numbers(column)


def _text(column: Column) -> np.ndarray:
    values = np.empty(len(column), object)
    values[:] = [str(cell) for cell in column]
    return values


def _unfinished(columns: Mapping[str, np.ndarray]) -> list[str]:
    """A note where a column of states tells that some runs did not finish."""
    for name, values in columns.items():
        if name.rpartition(".")[2].lower() not in ("state", "status") or values.dtype != object:
            continue
        counts = Counter(values.tolist())
        left = {state: count for state, count in counts.items() if state in _UNFINISHED}
        if left and counts.keys() <= _UNFINISHED | _FINISHED | {""}:
            states = ", ".join(f"{count} {state}" for state, count in sorted(left.items()))
            good = next(iter(sorted(_FINISHED & counts.keys())), "finished")
            return [f"not every run finished ({states}); where=\"{name}='{good}'\" keeps those that did"]
    return []


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _no_file(path: Path) -> BadInput:
    """The nearest name in the folder, or that there is no such folder."""
    folder = path.parent
    if not folder.is_dir():
        return BadInput(f"{path} does not exist, and neither does the folder {folder}; correct the path")
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    there = f"{close(path.name, names)}In {folder}: {listed(names)}." if names else f"{folder} is empty."
    matches = "nothing matches" if glob.has_magic(str(path)) else "there is no file"
    return BadInput(f"{matches} {path}. {there}")


def _no_study(path: Path) -> BadInput:
    entries = sorted(path.iterdir())
    studies = [str(entry) for entry in entries if entry.is_dir() and is_study(entry)]
    if studies:
        return BadInput(f"{path} is a folder of studies; give one of them: {listed(studies)}")
    kinds = Counter(kind_of(entry) for entry in entries if entry.is_file())
    tables = [kind for kind in READERS if kinds[kind]]
    if tables:
        return BadInput(
            f"{path} is a folder, not a study; to read its files together, use '{path / ('*' + tables[0])}'"
        )
    return BadInput(
        f"{path} is a folder without a study in it; give a file, a study (results/NAME) or a pattern (runs/*.csv)"
    )
