"""Bad days of a trainer, each with a count: nothing that was finished is lost or doubled, and bits stay as they were."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import Mesh

from harness.engine import checkpoint, runner
from harness.engine.compiler import Compiler
from harness.engine.devices import TRIAL_AXIS, Devices, local_devices
from harness.engine.pack import Pack, make_packs
from harness.engine.runner import Chunk, Runner, Settings
from harness.engine.signals import Interrupted, StopFlag
from harness.engine.watchdog import HUNG
from harness.records import fragments
from harness.records.store import Store
from harness.trial import Trial
from tests.engine.storm import CHUNKS, some_trials
from tests.mounts import mounted, needs_mounts
from tests.slurm.compare import content
from tests.trials import run
from workloads.base import BadInput
from workloads.regression import Regression

KILLS = int(os.environ.get("WINDTUNNEL_KILLS", "3"))  # `make check-faults` asks for 50
EVERY_CHUNK = {"checkpoint_overhead": 1e9}


def same(found: Path, expected: Path, apart: Sequence[str] = ()) -> int:
    """Assert that two studies recorded the same, bit for bit, `apart` from some columns; returns how many trials."""
    (rows, curves), (others, other_curves) = content(found), content(expected)
    ignored = dict.fromkeys(("study", *apart))
    assert [row | ignored for row in rows] == [row | ignored for row in others]
    assert curves.equals(other_curves)
    return len(rows)


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return some_trials(4)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, trials: list[Trial]) -> Path:
    """What an undisturbed run records, in packs of two."""
    root = tmp_path_factory.mktemp("faults") / "calm"
    run(trials, Store(root), pack_size=2)
    return root


class Acts:
    """An observer that does something after the chunk of its n-th call."""

    def __init__(self, at: int, act: Callable[[Chunk], None]) -> None:
        self._at, self._act = at, act
        self.starts: list[int] = []

    def chunk(self, chunk: Chunk) -> None:
        self.starts.append(chunk.start)
        if len(self.starts) == self._at:
            self._act(chunk)

    def begin(self, *_: Any) -> None: ...
    def finished(self, *_: Any) -> None: ...
    def end(self) -> None: ...


def storm(mode: str, folder: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.engine.storm", mode, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 20 * count, env=os.environ | ONE_THREAD)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # of the process that forks


def test_workers_killed_at_random_moments(tmp_path: Path) -> None:
    """Each worker finds all that its predecessors recorded, and the last one completes what an undisturbed run records."""
    found = storm("kills", tmp_path, KILLS)
    assert found["killed"] == KILLS
    assert (found["calm"], found["last"]) == (0, 0)
    assert found["while training"] >= KILLS // 2
    assert same(tmp_path / "stormy", tmp_path / "calm") == found["trials"]
    seen = [set(json.loads(line)) for line in (tmp_path / "seen.jsonl").read_text().splitlines()[1:]]
    assert all(before <= after for before, after in pairwise(seen))
    assert not [path for path in (tmp_path / "stormy" / "checkpoints").iterdir() if path.suffix != ".tmp"]
    assert not list((tmp_path / "stormy").rglob("*.corrupt"))
    print(f"{KILLS} workers killed, {found['while training']} of them while training; {found['trials']} trials")


def test_launchers_started_at_once_on_one_study(tmp_path: Path) -> None:
    """All train the same packs and write the same checkpoints; every trial is recorded, once."""
    found = storm("together", tmp_path, 2)
    assert found["launchers"] == [0, 0]
    assert same(tmp_path / "stormy", tmp_path / "calm") == found["trials"]


def test_two_writers_of_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one moves or removes the file between two steps of ours."""
    path, tree = tmp_path / "p.ckpt", {"w": jax.numpy.arange(3.0)}
    checkpoint.save(path, tree, {"step": 1})
    real = os.replace

    def after_the_other(source: Any, target: Any) -> None:
        if Path(source) == path:
            path.unlink()
        real(source, target)

    monkeypatch.setattr(os, "replace", after_the_other)
    checkpoint.save(path, tree, {"step": 2})
    loaded = checkpoint.load(path, tree)
    assert loaded is not None
    assert loaded[1] == {"step": 2}


@needs_mounts
def test_a_disk_that_is_full_for_checkpoints(
    tmp_path: Path, trials: list[Trial], calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training goes on without them, and says so once a pack."""
    store = Store(tmp_path / "study")
    store.check_writable()
    with mounted(store.root / "checkpoints", size="4k"):
        assert run(trials, store, pack_size=2, **EVERY_CHUNK).trained == len(trials)
        assert not list((store.root / "checkpoints").glob("*"))
    assert capsys.readouterr().out.count("No space left on device); training goes on") == 2
    assert same(store.root, calm) == len(trials)


@pytest.mark.parametrize("whose", ["its own", "the caller's"])
def test_a_signal_in_the_last_chunk_is_heard(tmp_path: Path, trials: list[Trial], calm: Path, whose: str) -> None:
    """Everything is recorded by then, but what comes next must not begin: a study's next stage, a task's next pack."""
    store, last = Store(tmp_path / "study"), Acts(2 * CHUNKS, send(signal.SIGTERM))
    if whose == "its own":
        with pytest.raises(Interrupted, match="SIGTERM"):
            run(trials, store, pack_size=2, observers=[last])
    else:
        with StopFlag() as stop:
            Runner(store, local_devices(), Settings(pack_size=2), [last]).train(trials, stop)
            with pytest.raises(Interrupted, match="SIGTERM"):
                stop.check()
    assert same(store.root, calm) == len(trials)


def test_a_disk_that_fills_up_between_checkpoints(
    tmp_path: Path, trials: list[Trial], calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one that was whole is what a killed trainer goes on from."""
    store, real, saves = Store(tmp_path / "study"), checkpoint.atomic_path, []

    def written(path: Path) -> Any:
        saves.append(path)
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    monkeypatch.setattr(checkpoint, "atomic_path", written)
    with pytest.raises(Interrupted):
        run(trials, store, pack_size=2, observers=[Acts(4, send(signal.SIGTERM))], **EVERY_CHUNK)
    monkeypatch.setattr(checkpoint, "atomic_path", real)
    resumed = Acts(0, lambda chunk: None)
    run(trials, store, pack_size=2, observers=[resumed])
    assert resumed.starts[0] == 4  # two chunks of two steps
    assert same(store.root, calm) == len(trials)


@needs_mounts
def test_a_disk_that_is_full_for_records(tmp_path: Path, trials: list[Trial], calm: Path) -> None:
    """The pack that cannot be recorded is not, the one before is, and later the checkpoint is gone on from."""
    store = Store(tmp_path / "study")
    with mounted(store.root, size="512k"):
        hog = store.root / "hog"

        def fill(chunk: Chunk) -> None:
            with suppress(OSError), hog.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(256))

        with pytest.raises(OSError, match="No space"):
            run(trials, store, pack_size=2, observers=[Acts(2 * CHUNKS, fill)], **EVERY_CHUNK)
        assert store.finished() == {trial.id for trial in trials[:2]}
        assert not list(store.root.rglob("*.tmp"))
        hog.unlink()
        resumed = Acts(0, lambda chunk: None)
        assert run(trials, store, pack_size=2, observers=[resumed]).trained == 2
        assert len(resumed.starts) == 1
        assert same(store.root, calm) == len(trials)


@needs_mounts
def test_results_that_are_read_only(tmp_path: Path, trials: list[Trial], calm: Path) -> None:
    """Nothing is trained, and all that is recorded can be read."""
    store = Store(tmp_path / "study")
    run(trials[:2], store)
    before = content(store.root)[0]
    with mounted(store.root, read_only=True):
        with pytest.raises(BadInput, match="results=DIR"):
            run(trials, store)
        assert content(store.root)[0] == before
        assert store.finished() == {trial.id for trial in trials[:2]}


def send(*numbers: signal.Signals) -> Callable[[Chunk], None]:
    def act(chunk: Chunk) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-100],
    "a flipped bit": lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damaged", [1, 2], ids=["the newest", "both"])
def test_damaged_checkpoints_of_a_pack(
    tmp_path: Path, trials: list[Trial], calm: Path, damaged: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one before is gone on from, or the start; each is named; the bits are the same."""
    for name, damage in DAMAGES.items():
        store = Store(tmp_path / name)
        with pytest.raises(Interrupted):
            run(trials, store, pack_size=2, observers=[Acts(4, send(signal.SIGTERM))], **EVERY_CHUNK)
        (newest,) = (store.root / "checkpoints").glob("*.ckpt")
        broken = [newest, newest.with_suffix(".previous")][:damaged]
        for path in broken:
            path.write_bytes(damage(path.read_bytes()))
        capsys.readouterr()
        resumed = Acts(0, lambda chunk: None)
        run(trials, store, pack_size=2, observers=[resumed])
        said = capsys.readouterr().out
        assert all(f"{path} cannot be used (damaged" in said for path in broken), said
        assert resumed.starts[0] == {1: 6, 2: 0}[damaged]
        assert same(store.root, calm) == len(trials)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal(tmp_path: Path, trials: list[Trial], calm: Path, second: signal.Signals) -> None:
    """SIGINT twice ends at once, and costs the chunk in flight; SIGTERM after SIGINT still checkpoints."""
    store = Store(tmp_path / "study")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt if second == signal.SIGINT else Interrupted):
        run(trials, store, pack_size=2, observers=[Acts(CHUNKS + 3, send(signal.SIGINT, second))], **EVERY_CHUNK)
    assert signal.getsignal(signal.SIGINT) is before
    assert store.finished() == {trial.id for trial in trials[:2]}
    resumed = Acts(0, lambda chunk: None)
    assert run(trials, store, pack_size=2, observers=[resumed]).trained == 2
    assert resumed.starts[0] == (4 if second == signal.SIGINT else 6)
    assert same(store.root, calm) == len(trials)


def test_a_pack_out_of_memory_is_halved_until_it_fits(
    tmp_path: Path, trials: list[Trial], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it happens: while compiling, in a first chunk, in a later one. Each trial is recorded once, bits as ever."""
    failed: list[int] = []
    train_chunk, program = runner.Runner._train_chunk, Compiler.program

    def exhausted(pack: Pack) -> None:
        failed.append(pack.width)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes")

    def compiles(self: Compiler, pack: Pack) -> Any:
        if pack.width == 32:
            exhausted(pack)
        return program(self, pack)

    def trains(self: Any, pack: Pack, *arguments: Any) -> Any:
        if (pack.width, arguments[3][0]) in ((16, 0), (8, 2)):
            exhausted(pack)
        return train_chunk(self, pack, *arguments)

    monkeypatch.setattr(runner.Runner, "_train_chunk", trains)
    monkeypatch.setattr(Compiler, "program", compiles)
    many = [replace(trial, workload=Regression(width=4, batch_size=512)) for trial in some_trials(20)]
    store, calm = Store(tmp_path / "study"), Store(tmp_path / "calm")
    assert run(many, store).trained == len(many)
    monkeypatch.undo()
    run(many, calm)
    assert Counter(failed) == {32: 1, 16: 1, 8: 1}  # packs of one program are halved together
    assert capsys.readouterr().out.count("ran out of memory: split in two") == len(failed)
    assert same(store.root, calm.root, apart=("pack", "pack_size")) == len(many)


def test_a_trial_that_fits_no_device_stops_nobody_else(
    tmp_path: Path, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_chunk = runner.Runner._train_chunk

    def trains(self: Any, pack: Pack, *arguments: Any) -> Any:
        if pack.static.workload.width == 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes")
        return train_chunk(self, pack, *arguments)

    monkeypatch.setattr(runner.Runner, "_train_chunk", trains)
    monkeypatch.setattr("harness.engine.pack._wanted", lambda pack: 1)  # slots per core: nothing to halve
    large = replace(trials[0], workload=replace(trials[0].workload, width=8))
    store = Store(tmp_path / "study")
    with pytest.raises(BadInput, match=r"1 trials did not fit .* width 8 and batch size .* engine.layout=model"):
        run([large, *trials], store)
    assert {row["trial"] for row in store.trials().to_pylist()} == {trial.id for trial in trials}


def test_other_errors_of_a_device_are_not_retried(
    tmp_path: Path, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_chunk(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")

    monkeypatch.setattr(runner.Runner, "_train_chunk", train_chunk)
    with pytest.raises(jax.errors.JaxRuntimeError, match="gone"):
        run(trials, Store(tmp_path / "study"))


def test_a_device_that_is_lost(
    tmp_path: Path, trials: list[Trial], calm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its trials go on from their checkpoint on the other device; what was finished stays."""
    devices = Devices(Mesh(jax.local_devices(), (TRIAL_AXIS,)))
    train_chunk, put = runner.Runner._train_chunk, jax.device_put
    dead = devices.mesh.devices.flat[1]
    calls: list[int] = []

    def dies(self: Any, pack: Pack, *arguments: Any) -> Any:
        calls.append(arguments[3][0])
        if self._devices.count == devices.count and len(calls) == CHUNKS + 3:  # in the second pack
            raise jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_UNKNOWN: the device fell off the bus")
        return train_chunk(self, pack, *arguments)

    def refuses(value: Any, device: Any = None, **rest: Any) -> Any:
        if device is dead:
            raise jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_UNKNOWN: the device fell off the bus")
        return put(value, device, **rest)

    monkeypatch.setattr(runner.Runner, "_train_chunk", dies)
    monkeypatch.setattr(jax, "device_put", refuses)
    store = Store(tmp_path / "study")
    assert run(trials, store, devices, pack_size=2, **EVERY_CHUNK).trained == len(trials)
    monkeypatch.undo()
    assert calls[CHUNKS + 2] == calls[CHUNKS + 3] > 0  # from the checkpoint of the chunk before
    assert f"lost 1 of {devices.count} devices" in capsys.readouterr().out
    rows = store.trials().to_pylist()
    assert sorted(row["trial"] for row in rows) == sorted(trial.id for trial in trials)  # each once
    expected = {row["trial"]: row["final_loss"] for row in Store(calm).trials().to_pylist()}
    assert {row["trial"]: row["final_loss"] for row in rows} == pytest.approx(expected, rel=1e-5)


@contextmanager
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The wall clock jumps by hours, back and forth, whenever it is asked; yields the jumps."""
    real, jumps = time.time, []

    def now() -> float:
        jumps.append((-1) ** len(jumps) * 3600.0 * (1 + len(jumps) % 50))
        return real() + jumps[-1]

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(now(), tz)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", now)
        patch.setattr(fragments.time, "time", now)
        patch.setattr(runner, "datetime", Jumping)
        yield jumps


def test_clock_jumps(tmp_path: Path, trials: list[Trial], calm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a training that is interrupted, gone on with, compacted and read: no name, order or limit depends on it."""
    store = Store(tmp_path / "study")
    with jumping_clock(monkeypatch) as jumps:
        with pytest.raises(Interrupted):
            run(trials, store, pack_size=2, observers=[Acts(CHUNKS + 3, send(signal.SIGTERM))], **EVERY_CHUNK)
        for _ in range(4):  # a failure hides no result, whenever its clock says that it was
            store.append([{"trial": trial.id, "status": "failed"} for trial in trials])
        assert store.finished() == {trial.id for trial in trials[:2]}
        resumed = Acts(0, lambda chunk: None)
        assert run(trials, store, pack_size=2, observers=[resumed]).trained == 2
        store.compact()
        assert resumed.starts[0] == 6
        assert same(store.root, calm) == len(trials)
    assert len(jumps) > 10


def test_fresh_files_are_not_swept_by_a_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages are told by the file system's clock: a process whose own clock is days ahead removes nobody's work."""
    store = Store(tmp_path / "study")
    store.append([{"trial": "a" * 16, "status": "ok"}])
    fresh = store.root / "trials" / ".in_flight.tmp"
    fresh.write_text("")
    ahead = time.time() + timedelta(days=9).total_seconds()
    monkeypatch.setattr(time, "time", lambda: ahead)
    store.compact()
    assert fresh.exists()


def test_a_file_system_without_locks(
    tmp_path: Path, trials: list[Trial], calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing asks for one: training, checkpoints, records, merging and reading go as ever."""
    asked = []

    def refuse(*arguments: Any) -> None:
        asked.append(arguments)
        raise OSError(errno.ENOLCK, "No locks available")

    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, refuse)
    store = Store(tmp_path / "study")
    with pytest.raises(Interrupted):
        run(trials, store, pack_size=2, observers=[Acts(4, send(signal.SIGTERM))], **EVERY_CHUNK)
    run(trials, store, pack_size=2)
    store.compact()
    assert not asked
    assert same(store.root, calm) == len(trials)


HANGS = """
import ctypes, sys, time
from pathlib import Path
from harness.engine import devices, watchdog
devices.configure(devices=2)
from harness.records.store import Store
from tests.engine.storm import CHUNKS, some_trials
from tests.engine.test_faults import EVERY_CHUNK, Acts
from tests.trials import run

def this_is_where_it_hangs(chunk):
    (ctypes.PyDLL(None).sleep if sys.argv[2] == "holding" else time.sleep)(600)

watchdog._GRACE = 0.5
trials = some_trials(4)
run(trials[:2], Store(Path(sys.argv[1])), pack_size=2)  # and the program is compiled
acts = Acts(4, this_is_where_it_hangs)
run(trials, Store(Path(sys.argv[1])), pack_size=2, observers=[acts], chunk_limit_s=2.0, **EVERY_CHUNK)
"""


@pytest.mark.parametrize(("how", "code"), [("waiting", HUNG), ("holding", 1)])
def test_a_worker_that_hangs(tmp_path: Path, trials: list[Trial], calm: Path, how: str, code: int) -> None:
    """It says where, and ends, even if it holds Python's lock; what goes on afterwards starts at its last checkpoint."""
    store = Store(tmp_path / "study")
    command = [sys.executable, "-c", textwrap.dedent(HANGS), str(store.root), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert "this_is_where_it_hangs" in done.stderr
    assert how == "holding" or "engine.chunk_limit_s" in done.stderr
    assert store.finished() == {trial.id for trial in trials[:2]}
    resumed = Acts(0, lambda chunk: None)
    assert run(trials, store, pack_size=2, observers=[resumed]).trained == 2
    assert resumed.starts[0] == 6
    assert same(store.root, calm) == len(trials)


def test_the_watchdog_sleeps_where_all_is_well(tmp_path: Path, trials: list[Trial]) -> None:
    store = Store(tmp_path / "study")
    assert run(trials, store, pack_size=2, chunk_limit_s=60.0).trained == len(trials)
    assert Settings().chunk_limit_s is not None
    assert Settings(chunk_limit_s=None).chunk_limit_s is None
    with pytest.raises(BadInput, match="must be positive, or null"):
        Settings(chunk_limit_s=0.0)


def test_packs_after_a_restart_are_those_before(trials: list[Trial]) -> None:
    """Otherwise their checkpoints would be of no use; whatever is left after some packs are done."""
    many = some_trials(10)
    ids = [pack.id for pack in make_packs(many, local_devices(), 2**30, pack_size=4)[0]]
    assert [pack.id for pack in make_packs(many[4:], local_devices(), 2**30, pack_size=4)[0]] == ids[1:]
    assert [pack.id for pack in make_packs(many[8:], local_devices(), 2**30, pack_size=4)[0]] == ids[2:]
