"""Stop at any moment and go on: the resumed result is bitwise the uninterrupted one, and nothing finished is lost."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import cli, train
from harness.engine import checkpoint, environment
from harness.engine.runner import Chunk
from harness.engine.signals import Interrupted
from harness.records.store import Store
from tests.engine.test_packs import curve
from tests.trials import run, small_trial

ARGUMENTS = [
    "-m", "harness.train", "-m",
    "workload.corpus='zipf_markov:vocab_size=16'", "workload.width=8", "workload.depth=1", "workload.heads=2",
    "workload.context=8", "workload.batch_size=4", "workload.evaluation_sequences=8",
    "budget.steps=10000", "evaluations=40", "optimizer.learning_rate=0.001,0.01", "seed=0,1",
    "engine.checkpoint_overhead=1e9", "engine.devices=2",
]  # fmt: skip


def command(results: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *ARGUMENTS, f"results={results}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def finals(results: Path) -> dict[str, tuple[float, bytes]]:
    store = Store(results / "train")
    curves = store.curves(None).to_pylist()
    return {
        row["trial"]: (row["final_loss"], repr([c for c in curves if c["trial"] == row["trial"]]).encode())
        for row in store.trials().to_pylist()
    }


def without_attempt(found: dict[str, tuple[float, bytes]]) -> dict[str, float]:
    return {trial: final for trial, (final, _) in found.items()}


def wait_for_a_new_checkpoint(process: subprocess.Popen[bytes], folder: Path, after: float) -> float:
    """When the newest checkpoint was written, once there is one newer than `after`; inf if the process ended first."""
    while process.poll() is None:
        newest = max((path.stat().st_mtime for path in folder.glob("*.ckpt")), default=0.0)
        if newest > after:
            return newest
        time.sleep(0.01)
    return math.inf


def test_killed_at_random_moments_and_run_again(results: Path) -> None:
    """kill -9 of the command shortly after each of two checkpoints, then to the end: the same losses, each trial once."""
    assert cli.run(train.main, [*ARGUMENTS[2:], f"results={results / 'reference'}"]) == 0
    delays = random.Random(0)
    seen = 0.0
    for _ in range(2):
        process = command(results / "killed")
        seen = wait_for_a_new_checkpoint(process, results / "killed" / "train" / "checkpoints", seen)
        time.sleep(delays.uniform(0.0, 0.2))
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert command(results / "killed").wait(120) == 0
    expected, found = finals(results / "reference"), finals(results / "killed")
    assert len(expected) == 4
    assert without_attempt(found) == without_attempt(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_checkpoints_leaves_and_resumes_bitwise(tmp_path: Path, number: signal.Signals) -> None:
    trial = small_trial()
    reference = Store(tmp_path / "reference")
    run([trial], reference)
    store = Store(tmp_path / "interrupted")
    with pytest.raises(Interrupted) as caught:
        run([trial], store, observers=[Sends(number, at=4)])
    assert caught.value.exit_code == 128 + number
    assert store.finished() == set()
    assert list((store.root / "checkpoints").iterdir())
    watcher = Sends(None, at=0)
    run([trial], store, observers=[watcher])
    assert watcher.starts == [4, 8]
    assert np.array_equal(curve(reference, trial), curve(store, trial), equal_nan=True)
    assert not list((store.root / "checkpoints").iterdir())


def test_a_checkpoint_of_other_code_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or a row would name one version, and be what two made."""
    store = Store(tmp_path / "interrupted")
    with pytest.raises(Interrupted):
        run([small_trial()], store, observers=[Sends(signal.SIGINT, at=4)])
    monkeypatch.setattr(environment, "code_version", lambda: "0.2.0")
    watcher = Sends(None, at=0)
    run([small_trial()], store, observers=[watcher])
    assert watcher.starts == [0, 4, 8]
    assert "is of another version of the code" in capsys.readouterr().out


class Sends:
    """An observer that sends this process a signal after the chunk that ends at a step."""

    def __init__(self, number: signal.Signals | None, at: int) -> None:
        self.number, self.at = number, at
        self.starts: list[int] = []

    def begin(self, packs: object, notes: object) -> None: ...

    def chunk(self, chunk: Chunk) -> None:
        self.starts.append(chunk.start)
        if self.number and chunk.stop == self.at:
            os.kill(os.getpid(), self.number)

    def finished(self, pack: object, rows: object) -> None: ...

    def end(self) -> None: ...


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pack.ckpt"
    for step in (1, 2):
        checkpoint.save(path, {"w": np.full(3, step, np.float32)}, {"step": step})
    content = path.read_bytes()
    like = {"w": np.zeros(3, np.float32)}
    loaded = checkpoint.load(path, like)
    assert loaded is not None
    assert loaded[1] == {"step": 2}
    for damaged in (b"", content[:50], content[:-7], content[:200] + b"x" + content[201:]):
        path.write_bytes(damaged)
        loaded = checkpoint.load(path, like)
        assert loaded is not None
        assert loaded[1] == {"step": 1}
        np.testing.assert_array_equal(loaded[0]["w"], 1.0)
    assert "damaged" in capsys.readouterr().out


def test_a_checkpoint_needs_no_copy_of_the_state(tmp_path: Path) -> None:
    """Written and checked as a stream; read into the leaves alone."""
    tree = {f"w{i}": np.full((1, 512, 4096), i, np.float32) for i in range(8)}
    size = sum(leaf.nbytes for leaf in tree.values())
    path = tmp_path / "p.ckpt"
    tracemalloc.start()
    try:
        checkpoint.save(path, tree, {"step": 3})
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        loaded = checkpoint.load(path, tree)
        loading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert saving < 0.5 * size
    assert loading < 1.5 * size
    assert loaded is not None
    assert loaded[1] == {"step": 3}
    jax.tree.map(np.testing.assert_array_equal, loaded[0], tree)


def test_checkpoints_keep_their_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest, a newline and an archive that stands alone: also where it is so large that its index has 64-bit numbers."""
    tree = {"a": np.arange(6.0).reshape(1, 6), "b": np.zeros((1, 0))}
    path, old = tmp_path / "new.ckpt", tmp_path / "old.ckpt"
    for limit in (zipfile.ZIP64_LIMIT, 100):
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        checkpoint.save(path, tree, {"step": 3})
        digest, _, body = path.read_bytes().partition(b"\n")
        assert digest.decode() == hashlib.sha256(body).hexdigest()
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            np.testing.assert_array_equal(archive["leaf_0"], tree["a"])
        archive = io.BytesIO()  # as it was written in one piece
        np.savez(archive, meta=np.array('{"step": 3}'), leaf_0=tree["a"], leaf_1=tree["b"])
        old.write_bytes(hashlib.sha256(archive.getvalue()).hexdigest().encode() + b"\n" + archive.getvalue())
        for written in (path, old):
            loaded = checkpoint.load(written, tree)
            assert loaded is not None
            assert loaded[1] == {"step": 3}
            jax.tree.map(np.testing.assert_array_equal, loaded[0], tree)


def test_a_save_that_fails_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tree = tmp_path / "p.ckpt", {"w": np.zeros(3, np.float32)}
    for step in (1, 2):
        checkpoint.save(path, tree, {"step": step})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, tree, {"step": 3})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.ckpt", "p.previous"]
    loaded = checkpoint.load(path, tree)
    assert loaded is not None
    assert loaded[1] == {"step": 2}


def test_checkpoint_of_another_shape_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "pack.ckpt"
    checkpoint.save(path, {"w": np.zeros(3, np.float32)}, {"step": 1})
    assert checkpoint.load(path, {"w": np.zeros(4, np.float32)}) is None


def test_a_checkpoint_keeps_types_that_numpy_does_not_know(tmp_path: Path) -> None:
    """optax.adamw(mu_dtype="bfloat16") has such a state."""
    moment = jnp.arange(3, dtype=jnp.bfloat16)
    checkpoint.save(tmp_path / "p.ckpt", {"mu": moment}, {"step": 1})
    found = checkpoint.load(tmp_path / "p.ckpt", {"mu": jax.ShapeDtypeStruct(moment.shape, moment.dtype)})
    assert found is not None
    assert found[0]["mu"].dtype == moment.dtype
    assert found[0]["mu"].tolist() == [0, 1, 2]


def test_finished_trials_are_not_trained_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "twice")
    trials = [small_trial(seed=seed) for seed in (0, 1)]
    assert run(trials[:1], store).trained == 1
    time.sleep(0.01)
    again = run(trials, store)
    assert again.trained == 1
    assert store.finished() == {trial.id for trial in trials}


def test_checkpoints_of_recorded_packs_are_removed(tmp_path: Path) -> None:
    """A process killed between recording a pack and removing its checkpoint leaves one; what others train keeps theirs."""
    store, trial = Store(tmp_path / "s"), small_trial()
    run([trial], store)
    (pack,) = store.trials(("pack",))["pack"].to_pylist()
    left, others = (store.root / "checkpoints" / f"{name}.ckpt" for name in (pack, "0123456789abcdef"))
    for path in (left, left.with_suffix(".previous"), others):
        path.write_bytes(b"x")
    run([trial], store)
    assert list((store.root / "checkpoints").iterdir()) == [others]
