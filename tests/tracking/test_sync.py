"""The mirror's loop: each version of a row once, at the stated rate, through failures and restarts."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.tracking import sync as module
from harness.tracking.journal import FILE, Journal
from harness.tracking.sync import Online, Pace, Sync
from harness.tracking.wandb_runs import Destination, version_of
from tests.tracking.recorded import record, trial_id


class FakeTarget:
    """Remembers uploads. fails: how many uploads fail first. loses: how many arrive nowhere although nothing fails."""

    def __init__(self, fails: int = 0, loses: int = 0, dies_after: int | None = None) -> None:
        self.fails, self.loses, self.dies_after = fails, loses, dies_after
        self.arrived: dict[str, str] = {}
        self.uploads: list[list[str]] = []

    @property
    def uploaded(self) -> list[str]:
        return sorted(trial for trials in self.uploads for trial in trials)

    def upload(self, runs: Sequence[tuple[Mapping[str, Any], Sequence[Any]]]) -> str:
        if self.dies_after is not None and len(self.uploads) == self.dies_after:
            raise KeyboardInterrupt
        self.uploads.append([row["trial"] for row, _ in runs])
        if self.fails:
            self.fails -= 1
            return "HTTP 429"
        if self.loses:
            self.loses -= 1
            return ""
        self.arrived |= {row["trial"]: version_of(row) for row, _ in runs}
        return ""

    def versions(self, trials: Sequence[str]) -> dict[str, str]:
        return {trial: self.arrived[trial] for trial in trials if trial in self.arrived}


class Clock:
    """Time passes only in sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def syncing(root: Path, target: FakeTarget, clock: Clock | None = None, **pace: Any) -> Sync:
    clock = clock or Clock()
    pace = {"runs_per_minute": 1e9, **pace}
    rng = random.Random(0)
    return Sync(root, target, "there", Pace(**pace), lambda text: None, clock.sleep, clock, rng)


def ids(count: int, first: int = 0) -> list[str]:
    return [trial_id(i) for i in range(first, first + count)]


def test_every_trial_once_and_only_what_is_new_after(tmp_path: Path) -> None:
    record(tmp_path, 40)
    target = FakeTarget()
    found = syncing(tmp_path, target).run()
    assert (found.uploaded, found.known, found.left) == (40, 0, [])
    assert target.uploaded == ids(40)
    target.uploads.clear()
    assert syncing(tmp_path, target).run().known == 40
    assert target.uploads == []
    record(tmp_path, 2, first=40)
    record(tmp_path, 1, first=7, finished_at="2026-02-02T00:00:00")  # trained again
    syncing(tmp_path, target).run()
    assert target.uploaded == [trial_id(7), *ids(2, 40)]
    target.uploads.clear()
    syncing(tmp_path, target).run(force=True)
    assert target.uploaded == ids(42)


def test_a_lost_journal_costs_no_upload(tmp_path: Path) -> None:
    record(tmp_path, 3)
    target = FakeTarget()
    syncing(tmp_path, target).run()
    (tmp_path / "wandb" / FILE).unlink()
    target.uploads.clear()
    syncing(tmp_path, target).run()
    assert target.uploads == []
    assert len(Journal(tmp_path / "wandb").known("there")) == 3


def test_a_restart_goes_on(tmp_path: Path) -> None:
    record(tmp_path, 40)
    target = FakeTarget(dies_after=1)
    with pytest.raises(KeyboardInterrupt):
        syncing(tmp_path, target).run()
    done = set(target.uploads[0])
    assert set(Journal(tmp_path / "wandb").known("there")) == done
    target.dies_after = None
    target.uploads.clear()
    assert syncing(tmp_path, target).run().uploaded == 40 - len(done)
    assert not done & set(target.uploaded)


@pytest.mark.parametrize("fault", ["fails", "loses"])
def test_failures_are_waited_out(tmp_path: Path, fault: str) -> None:
    record(tmp_path, 3)
    clock, target = Clock(), FakeTarget(**{fault: 4})
    found = syncing(tmp_path, target, clock, first=1.0, longest=3.0).run()
    assert (found.uploaded, found.left) == (3, [])
    assert [0.5 * full <= slept <= full for slept, full in zip(clock.slept, [1, 2, 3, 3], strict=True)] == [True] * 4


def test_it_gives_up_without_progress_and_says_why(tmp_path: Path) -> None:
    record(tmp_path, 3)
    target = FakeTarget(fails=10)
    found = syncing(tmp_path, target, attempts=4).run()
    assert found.left == ids(3)
    assert found.reason == "HTTP 429"
    assert len(target.uploads) == 4
    assert Journal(tmp_path / "wandb").known("there") == {}


def test_delays_are_random_and_capped() -> None:
    pace, rng = Pace(first=2.0, longest=300.0), random.Random(1)
    delays = [pace.delay(failures, rng) for failures in range(1, 30)]
    assert max(delays) <= 300.0
    assert len(set(delays)) == len(delays)


def test_the_rate_is_kept(tmp_path: Path) -> None:
    record(tmp_path, 40)
    clock = Clock()
    syncing(tmp_path, FakeTarget(), clock, runs_per_minute=60.0).run()
    assert clock.slept == [16.0, 16.0]  # 40 runs in batches of 16: the last one starts when 32 are paid for


def test_torn_and_foreign_lines_are_not_fatal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add("there", {"a": "1"})
    with journal.path.open("ab") as file:
        file.write(b'not json\n[1]\n{"to": "there"}\n\xff\xfe\n{"to": "there", "tri')
    journal.add("there", {"b": "2"})
    journal.add("elsewhere", {"c": "3"})
    assert journal.known("there") == {"a": "1", "b": "2"}


def test_a_trial_without_a_curve_is_mirrored(tmp_path: Path) -> None:
    record(tmp_path, 1)
    for path in (tmp_path / "curves").glob("*.parquet"):
        path.unlink()
    target = FakeTarget()
    assert syncing(tmp_path, target).run().uploaded == 1


class Stuck:
    """W&B with a client process that does not end when asked to, as wandb-core 0.31 does while the server is down."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self._connection = SimpleNamespace(_proc=SimpleNamespace(_process=self.process))

    def setup(self) -> Stuck:
        return self

    def teardown(self, exit_code: int) -> None:
        self.process.wait()


def test_a_client_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END", 0.1)
    stuck = Stuck()
    Online(stuck, Destination("windtunnel", None, "online", "study", "."), 1.0)._restart()
    assert stuck.process.returncode == -signal.SIGKILL


def test_the_client_process_is_found_in_the_installed_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.setup().ensure_service()
    assert module._process_of(wandb) is not None
    wandb.teardown()
