"""The live mirror: W&B's offline files hold what the records hold, and nothing that befalls W&B reaches the trainer."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from harness.config import TrackerConfig
from harness.engine.runner import Chunk
from harness.records.store import Store
from harness.tracking.journal import Journal
from harness.tracking.live import WandbTracker, chunk_points
from harness.tracking.mirror import Mirror
from harness.tracking.trackers import Guarded, make_tracker
from harness.tracking.wandb_runs import RECORDED, Destination, reason_of
from harness.trial import Trial
from tests.tracking.offline import OfflineRun, offline_runs
from tests.tracking.recorded import record, trial_id
from tests.tracking.standin import StandIn, standin
from tests.trials import run, small_trial

KEY = "k" * 40
ALL_POINTS = 256


def trials() -> list[Trial]:
    """The second one diverges."""
    return [small_trial(optimizer__learning_rate=rate) for rate in (1e-2, 1e4)]


def config(**values: Any) -> Any:
    return OmegaConf.structured(TrackerConfig(name="wandb", **values))


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with standin() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running


def assert_no_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def same(found: Any, expected: Any) -> bool:
    """NaN is NaN in a history, and the text "NaN" in a summary."""
    if isinstance(expected, float) and math.isnan(expected):
        return found == "NaN" or (isinstance(found, float) and math.isnan(found))
    return bool(found == expected)


def assert_history_is_recorded(history: list[dict[str, Any]], store: Store, trial: str) -> None:
    """Row by row and bit by bit; NaN is NaN, and what was not evaluated is absent."""
    curve = store.curves([trial]).drop_columns(["trial"]).to_pylist()
    assert [row["_step"] for row in history] == [point["step"] for point in curve]
    for row, point in zip(history, curve, strict=True):
        for name, value in point.items():
            assert (name not in row) if value is None else same(row[name], value), (name, row)


def assert_run_is_recorded(made: OfflineRun, store: Store) -> None:
    row = next(row for row in store.trials().to_pylist() if row["trial"] == made.id)
    assert_history_is_recorded(made.history, store, made.id)
    assert made.history[-1]["matmul_flops"] == row["matmul_flops"]
    assert made.config["optimizer/learning_rate"] == json.loads(row["config"])["optimizer.learning_rate"]
    assert made.group == store.root.name
    assert made.job_type == "train"
    assert set(made.metrics.values()) == {"", "step"}
    assert {"step", "tokens", "matmul_flops", "train_loss", "lr", "eval_loss"} <= made.metrics.keys()
    for name in ("status", "final_loss", "params", "flops", "train_s", "compile_s", "diverged_step"):
        assert row[name] is None or same(made.summary[name], row[name]), name
    assert made.summary[RECORDED] == f"{row['status']} {row['finished_at']}"
    assert made.exit_code == 0


class Chunks:
    """Remembers the chunks that it hears of."""

    def __init__(self) -> None:
        self.heard: list[Chunk] = []

    def chunk(self, chunk: Chunk) -> None:
        self.heard.append(chunk)

    def begin(self, *_: Any) -> None: ...
    def finished(self, *_: Any) -> None: ...
    def end(self) -> None: ...


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Chunks, str]:
    """A study that was mirrored offline while it was trained, with all its points; its chunks; what was printed."""
    root = tmp_path_factory.mktemp("mirrored") / "study"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setenv("WANDB_API_KEY", KEY)
        tracker = make_tracker(config(points=ALL_POINTS, tags=["mine"]), "study", root)
        assert tracker is not None
        chunks = Chunks()
        run(trials(), Store(root), observers=[tracker, chunks])
    return Store(root), chunks, printed.getvalue()


def test_offline_files_hold_what_the_records_hold(mirrored: tuple[Store, Chunks, str]) -> None:
    store, _, printed = mirrored
    made = offline_runs(store.root)
    assert set(made) == {trial.id for trial in trials()}
    for one in made.values():
        assert_run_is_recorded(one, store)
        assert one.tags[0] == "mine"
        assert len(one.tags) == 2  # and the commit
    assert made[trials()[0].id].name == "language_model w8 sp lr0.01 s0"
    assert set(Journal(store.root / "wandb").known("offline")) == set(made)
    assert "tracker" not in printed
    assert_no_secret(store.root)


def test_few_points_are_means_of_the_recorded_ones(mirrored: tuple[Store, Chunks, str]) -> None:
    store, chunks, _ = mirrored
    for i, trial in enumerate(trials()):
        curve = store.curves([trial.id])
        recorded = dict(zip(curve["step"].to_pylist(), curve["train_loss"].to_pylist(), strict=True))
        points = [point for chunk in chunks.heard for point in chunk_points(chunk, points=4)[i]]
        steps = [point["step"] for point in points]
        assert steps == ([3, 4, 6, 8, 9, 12] if i == 0 else [3])
        for start, point in zip([0, *steps], points, strict=False):
            losses = [recorded.get(step, math.nan) for step in range(start + 1, int(point["step"]) + 1)]
            np.testing.assert_allclose(point["train_loss"], np.mean(losses), rtol=1e-6)
        assert [p["step"] for p in points if "eval_loss" in p] == ([4, 8, 12] if i == 0 else [])


def test_a_server_of_errors_costs_nothing_local(
    server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fault = lambda kind, variables: 500
    store = Store(tmp_path / "study")
    run(trials(), store, observers=[Guarded(WandbTracker(config(mode="online", wait=0.5), "study", store.root))])
    assert store.finished() == {trial.id for trial in trials()}
    said = capsys.readouterr().out
    assert said.count("tracker: W&B does not have every trial") == 1
    assert "harness.wandb sync study=study" in said
    assert KEY not in said
    assert_no_secret(tmp_path)


def test_online_runs_arrive_whole(server: StandIn, tmp_path: Path) -> None:
    store = Store(tmp_path / "study")
    run(trials(), store, observers=[WandbTracker(config(mode="online", points=ALL_POINTS), "study", store.root)])
    assert set(server.runs) == {trial.id for trial in trials()}
    for name, sent in server.runs.items():
        assert_history_is_recorded(sent.history, store, name)
        assert RECORDED in sent.summary
        assert sent.facts["exitcode"] == 0


class Kills:
    """Kills the mirror's process after the first chunk."""

    def __init__(self, tracker: WandbTracker) -> None:
        self._tracker = tracker
        self.begin, self.finished, self.end = tracker.begin, tracker.finished, tracker.end

    def chunk(self, chunk: Chunk) -> None:
        if self._tracker._process is not None and chunk.start == 0:
            os.kill(self._tracker._process.pid, signal.SIGKILL)
            self._tracker._process.wait()
        self._tracker.chunk(chunk)


def test_a_killed_mirror_costs_nothing_local(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "study")
    run(trials(), store, observers=[Kills(WandbTracker(config(), "study", store.root))])
    assert store.finished() == {trial.id for trial in trials()}
    assert capsys.readouterr().out.count("W&B does not have every trial") == 1


def test_a_full_queue_drops_events_and_says_whose() -> None:
    tracker = WandbTracker(config(), "study")
    tracker._queue = queue.Queue(1)
    tracker._send({"event": "chunk"}, ["a"])
    assert tracker._incomplete == set()
    tracker._send({"event": "chunk"}, ["b"])
    assert tracker._incomplete == {"b"}


def test_after_a_lost_event_no_later_point_is_sent(mirrored: tuple[Store, Chunks, str]) -> None:
    """W&B cannot add to the middle of a history."""
    tracker, chunk = WandbTracker(config(), "study"), mirrored[1].heard[1]
    lost, followed = (trial.id for trial in chunk.pack.trials)
    tracker._queue = queue.Queue(1)
    tracker._incomplete = {lost}
    tracker.chunk(chunk)
    assert set(tracker._queue.get()["points"]) == {followed}


def test_a_secret_in_an_error_is_not_shown() -> None:
    shown = reason_of(ConnectionError(f"401 for key {KEY} at wandb_v1_{'x' * 40}\nmore"))
    assert shown == "ConnectionError: 401 for key *** at ***"


class FakeRun:
    """Stands in for a W&B run. starting_step: as of a run that is resumed."""

    def __init__(self, starting_step: int, **arguments: Any) -> None:
        self.starting_step, self.arguments = starting_step, arguments
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


class FakeWandb:
    """Stands in for the package. reached: run -> the step that the server has."""

    def __init__(self, **reached: int) -> None:
        self.runs: list[FakeRun] = []
        self._reached = reached

    class Settings:
        model_fields: dict[str, Any] = {}  # noqa: RUF012

    def init(self, **arguments: Any) -> FakeRun:
        self.runs.append(FakeRun(self._reached.get(arguments["id"], -1) + 1, **arguments))
        return self.runs[-1]


def mirror(wandb: FakeWandb, root: Path, mode: str = "online", live: int = 64) -> Mirror:
    return Mirror(wandb, Destination("p", None, mode, root.name, str(root)), live, root, "0.1.0+abc")


def points(*steps: int) -> list[dict[str, float]]:
    return [{"step": step, "train_loss": 1.0 / step} for step in steps]


def opened(*trials: str) -> list[dict[str, Any]]:
    return [{"trial": trial, "config": {}} for trial in trials]


def closed(*trials: str, complete: bool = True) -> list[dict[str, Any]]:
    return [{"trial": trial, "version": "ok now", "complete": complete, "summary": {"params": 1}} for trial in trials]


@pytest.mark.parametrize("reached", [6, 4, 3, 0])
def test_a_resumed_trial_continues_its_run(tmp_path: Path, reached: int) -> None:
    """From a checkpoint at step 4: nothing is logged twice, and what the server lacks comes from the records."""
    trial = trial_id(0)
    store = record(tmp_path / "study", 1, steps=8)
    wandb = FakeWandb(**{trial: reached})
    following = mirror(wandb, store.root)
    following.chunk(4, opened(trial), {trial: points(5, 6, 7, 8)})
    following.finished(closed(trial))
    following.end()
    made = wandb.runs[0]
    assert made.arguments["resume"] == "allow"
    assert made.arguments["reinit"] == "create_new"
    assert [step for step, _ in made.logged] == list(range(reached + 1, 9))
    assert RECORDED in made.summary
    assert made.exit_code == 0


def test_without_records_a_gap_is_left_to_sync(tmp_path: Path) -> None:
    wandb = FakeWandb(a=3)
    following = Mirror(wandb, Destination("p", None, "online", "study", str(tmp_path)), 64, None, "0.1.0")
    following.chunk(4, opened("a"), {"a": points(5, 6)})
    following.finished(closed("a"))
    following.end()
    assert wandb.runs[0].logged == []
    assert RECORDED not in wandb.runs[0].summary
    assert (wandb.runs[0].exit_code, following.incomplete) == (1, 1)


def test_lost_events_come_from_the_records_and_interrupted_trials_fail(tmp_path: Path) -> None:
    store = record(tmp_path / "study", 1)
    wandb = FakeWandb()
    following = mirror(wandb, store.root)
    following.chunk(0, opened(trial_id(0), "b"), {trial_id(0): points(1, 2), "b": points(1)})
    following.finished(closed(trial_id(0), complete=False))
    following.end()
    assert [step for step, _ in wandb.runs[0].logged] == [1, 2, 3, 4, 5, 6]
    assert [RECORDED in made.summary for made in wandb.runs] == [True, False]
    assert [made.exit_code for made in wandb.runs] == [0, 1]
    assert following.incomplete == 1


def test_trials_beyond_the_most_live_ones_are_written_whole(tmp_path: Path) -> None:
    store = record(tmp_path / "study", 3)
    ids = [trial_id(i) for i in range(3)]
    wandb = FakeWandb()
    following = mirror(wandb, store.root, live=2)
    following.chunk(0, opened(*ids), {trial: points(1, 2) for trial in ids})
    assert len(wandb.runs) == 2
    following.finished(closed(*ids))
    following.end()
    last = wandb.runs[2]
    assert last.arguments["id"] == ids[2]
    assert [step for step, _ in last.logged] == [1, 2, 3, 4, 5, 6]
    assert RECORDED in last.summary
    assert following.incomplete == 0


def test_offline_a_resumed_trial_is_one_whole_run(tmp_path: Path) -> None:
    import wandb

    store = record(tmp_path / "study", 1)
    fragment = store.root / "wandb" / f"offline-run-20260101_000000-{trial_id(0)}"
    fragment.mkdir(parents=True)
    following = mirror(wandb, store.root, mode="offline")
    following.chunk(4, opened(trial_id(0)), {trial_id(0): points(5, 6)})
    following.finished([{**closed(trial_id(0))[0], "version": "ok 2026-01-01T00:00:00"}])
    following.end()
    wandb.teardown()
    assert not fragment.exists()
    made = offline_runs(store.root)[trial_id(0)]
    assert_history_is_recorded(made.history, store, trial_id(0))
    assert Journal(store.root / "wandb").known("offline") == {trial_id(0): made.summary[RECORDED]}
