"""Broken files, crashes at every step, many processes at once: nothing that was recorded is lost or doubled."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.records import fragments
from harness.records.schema import VERSION_KEY
from harness.records.store import Store
from tests.mounts import mounted, needs_mounts
from workloads.base import BadInput

A, B, C = "a" * 16, "b" * 16, "c" * 16


def append(store: Store, trial: str, status: str = "ok") -> None:
    store.append([{"trial": trial, "status": status, "workload.width": 8}], {trial: {"step": [0, 1], "lr": [0.1, 0.2]}})


def fragment_of(store: Store, kind: str) -> Path:
    return max((store.root / kind).glob("*.parquet"))


def state(root: Path) -> tuple[list[str], list[str]]:
    store = Store(root)
    return [str(row) for row in store.trials().to_pylist()], sorted(map(str, store.curves().to_pylist()))


def damages(content: bytes) -> dict[str, bytes]:
    footer = int.from_bytes(content[-8:-4], "little")
    cuts = {0, 1, 4, 20, len(content) // 2, len(content) - footer - 8, len(content) - footer // 2, len(content) - 1}
    broken = {f"cut at {cut}": content[:cut] for cut in sorted(cuts)}
    for at in range(0, len(content), max(1, len(content) // 40)):
        broken[f"flipped at {at}"] = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
    broken["zeroed"] = bytes(len(content))
    broken["longer"] = content + b"\0"
    return broken


@pytest.mark.parametrize("kind", ["trials", "curves"])
def test_a_broken_fragment_is_set_aside_and_nothing_else_is_lost(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    append(store, B)
    victim = fragment_of(store, kind)
    content = victim.read_bytes()
    for what, broken in damages(content).items():
        victim.write_bytes(broken)
        caplog.clear()
        store.curves()
        assert store.finished() == ({A} if kind == "trials" else {A, B}), what
        assert set(store.curves()["trial"].to_pylist()) == {A}, what
        assert len(caplog.messages) == 1, what
        assert victim.name in caplog.text
        assert ("trained again" if kind == "trials" else "curves are lost") in caplog.text
        aside = victim.with_name(victim.name + ".corrupt")
        assert aside.read_bytes() == broken
        aside.unlink()
    victim.write_bytes(content)
    assert store.finished() == {A, B}


def test_a_fragment_without_checksum_in_its_name_is_checked_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    append(store, B)
    victim = fragment_of(store, "trials")
    victim = victim.rename(victim.with_name("renamed.parquet"))
    assert store.finished() == {A, B}
    content = victim.read_bytes()
    victim.write_bytes(content.replace(B.encode(), C.encode()))  # only the page checksum can tell
    assert store.finished() == {A}
    victim.write_bytes(content[:-9])
    assert store.finished() == {A}


def test_foreign_files_are_set_aside_or_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    folder = store.root / "trials"
    pq.write_table(pa.table({"x": [1]}), folder / "foreign.parquet")
    pq.write_table(pa.table({"trial": [B, None], "status": ["ok", "ok"]}), folder / "nulls.parquet")
    pq.write_table(pa.table({"trial": [B], "status": ["ok"], "final_loss": ["low"]}), folder / "drift.parquet")
    (folder / "notes.txt").write_text("hello")
    (folder / "link.parquet").symlink_to(fragment_of(store, "curves"))
    assert store.trials().num_rows == 1
    assert sorted(path.name for path in folder.glob("*.corrupt")) == [
        "drift.parquet.corrupt",
        "foreign.parquet.corrupt",
        "nulls.parquet.corrupt",
    ]
    assert (folder / "link.parquet").is_symlink()
    assert len(caplog.messages) == 3


def test_an_older_table_of_other_origin_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    pq.write_table(
        pa.table({"trial": [B], "status": ["ok"], "params": pa.array([7], pa.int32())}),
        store.root / "trials" / "old.parquet",
    )
    assert store.trials(["params"])["params"].to_pylist() == [None, 7]
    store.compact()
    assert store.finished() == {A, B}


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    table = pa.table({"trial": [B], "status": ["ok"]}, metadata={VERSION_KEY: b"99"})
    pq.write_table(table, store.root / "trials" / "new.parquet")
    with pytest.raises(BadInput, match="newer windtunnel"):
        store.finished()


def test_a_linked_records_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "trials").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="symbolic link"):
        Store(tmp_path / "study").compact()


def test_the_published_copy_stands_in_for_a_broken_merged_fragment(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    append(store, B)
    store.compact()
    append(store, C)
    merged = next((store.root / "trials").glob("merged-*"))
    merged.write_bytes(merged.read_bytes()[:-1])
    assert store.finished() == {A, B, C}
    store.compact()
    assert pq.read_table(store.root / "trials.parquet", columns=["trial"]).num_rows == 3
    assert store.finished() == {A, B, C}


def test_a_broken_published_copy_is_rebuilt(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    append(store, B)
    store.compact()
    (store.root / "trials.parquet").write_bytes(b"PAR1")
    assert store.finished() == {A, B}
    store.compact()
    assert pq.read_table(store.root / "trials.parquet").num_rows == 2


class Crash(BaseException):
    """The process is dead: from here on every step fails."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Every durable step from the `step`-th on raises; returns the counter of steps."""
    count = 0

    def patched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise Crash
            return real(*arguments, **options)

        return call

    for name in ("replace", "unlink", "fsync"):
        monkeypatch.setattr(os, name, patched(getattr(os, name)))
    return lambda: count


def survives(origin: Path, work: Path, action: Callable[[Store], None], check: Callable[[Path], None]) -> int:
    """Crash `action` at each of its durable steps, on a fresh copy each time; returns how many there are."""
    for step in range(1000):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(origin, work)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            try:
                action(Store(work))
            except Crash:
                crashed = True
            else:
                crashed = False
        check(work)
        Store(work).compact()
        check(work)
        if not crashed:
            return step
    raise AssertionError("never finished")


def test_a_crash_at_any_step_of_a_compaction_changes_nothing(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    store = Store(origin)
    append(store, A, "stopped")
    append(store, B)
    store.compact()
    append(store, A)
    append(store, C, "diverged")
    before = state(origin)
    assert survives(origin, tmp_path / "work", lambda s: s.compact(), lambda w: _same(state(w), before)) > 8


def _same(found: object, expected: object) -> None:
    assert found == expected


def test_a_crash_at_any_step_of_an_append_records_all_or_nothing(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    append(Store(origin), A)

    def check(work: Path) -> None:
        store = Store(work)
        assert store.finished() in ({A}, {A, B})
        assert set(store.curves()["trial"].to_pylist()) == store.finished()

    assert survives(origin, tmp_path / "work", lambda s: append(s, B), check) >= 4


def test_a_full_disk_loses_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    files = sorted(path for path in store.root.rglob("*"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append(store, B)
    assert sorted(path for path in store.root.rglob("*")) == files
    assert store.finished() == {A}


@needs_mounts
def test_a_disk_that_fills_up_under_many_appends(tmp_path: Path) -> None:
    """A real one: every append says whether it is recorded, and what is stays, is read, and is merged once there is room."""
    store, recorded, refused = Store(tmp_path / "study"), set(), 0
    with mounted(store.root, size="300k"):
        for i in range(60):
            trial = f"{i:016x}"
            try:
                append(store, trial)
                recorded.add(trial)
            except OSError:
                refused += 1
        assert refused > 10
        assert len(recorded) > 10
        assert store.finished() == recorded
        assert not list(store.root.rglob("*.tmp"))
        with pytest.raises(OSError, match="No space"):
            store.compact()
        assert store.finished() == recorded
        subprocess.run(["mount", "-o", "remount,size=4m", str(store.root)], check=True)
        store.compact()
        assert store.finished() == set(store.curves()["trial"].to_pylist()) == recorded
    print(f"{len(recorded)} recorded, {refused} refused")


@pytest.mark.parametrize("version", [b"99", b"-1", b"abc", b"9" * 400, b"1.5", b"\xff"])
def test_a_version_that_is_not_known_is_refused_with_what_to_do(tmp_path: Path, version: bytes) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    table = pa.table({"trial": [B], "status": ["ok"]}, metadata={VERSION_KEY: version})
    pq.write_table(table, store.root / "trials" / "other.parquet")
    with pytest.raises(BadInput, match="update windtunnel, or use another results folder"):
        store.finished()
    assert (store.root / "trials" / "other.parquet").exists()


OLDER: dict[str, dict[str, pa.Array]] = {
    "fewer columns": {},
    "32-bit numbers": {"params": pa.array([7], pa.int32()), "final_loss": pa.array([0.5], pa.float32())},
    "numbers that were whole": {"final_loss": pa.array([2], pa.int64())},
    "columns of its own": {"lr": pa.array([0.1]), "nested": pa.array([{"a": [1]}])},
    "large strings": {"error": pa.array(["x"], pa.large_string()), "config": pa.array(["{}"], pa.large_string())},
    "a status of its own": {"status": pa.array(["crashed"])},
}


@pytest.mark.parametrize("name", OLDER)
def test_rows_of_older_versions_are_migrated(tmp_path: Path, name: str) -> None:
    """Beside rows of this version, and through a merge; a status that does not mean finished is not taken for it."""
    store = Store(tmp_path / "study")
    append(store, A)
    old = {"trial": pa.array([B]), "status": pa.array(["ok"])} | OLDER[name]
    pq.write_table(pa.table(old), store.root / "trials" / "old.parquet")
    finished = {A} if name == "a status of its own" else {A, B}
    for _ in range(2):
        assert store.finished() == finished
        rows = {row["trial"]: row for row in store.trials().to_pylist()}
        assert rows.keys() == {A, B}
        assert all(rows[B][column] == values[0].as_py() for column, values in old.items() if column != "nested")
        store.compact()
    append(store, B)
    assert store.finished() == {A, B}


def test_a_reader_copes_with_a_merge_under_its_hands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "study")
    for trial in (A, B, C):
        append(store, trial)
    real, calls = fragments.content_of, []

    def content_of(path: Path) -> bytes:
        calls.append(path)
        if len(calls) == 2:
            monkeypatch.setattr(fragments, "content_of", real)
            Store(store.root).compact()
        return real(path)

    monkeypatch.setattr(fragments, "content_of", content_of)
    assert store.finished() == {A, B, C}
    assert len(calls) == 2


def test_stale_temporaries_are_swept_and_fresh_ones_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    append(store, A)
    stale, fresh = (store.root / "trials" / f".{name}.tmp" for name in ("stale", "fresh"))
    for path in (stale, fresh):
        path.write_text("")
    os.utime(stale, (time.time() - 10**6,) * 2)
    store.compact()
    assert (stale.exists(), fresh.exists()) == (False, True)


WRITER = """
import sys
from pathlib import Path
from harness.records.store import Store
root, writer, count, compacts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "compact"
store = Store(root)
store.merge_above = 20
for i in range(count):
    trials = [f"{writer:04x}{i:08x}{j:04x}" for j in range(3)]
    rows = [{"trial": t, "status": "ok", "seed": i, f"optimizer.x{writer}": i} for t in trials]
    store.append(rows, {t: {"step": [0, 1], "lr": [0.1, 0.2]} for t in trials})
    print(*trials, flush=True)
    if compacts:
        store.compact()
"""


def start(root: Path, writer: int, count: int, compacts: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(root), str(writer), str(count), "compact" if compacts else "append"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> set[str]:
    """The trials that the process saw recorded."""
    text, _ = process.communicate(timeout=60)
    return set(text.split())


def consistent(root: Path, recorded: set[str]) -> None:
    store = Store(root)
    trials = store.trials(["trial"])["trial"].to_pylist()
    assert len(trials) == len(set(trials))
    assert recorded <= set(trials)
    curves = store.curves().to_pylist()
    assert sorted((point["trial"], point["step"]) for point in curves) == [(t, s) for t in trials for s in (0, 1)]
    assert not list(root.rglob("*.corrupt"))


def test_eight_writers_at_once_of_which_two_compact(tmp_path: Path) -> None:
    root = tmp_path / "study"
    processes = [start(root, writer, 12, compacts=writer % 4 == 3) for writer in range(8)]
    store = Store(root)
    seen: set[str] = set()
    while any(process.poll() is None for process in processes):
        now = store.finished()
        assert seen <= now, "a recorded trial vanished from a reader's view"
        seen = now
    recorded = set().union(*(finish(process) for process in processes))
    assert all(process.returncode == 0 for process in processes)
    assert len(recorded) == 8 * 12 * 3
    consistent(root, recorded)
    store.compact()
    consistent(root, recorded)
    assert pq.read_table(root / "trials.parquet").num_rows == len(recorded)


def test_kill_9_at_random_moments_loses_nothing_recorded(tmp_path: Path) -> None:
    root = tmp_path / "study"
    recorded: set[str] = set()
    rng = random.Random(0)
    for writer in range(6):
        process = start(root, writer, 10_000, compacts=writer % 2 == 1)
        assert process.stdout is not None
        recorded |= set(process.stdout.readline().split())
        time.sleep(rng.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        recorded |= {trial for trial in finish(process) if len(trial) == 16}
        consistent(root, recorded)
    Store(root).compact()
    consistent(root, recorded)


def merged_elsewhere(store: Store, monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool]) -> None:
    """Another machine merges the trials, of which this one's cache shows the former listing until `until()`."""
    for trial in (A, B, C):
        append(store, trial)
    pile, real = store.root / "trials", fragments.Pile._list
    stale = [pile / path.name for path in sorted(pile.glob("*.parquet"))]
    Store(store.root).compact()
    (store.root / "trials.parquet").unlink()
    monkeypatch.setattr(
        fragments.Pile, "_list", lambda self: stale if self.path == pile and not until() else real(self)
    )


def test_a_stale_listing_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS shows a directory as it was up to a minute ago."""
    store, slept = Store(tmp_path / "study"), [0.0]
    monkeypatch.setattr(time, "sleep", slept.append)
    merged_elsewhere(store, monkeypatch, lambda: sum(slept) > 60)
    assert store.finished() == {A, B, C}
    assert 60 < sum(slept) < 70
    assert slept[:6] == [0.0] * 6  # what is merged at this moment costs no pause
    slept[:] = [0.0]
    append(store, "d" * 16)
    assert store.finished() == {A, B, C, "d" * 16}


def test_a_listing_that_stays_stale_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, slept = Store(tmp_path / "study"), [0.0]
    monkeypatch.setattr(time, "sleep", slept.append)
    merged_elsewhere(store, monkeypatch, lambda: False)
    with pytest.raises(fragments.Unsettled, match="run the same command again"):
        store.finished()
    assert 60 < sum(slept) < 90


def test_a_stale_listing_stops_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it records is recorded; merging is left to the next one."""
    store, slept = Store(tmp_path / "study"), [0.0]
    monkeypatch.setattr(time, "sleep", slept.append)
    merged_elsewhere(store, monkeypatch, lambda: False)
    store.merge_above = 2
    append(store, "d" * 16)
    assert "could not merge" in caplog.text
    assert sum(slept) < 2
    monkeypatch.undo()
    assert store.finished() == {A, B, C, "d" * 16}


@pytest.mark.parametrize("what", ["fragments", "listing", "sizes"])
def test_stale_handles_are_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """ESTALE: of what another machine replaced, this one still has a handle."""
    store, calls = Store(tmp_path / "study"), []
    for trial in (A, B):
        append(store, trial)

    def stale_at_first(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if store.root in Path(path).parents and Path(path).name != "study":
                calls.append(path)
                if len(calls) <= 3:
                    raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return real(path, *arguments, **options)

        return call

    owner, name = {"fragments": (Path, "read_bytes"), "listing": (os, "scandir"), "sizes": (Path, "stat")}[what]
    monkeypatch.setattr(owner, name, stale_at_first(getattr(owner, name)))
    if what == "sizes":
        monkeypatch.setattr(Path, "is_symlink", lambda self: False)  # asks for it, too
    assert store.finished() == {A, B}
    store.compact()
    assert len(calls) > 3
    monkeypatch.undo()
    assert store.finished() == {A, B}
    assert not list(store.root.rglob("*.corrupt"))
