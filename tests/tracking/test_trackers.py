"""W&B offline mirrors every trial of a pack; whatever a tracker does, training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.config import TrackerConfig
from harness.records.store import Store
from harness.tracking.trackers import Guarded, WandbTracker, make_tracker
from harness.trial import Trial
from tests.trials import run, small_trial


def trials() -> list[Trial]:
    return [small_trial(optimizer__learning_rate=rate) for rate in (1e-3, 1e-2)]


def config(**values: Any) -> Any:
    return OmegaConf.structured(TrackerConfig(name="wandb", **values))


class FakeRun:
    """Stands in for a W&B run: records what it is told."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.metrics: dict[str, str] = {}
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.finished = False

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics[name] = step_metric

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self, exit_code: int = 0) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    made: list[FakeRun] = []

    def init(**arguments: Any) -> FakeRun:
        made.append(FakeRun(**arguments))
        return made[-1]

    monkeypatch.setattr("wandb.init", init)
    return made


def test_a_pack_logs_one_live_run_per_trial(runs: list[FakeRun], tmp_path: Path) -> None:
    store = Store(tmp_path / "mirrored")
    run(trials(), store, observers=[WandbTracker(config(), "mirrored")])
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    assert {made.arguments["id"] for made in runs} == set(rows)
    for made in runs:
        row = rows[made.arguments["id"]]
        assert made.arguments["reinit"] == "create_new"
        assert made.arguments["group"] == "mirrored"
        assert made.arguments["config"]["optimizer.learning_rate"] == row["optimizer.learning_rate"]
        assert set(made.metrics.values()) == {"step"}
        steps = [entry["step"] for entry in made.logged]
        assert steps == sorted(steps)
        assert steps[-1] == 12
        assert made.logged[-1]["validation/loss"] == row["final_loss"]
        assert made.summary["final_loss"] == row["final_loss"]
        assert made.finished


def test_offline_mode_needs_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    tracker = make_tracker(config(), "offline")
    assert tracker is not None
    store = Store(tmp_path / "offline")
    run(trials(), store, observers=[tracker])
    files = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert all(any(trial.id in name for name in files) for trial in trials())


class Breaks:
    """A tracker that raises in one event."""

    def __init__(self, event: str) -> None:
        self.event, self.calls = event, 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            self.calls += 1
            if name == self.event:
                raise ConnectionError("down")

        return call


@pytest.mark.parametrize("event", ["begin", "chunk", "finished", "end"])
def test_training_goes_on_when_the_tracker_fails(
    event: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / event)
    run(trials(), store, observers=[Guarded(Breaks(event))])
    assert store.finished() == {trial.id for trial in trials()}
    assert capsys.readouterr().out.count("training goes on without it") == 1


def test_no_tracker_by_default(tmp_path: Path) -> None:
    assert make_tracker(OmegaConf.structured(TrackerConfig()), "study") is None


def test_progress_shows_trials_loss_rate_and_time_left(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from harness.tracking import progress

    shown = io.StringIO()
    display = progress.ProgressDisplay(Console(file=shown, force_terminal=False, width=200))
    run(trials(), Store(tmp_path / "shown"), observers=[display])
    text = shown.getvalue()
    assert "training 2 trials in 1 packs" in text
    assert "2/2 trials" in text
    assert "best validation loss" in text
    assert "steps/s" in text
    assert "s left" in text
    terminal = io.StringIO()
    display = progress.ProgressDisplay(Console(file=terminal, force_terminal=True, width=200))
    run([small_trial(seed=5)], Store(tmp_path / "live"), observers=[display])
    assert "1 trials" in terminal.getvalue()
