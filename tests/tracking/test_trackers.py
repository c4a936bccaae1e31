"""Whatever a tracker does, training goes on; the progress display."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from harness.config import TrackerConfig
from harness.records.store import Store
from harness.tracking.trackers import Guarded, make_tracker
from harness.trial import Trial
from tests.trials import run, small_trial
from workloads.base import BadInput


def trials() -> list[Trial]:
    return [small_trial(optimizer__learning_rate=rate) for rate in (1e-3, 1e-2)]


def config(**values: Any) -> Any:
    return OmegaConf.structured(TrackerConfig(name="wandb", **values))


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


def test_training_goes_on_when_trackers_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In any event, each is heard of once and not called again."""
    store = Store(tmp_path / "study")
    broken = [Breaks(event) for event in ("begin", "chunk", "finished", "end")]
    run(trials(), store, observers=[Guarded(tracker) for tracker in broken])
    assert store.finished() == {trial.id for trial in trials()}
    assert capsys.readouterr().out.count("training goes on without it") == 4
    assert [tracker.calls for tracker in broken] == [1, 2, 5, 6]  # begin, three chunks, finished, end


def test_no_tracker_by_default(tmp_path: Path) -> None:
    assert make_tracker(OmegaConf.structured(TrackerConfig()), "study") is None


def test_disabled_is_no_tracker() -> None:
    assert make_tracker(config(mode="disabled"), "study") is None


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"mode": "onlin"}, "online"),
        ({"points": 0}, "tracker.points=0 must be at least 1"),
        ({"wait": -1.0}, "tracker.wait"),
    ],
)
def test_bad_settings_name_the_fix(values: dict[str, Any], hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        make_tracker(config(**values), "study")


def test_progress_shows_trials_loss_rate_and_time_left(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from harness.tracking import progress

    shown, terminal = io.StringIO(), io.StringIO()
    displays = [
        progress.ProgressDisplay(Console(file=shown, force_terminal=False, width=200)),
        progress.ProgressDisplay(Console(file=terminal, force_terminal=True, width=200)),
    ]
    run(trials(), Store(tmp_path / "shown"), observers=displays)
    text = shown.getvalue()
    assert "training 2 trials in 1 packs" in text
    assert "2/2 trials" in text
    assert "best validation loss" in text
    assert "steps/s" in text
    assert "s left" in text
    assert "2/2 trials" in terminal.getvalue()


def test_the_time_left_is_of_each_workload_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is said before there is something to tell from; a resumed pack does not train what it has."""
    import io

    from rich.console import Console

    from harness.engine.devices import local_devices
    from harness.engine.pack import make_packs
    from harness.engine.runner import Chunk
    from harness.tracking import progress
    from workloads.regression import Regression

    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    slow = small_trial(budget__steps=1000)
    quick = replace(slow, workload=Regression(width=8))
    (first,), (second,) = (make_packs([trial], local_devices(), 2**30)[0] for trial in (slow, quick))
    shown = io.StringIO()
    display = progress.ProgressDisplay(Console(file=shown, width=200))
    display.begin([first, second], [])

    def chunk(pack: Any, start: int, stop: int, seconds: float) -> str:
        now[0] += seconds + 5
        scores = {"validation": {"loss": np.ones(1)}}
        display.chunk(Chunk(pack, start, stop, np.ones(1), np.ones(1), scores, seconds))
        return shown.getvalue().splitlines()[-1]

    assert "left" not in chunk(first, 0, 1, 0.1)
    shares = [pack.step_work / (first.step_work + second.step_work) for pack in (first, second)]
    said = chunk(
        first, 901, 1000, 9.9
    )  # resumed: 100 steps in 10 s, and 10 s of something else; all of the second is left
    assert said.endswith(f"{1000 * 0.1 * shares[1] / shares[0] * 2:.0f} s left")
    display.finished(first, [{}])
    chunk(second, 0, 400, 40.0)  # runs out of memory
    (half,) = make_packs([quick], local_devices(), 2**30)[0]
    said = chunk(half, 0, 500, 60.0)
    left = 500 * 100 / 900
    assert said.endswith(f"{left * (now[0] - 100) / (0.1 + 9.9 + 100):.0f} s left")
    said = chunk(half, 500, 1000, 50.0)
    assert said.endswith(" 0 s left")
