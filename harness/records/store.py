"""The store of one study: trials (one row each) and curves (a long table), written by many processes at once."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.records.files import TEMPORARY, atomic_write_bytes, own_folder
from harness.records.fragments import (
    Damaged,
    Fragment,
    Pile,
    Unsettled,
    consistently,
    content_of,
    remove_stale_temporaries,
    stem_of,
    time_ordered_name,
)
from harness.records.schema import CURVES, FINISHED, KEY, TRIALS, curves_table, trials_table, unify
from harness.records.view import View
from workloads.base import BadInput

T = TypeVar("T")


class Named(Protocol):
    """A trial, as far as records are concerned."""

    @property
    def id(self) -> str: ...


N = TypeVar("N", bound=Named)
log = logging.getLogger(__name__)

PUBLISHED = "trials.parquet"
CHECKPOINTS = "checkpoints"

_LARGE = 64 << 20  # bytes; merging stops at fragments of this size
_TIDY_S = 1.0  # seconds that a writer waits for files to settle, to merge what the next one may merge as well


def studies(results: Path) -> list[str]:
    """Names of the studies under a results folder. Raises BadInput if there is no such folder."""
    try:
        folders = sorted(path for path in results.iterdir() if path.is_dir())
    except OSError as error:
        raise BadInput(f"cannot list results={results}: {error.strerror}; give the folder with results=DIR") from None
    return [path.name for path in folders if (path / "trials").is_dir() or (path / PUBLISHED).is_file()]


class Store:
    """Records of one study under `root` (results/<study>).

    trials/ and curves/ hold the fragments, which are the truth; trials.parquet is a copy of all trials for other tools,
    written by `compact`, and read back where a fragment was lost. Nothing needs closing and nothing is locked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trials = Pile(
            root / "trials",
            TRIALS,
            KEY[:2],
            "those of its trials that are in no other file will be trained again",
        )
        self._curves = Pile(
            root / "curves", CURVES, ("trial", "attempt", "step"), "its curves are lost, its trials are kept",
            dictionaries=("trial", "attempt"),
        )  # fmt: skip
        # a range, so that concurrent writers do not all merge at once
        self.merge_above = random.randrange(400, 500)

    def check_writable(self) -> None:
        """Create the folders and try them. Raises BadInput if that fails; call it before training."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, own_folder(self._trials.path), own_folder(self._curves.path)):
                probe = folder / f".{time_ordered_name()}{TEMPORARY}"
                probe.write_bytes(b"writable")
                probe.unlink()
        except OSError as error:
            raise BadInput(
                f"cannot write to the results folder {self.root}: {error.strerror}. Make it writable, or choose "
                "another with results=DIR"
            ) from None

    def append(self, rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Record trials, durably, and their whole curves so far.

        rows: column -> value; `trial` (16 hex digits) and `status` are required, columns that the fixed schema does not
        know are configuration. curves: trial id -> column -> 1-D array (`step` is required; masked entries are null).
        A later row of the same trial replaces an earlier one, its curve included; a finished one is only replaced by
        a finished one. Raises ValueError on malformed rows before anything is written, OSError as the disk does.
        """
        attempt = time_ordered_name()
        table = trials_table(rows, attempt) if rows else None
        if curves:
            self._curves.add(curves_table(curves, attempt), attempt)
        if table is not None:
            self._trials.add(table, attempt)  # after the curves: a trial that is listed has its curve
        self._tidy()

    def _tidy(self) -> None:
        try:
            if len(consistently(self._trials.paths, _TIDY_S)) > self.merge_above:
                consistently(lambda: self._merge_trials(list(self._trials.fragments(below=_LARGE))), _TIDY_S)
            if len(consistently(self._curves.paths, _TIDY_S)) > self.merge_above:
                consistently(self._merge_curves, _TIDY_S)
        except (OSError, Unsettled) as error:
            log.warning("could not merge the fragments of %s (%s); going on", self.root, error)

    def read(self, use: Callable[[View], T]) -> T:
        """`use(view)` on a consistent view of the trials; called again if another process changed files under it."""
        return consistently(lambda: use(self._view()))

    def _view(self) -> View:
        fragments = list(self._trials.fragments())
        return View([*fragments, *self._uncovered(fragments)])

    def _uncovered(self, fragments: Sequence[Fragment]) -> list[Fragment]:
        """trials.parquet, if it may hold rows that no fragment has (one was lost, or only this copy was kept)."""
        path = self.root / PUBLISHED
        stem = stem_of(path)
        if stem is None or _covers(fragments, stem):
            return []
        try:
            return [Fragment(self._trials, path)]
        except Damaged as damage:
            self._trials.set_aside(damage)
            return []

    def trials(self, columns: Collection[str] | None = None) -> pa.Table:
        """One row a trial, sorted by trial id. Raises BadInput on unknown columns."""
        return self.read(lambda view: view.read(columns))

    def finished(self) -> set[str]:
        """Ids of the trials with status ok or diverged."""
        table = self.trials(("trial", "status"))
        return set(table["trial"].filter(pc.is_in(table["status"], pa.array(FINISHED))).to_pylist())

    def missing(self, trials: Iterable[N]) -> list[N]:
        """Those that are not finished, each once, in their order."""
        finished = self.finished()
        return list({trial.id: trial for trial in trials if trial.id not in finished}.values())

    def curves(self, trials: Collection[str] | None = None) -> pa.Table:
        """The curves of `trials` (default: all), long; a trial's points are adjacent and in order.

        `trial` is dictionary-encoded, `eval_loss` and `eval_metric` are null where nothing was evaluated.
        """
        return consistently(lambda: self._read_curves(None if trials is None else set(trials)))

    def _read_curves(self, wanted: set[str] | None) -> pa.Table:
        keys = self._view().read(KEY)
        current = dict(zip(keys["trial"].to_pylist(), keys["attempt"].to_pylist(), strict=True))
        if wanted is not None:
            current = {trial: attempt for trial, attempt in current.items() if trial in wanted}
        pieces = list(_curve_pieces(self._curves.fragments(), current))
        table = unify(pieces).unify_dictionaries() if pieces else CURVES.empty_table()
        return table.drop_columns(["attempt"])

    def compact(self) -> None:
        """Merge fragments and write trials.parquet. Any number of processes may do this at once, and die doing it."""
        for _ in range(5):  # again if others appended, merged or published meanwhile
            published = consistently(self._publish)
            if consistently(self._trials.paths) in ([], [published]):
                break
        consistently(self._merge_curves)
        for folder in (self.root, self._trials.path, self._curves.path, self.root / CHECKPOINTS):
            remove_stale_temporaries(folder)

    def _publish(self) -> Path | None:
        """Merge all trials into one fragment and copy it to trials.parquet; returns the fragment's path."""
        fragments = list(self._trials.fragments())
        path = self._merge_trials(fragments, self._uncovered(fragments))
        if path is not None and stem_of(self.root / PUBLISHED) != path.name.split(".")[0]:
            atomic_write_bytes(self.root / PUBLISHED, content_of(path))
        return path

    def _merge_trials(self, fragments: Sequence[Fragment], uncovered: Sequence[Fragment] = ()) -> Path | None:
        """Replace `fragments` by one that also holds the rows of `uncovered`; returns its path."""
        sources = [*fragments, *uncovered]
        if len(sources) < 2 or not fragments:
            return fragments[0].path if fragments else None
        published = stem_of(self.root / PUBLISHED)
        covers = published if published and _covers(sources, published) else ""
        path = self._trials.add(View(sources).read(), _merged_name(sources), covers, compact=True)
        self._trials.remove(fragment for fragment in fragments if fragment.path != path)
        return path

    def _merge_curves(self) -> None:
        batch: list[Fragment] = []
        size = 0
        for fragment in self._curves.fragments(below=_LARGE):
            batch.append(fragment)
            size += fragment.size
            if size >= _LARGE:
                self._merge_curve_batch(batch)
                batch, size = [], 0
        self._merge_curve_batch(batch)

    def _merge_curve_batch(self, batch: Sequence[Fragment]) -> None:
        if len(batch) < 2:
            return
        table = unify(list(_curve_pieces(batch, None))).unify_dictionaries()
        path = self._curves.add(table, _merged_name(batch), compact=True)
        self._curves.remove(fragment for fragment in batch if fragment.path != path)


def _covers(fragments: Iterable[Fragment], stem: str) -> bool:
    return bool(stem) and any(stem in (fragment.stem, fragment.covers) for fragment in fragments)


def _merged_name(fragments: Iterable[Fragment]) -> str:
    """The same for the same sources, so that processes that merge the same files write the same one."""
    names = "\n".join(sorted(fragment.path.name for fragment in fragments))
    return f"merged-{hashlib.sha256(names.encode()).hexdigest()[:16]}"


def _curve_pieces(fragments: Iterable[Fragment], current: Mapping[str, str] | None) -> Iterator[pa.Table]:
    """Row groups reduced to the curves of the `current` attempts (None: of all), each curve from one fragment only."""
    seen: set[tuple[str, str]] = set()
    for fragment in fragments:
        here: set[tuple[str, str]] = set()
        for group in range(fragment.row_groups):
            table = fragment.read(None if current is None else ("trial", "attempt"), group)
            keys = table.select(["trial", "attempt"]).combine_chunks()
            trials, attempts = (keys[name].combine_chunks() for name in ("trial", "attempt"))
            codes = [np.asarray(column.indices) for column in (trials, attempts)]
            starts = np.flatnonzero(np.append(True, (np.diff(codes[0]) != 0) | (np.diff(codes[1]) != 0)))
            pairs = list(zip(trials.take(starts).to_pylist(), attempts.take(starts).to_pylist(), strict=True))
            kept = [p not in seen and (current is None or current.get(p[0]) == p[1]) for p in pairs]
            here.update(pair for pair, keep in zip(pairs, kept, strict=True) if keep)
            if any(kept):
                mask = np.repeat(kept, np.diff(np.append(starts, len(keys))))
                table = table if current is None else fragment.read(None, group)
                yield table if all(kept) else table.filter(pa.array(mask))
        seen |= here
