"""A directory of immutable Parquet files ("fragments") that many processes add to and merge at once, without locks.

Rules that make this safe at any instant, on any file system with an atomic rename:
a fragment appears whole under a new name; its name holds the CRC-32 of its bytes; a fragment is deleted only after
another that contains all its rows is on disk. Readers therefore see every row at least once, and drop the duplicates.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.records.files import TEMPORARY, atomic_write_bytes, own_folder
from harness.records.schema import VERSION, VERSION_KEY, conform
from harness.records.text import printable
from workloads.base import BadInput

T = TypeVar("T")
log = logging.getLogger(__name__)

NAME = re.compile(r"(?P<stem>[A-Za-z0-9_-]+)(?:\.(?P<crc>[0-9a-f]{8}))?\.parquet")
STEM_KEY = b"windtunnel.fragment"
COVERS_KEY = b"windtunnel.covers"
CORRUPT = ".corrupt"
ID = r"\A[0-9a-f]{16}\z"

_AT_ONCE = 5  # retries without a pause: whoever merged has usually done by then
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 5.0
_PATIENCE = 75.0  # seconds; network file systems may show a listing that is a minute old
_GONE = (errno.ENOENT, errno.ESTALE)  # the latter on NFS, of a file that another machine removed or replaced
_STALE_SECONDS = 24 * 3600
_ROW_GROUP = 1 << 18
_BULKY = ("config", "packages", "error", "xla_flags")


class Moved(Exception):
    """A listed fragment is gone: another process merged it."""


class Unsettled(RuntimeError):
    """Fragments kept vanishing for as long as `consistently` had patience. No BadInput: a SLURM task then starts again."""


class Damaged(Exception):
    """A fragment cannot be read. Carries the fragment's pile, its path and the reason."""

    def __init__(self, pile: Pile, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.pile, self.path, self.reason = pile, path, reason


def time_ordered_name() -> str:
    """A name no other process makes: UTC microseconds, process id, random bits. Sorts by time."""
    now = datetime.fromtimestamp(time.time(), UTC)
    return f"{now:%Y%m%dT%H%M%S%f}-{os.getpid()}-{secrets.token_hex(4)}"


class Fragment:
    """One file, read whole and verified. stem: its name without checksum. covers: a published copy that it contains.

    Raises Moved if the file is gone, Damaged if it is broken, BadInput if it may not be read or is of a newer version.
    """

    def __init__(self, pile: Pile, path: Path) -> None:
        self.pile, self.path = pile, path
        match = NAME.fullmatch(path.name)
        content = content_of(path)
        self.size = len(content)
        crc = match["crc"] if match else None
        if crc is not None and zlib.crc32(content) != int(crc, 16):
            raise Damaged(pile, path, "its checksum does not match" if content else "it is empty")
        with _guard(pile, path):
            self._file = pq.ParquetFile(
                pa.BufferReader(content),
                page_checksum_verification=crc is None,
                read_dictionary=pile.dictionaries,
            )
            schema = self._file.schema_arrow
            self.names: list[str] = schema.names
        self._check_columns()
        metadata = schema.metadata or {}
        self._check_version(metadata)
        self.stem = _stem(metadata)
        self.covers = _stem(metadata, COVERS_KEY)

    def _check_columns(self) -> None:
        missing = [name for name in self.pile.required if name not in self.names]
        if missing or len(set(self.names)) < len(self.names):
            reason = f"it has no column '{missing[0]}'" if missing else "it has two columns of one name"
            raise Damaged(self.pile, self.path, reason)

    def _check_version(self, metadata: Mapping[bytes, bytes]) -> None:
        version = metadata.get(VERSION_KEY, b"1").decode(errors="replace")
        if not (version.isdecimal() and len(version) < 6 and int(version) <= VERSION):
            raise BadInput(
                f"{self.path} was written by a newer windtunnel (records version {printable(version)}, "
                f"this one reads up to {VERSION}); update windtunnel, or use another results folder"
            )

    @property
    def row_groups(self) -> int:
        return self._file.metadata.num_row_groups

    @property
    def num_rows(self) -> int:
        return self._file.metadata.num_rows

    def read(self, columns: Iterable[str] | None = None, row_group: int | None = None) -> pa.Table:
        """The columns that it has among `columns` (default: all), with the fixed ones in their types."""
        wanted = None if columns is None else [name for name in dict.fromkeys(columns) if name in self.names]
        groups = range(self.row_groups) if row_group is None else [row_group]
        with _guard(self.pile, self.path):
            threads = self.num_rows > 10_000  # starting threads costs more than reading a small file
            table = self._file.read_row_groups(list(groups), columns=wanted, use_threads=threads)
            table = conform(table, self.pile.schema)
        for name in self.pile.required:
            if name in table.column_names and table.column(name).null_count:
                raise Damaged(self.pile, self.path, f"it has rows without '{name}'")
        if "trial" in table.column_names and not _are_ids(table.column("trial")):
            raise Damaged(self.pile, self.path, "it has trials whose id is not 16 hexadecimal digits")
        return table


def _are_ids(column: pa.ChunkedArray) -> bool:
    """Whether these are trials' ids, which name files: none may be a path, whoever wrote the fragment."""
    chunks = [chunk.dictionary if isinstance(chunk, pa.DictionaryArray) else chunk for chunk in column.chunks]
    return all(pc.all(pc.match_substring_regex(chunk, ID)).as_py() is not False for chunk in chunks)


@contextmanager
def _guard(pile: Pile, path: Path) -> Iterator[None]:
    """Turns what the Parquet reader raises on broken bytes into Damaged."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "unreadable"
        raise Damaged(pile, path, reason) from None


def content_of(path: Path) -> bytes:
    """All bytes of a fragment. Raises Moved if it is gone, BadInput if it may not be read."""
    with _moved():
        try:
            return path.read_bytes()
        except PermissionError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}; make the results folder readable") from None


@contextmanager
def _moved() -> Iterator[None]:
    """Turns what the file system says of a file that is gone into Moved."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
        raise Moved from None


def stem_of(path: Path) -> str | None:
    """The stem that a fragment, or a copy of one, carries inside; empty if it has none, None if there is no file."""
    try:
        return _stem(pq.read_schema(path).metadata or {})
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError):
        return ""


def _stem(metadata: Mapping[bytes, bytes], key: bytes = STEM_KEY) -> str:
    return metadata.get(key, b"").decode(errors="replace")


class Pile:
    """The fragments of one directory.

    schema: the fixed columns. required: columns every fragment has, without nulls. consequence: what losing a
    fragment means, for the warning. dictionaries: columns read dictionary-encoded.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        required: Sequence[str],
        consequence: str,
        dictionaries: Sequence[str] = (),
    ) -> None:
        self.path, self.schema, self.required, self.consequence = path, schema, tuple(required), consequence
        self.dictionaries = list(dictionaries)
        self._ignored: set[Path] = set()

    def paths(self) -> list[Path]:
        """The fragments now present, sorted by name.

        Listed until two listings agree: a single one may miss both a new merged fragment and those it replaced. Raises Moved if
        the directory itself is another.
        """
        listing = self._list()
        while (again := self._list()) != listing:
            listing = again
        return [path for path in listing if path not in self._ignored]

    def _list(self) -> list[Path]:
        if self.path.is_symlink():
            raise BadInput(f"{self.path} is a symbolic link; link the whole results folder instead")
        try:
            with os.scandir(self.path) as entries:
                names = [e.name for e in entries if NAME.fullmatch(e.name) and e.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno in _GONE:
                raise Moved from None
            raise BadInput(f"cannot list {self.path}: {error.strerror}; check the results folder") from None
        return [self.path / name for name in sorted(names)]

    def fragments(self, below: float = math.inf) -> Iterator[Fragment]:
        """Open those smaller than `below` bytes, one by one; broken ones are set aside. Raises Moved if one is gone."""
        for path in self.paths():
            try:
                with _moved():
                    size = path.stat().st_size
                if size >= below:
                    continue
                fragment = Fragment(self, path)
            except Damaged as damage:
                self.set_aside(damage)
            else:
                yield fragment

    def set_aside(self, damage: Damaged) -> None:
        """Rename a broken file to *.corrupt and say so, once."""
        path = damage.path
        aside = path.with_name(path.name + CORRUPT)
        try:
            os.rename(path, aside)
        except OSError as error:
            if error.errno in _GONE:
                return  # another process was first
            self._ignored.add(path)
            aside = path
        shown, reason = printable(path), printable(damage.reason)
        log.warning("%s is broken (%s); set aside as %s: %s", shown, reason, aside.name, self.consequence)

    def add(self, table: pa.Table, stem: str, covers: str = "", compact: bool = False) -> Path:
        """Write one fragment, durably. compact: compress everything (a merged file), not only long texts."""
        metadata = {VERSION_KEY: str(VERSION), STEM_KEY: stem, COVERS_KEY: covers}
        table = table.replace_schema_metadata(metadata)
        content = _parquet(table, compress=compact or bool(self.dictionaries))
        path = self.path / f"{stem}.{zlib.crc32(content):08x}.parquet"
        own_folder(self.path)
        atomic_write_bytes(path, content)
        return path

    def remove(self, fragments: Iterable[Fragment]) -> None:
        for fragment in fragments:
            with suppress(Moved), _moved():
                fragment.path.unlink()


def _parquet(table: pa.Table, compress: bool) -> bytes:
    """Small fragments stay uncompressed apart from long texts: opening 1,000 of them is then three times as fast."""
    texts = [field.name for field in table.schema if not _is_number(field.type)]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=_ROW_GROUP,
        compression={name: "zstd" if compress or name in _BULKY else "none" for name in table.column_names},
        use_dictionary=texts or False,
        column_encoding={name: "DELTA_BINARY_PACKED" for name in ("step", "tokens") if name in table.column_names},
        write_statistics=False,
        write_page_checksum=True,
    )
    return sink.getvalue()


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def consistently(use: Callable[[], T], patience: float = _PATIENCE) -> T:
    """Call `use` until no fragment vanished or broke under it. What it returns is one consistent view.

    Raises Unsettled if that needs pauses of more than about `patience` seconds in all.
    """
    pauses = _pauses(patience)
    while True:
        try:
            return use()
        except Damaged as damage:
            damage.pile.set_aside(damage)
        except Moved:
            pause = next(pauses, None)
            if pause is None:
                raise Unsettled(
                    f"the records keep changing while they are read, for {patience:g} s by now; run the same command again, "
                    "and if that does not help mount their file system with a smaller acdirmax"
                ) from None
            time.sleep(pause)


def _pauses(patience: float) -> Iterator[float]:
    """Seconds to wait before each retry: none at first, then twice as long every time, up to `patience` in all."""
    yield from [0.0] * _AT_ONCE
    pause = _FIRST_PAUSE
    while patience > 0:
        yield pause
        patience -= pause
        pause = min(2 * pause, _LONGEST_PAUSE)


def remove_stale_temporaries(directory: Path) -> None:
    """Delete what killed writers left behind. Ages are differences of this file system's own clock, not the host's."""
    probe = directory / f".{time_ordered_name()}{TEMPORARY}"
    with suppress(OSError):
        if directory.is_symlink():
            return
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        for path in directory.glob(f".*{TEMPORARY}"):
            with suppress(OSError):
                if now - path.lstat().st_mtime > _STALE_SECONDS:
                    path.unlink()
