"""A W&B server that is slow, or not there at all: training does not wait for it, and the records are whole."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config import TrackerConfig
from harness.records.store import Store
from harness.tracking.live import WandbTracker
from harness.tracking.trackers import Guarded
from tests.engine.storm import some_trials
from tests.tracking.standin import standin
from tests.trials import run

WAIT = 0.5  # seconds that the mirror may take after training


def seconds_of(root: Path, mirrored: bool) -> float:
    """How long the chunks of four trials take."""
    config = OmegaConf.structured(TrackerConfig(name="wandb", mode="online", wait=WAIT))
    store, trials = Store(root), some_trials(4)
    observers = [Guarded(WandbTracker(config, "study", root))] if mirrored else []
    started = time.monotonic()
    run(trials, store, observers=observers)
    assert store.finished() == {trial.id for trial in trials}
    assert len(set(store.curves()["trial"].to_pylist())) == len(trials)
    return time.monotonic() - started


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)


def test_a_slow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten seconds for every answer; a run of four trials takes dozens of answers."""
    alone = seconds_of(tmp_path / "alone", False)
    with standin() as server:
        server.delay = 10.0
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert seconds_of(tmp_path / "study", True) < alone + WAIT + 8.0
    said = capsys.readouterr().out
    assert said.count("tracker: W&B does not have every trial") == 1
    assert "harness.wandb sync study=study" in said


@pytest.mark.parametrize("listens", [False, True], ids=["refused", "silent"])
def test_a_server_that_is_down(
    listens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connections are refused, or taken and never answered."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        seconds_of(tmp_path / "study", True)
    assert capsys.readouterr().out.count("tracker: W&B does not have every trial") == 1
