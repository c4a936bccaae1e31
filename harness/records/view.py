"""One row a trial out of many fragments: which row counts, and reading only what is asked for."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.records.fragments import Fragment
from harness.records.schema import FINISHED, KEY, TRIALS, unify
from harness.records.text import unknown_column


class View:
    """The trials of some fragments, one row a trial, sorted by trial id. Use through `Store.read`.

    A trial's row is its latest finished one (ok or diverged), or its latest one if it never finished.
    """

    def __init__(self, fragments: Sequence[Fragment]) -> None:
        self.fragments = fragments
        self._sizes = np.array([fragment.num_rows for fragment in fragments], np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._rows: np.ndarray | None = None  # of the fragments laid end to end; known after the first read

    @functools.cached_property
    def names(self) -> list[str]:
        """All columns: identity, then configuration in order of appearance, then results."""
        found = dict.fromkeys(name for fragment in self.fragments for name in fragment.names)
        identity = TRIALS.names[: TRIALS.get_field_index("seed")]
        configuration = [name for name in found if name not in TRIALS.names]
        return [*identity, *configuration, *TRIALS.names[len(identity) :]]

    def read(self, columns: Collection[str] | None = None, rows: np.ndarray | None = None) -> pa.Table:
        """`columns` (default: all) of `rows` (positions in this view; default: all).

        Fragments without any of the rows are not read. Raises BadInput on unknown columns.
        """
        names = self.names if columns is None else list(dict.fromkeys(columns))
        for name in names:
            if name not in self.names:
                raise unknown_column(name, self.names)
        if self._rows is None:
            table = self._load(self.fragments, [*names, *KEY])
            self._rows = _winners(table)
            return _take(table, self._rows if rows is None else self._rows[rows], names)
        if rows is None:
            return _take(self._load(self.fragments, names), self._rows, names)
        positions = self._rows[rows]
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        touched, owner = np.unique(owners, return_inverse=True)
        sizes = self._sizes[touched]
        local = positions - self._starts[owners] + (np.cumsum(sizes) - sizes)[owner]
        return _take(self._load([self.fragments[index] for index in touched], names), local, names)

    def _load(self, fragments: Iterable[Fragment], names: Sequence[str]) -> pa.Table:
        tables = [_with_attempt(fragment, fragment.read([*names, "trial"])) for fragment in fragments]
        return unify(tables) if tables else TRIALS.empty_table()


def _with_attempt(fragment: Fragment, table: pa.Table) -> pa.Table:
    """Tables of other origin have no attempts; their file's name stands in."""
    if "attempt" in fragment.names:
        return table
    return table.append_column("attempt", pa.array([fragment.path.name] * table.num_rows, pa.string()))


def _take(table: pa.Table, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
    for name in names:
        if name not in table.column_names:
            kind = TRIALS.field(name).type if name in TRIALS.names else pa.null()
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table.select(names).combine_chunks().take(pa.array(rows, pa.int64()))


def _winners(table: pa.Table) -> np.ndarray:
    """Positions of the rows that count, ordered by trial id."""
    trials = table["trial"].combine_chunks()
    order = pc.sort_indices(trials)
    ordered = trials.take(order)
    if len(ordered) < 2 or pc.all(pc.less(ordered[:-1], ordered[1:])).as_py():
        return np.asarray(order, np.int64)
    finished = pc.is_in(table["status"], pa.array(FINISHED)).to_numpy().astype(np.int8)
    trial_codes, attempt_codes = _ranks(trials), _ranks(table["attempt"].combine_chunks())
    rows = np.lexsort((attempt_codes, finished, trial_codes))
    last = np.append(np.diff(trial_codes[rows]) != 0, True)
    return rows[last]


def _ranks(texts: pa.Array) -> np.ndarray:
    """Integers that order as the strings do, nulls first."""
    encoded = texts.dictionary_encode()
    ranks = np.full(len(encoded.dictionary) + 1, -1, np.int64)
    ranks[np.asarray(pc.sort_indices(encoded.dictionary))] = np.arange(len(encoded.dictionary))
    return ranks[np.asarray(encoded.indices.fill_null(-1))]
