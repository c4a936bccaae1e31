"""A worker that trains a study's sweep as harness.study does, and tells where the time went."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf
from rich.console import Console

from harness.config import StudyConfig, compose_config
from harness.engine import devices
from harness.engine.runner import Runner
from harness.records.store import Store
from harness.sweep import flatten, points_of, trials_of
from harness.tracking.progress import ProgressDisplay
from harness.trial import Trial
from tests.bench.worker import serve

_COMPILATION = "/jax/core/compile/backend_compile_duration"
_PROGRAM = "sharded"  # what harness.engine.compiler calls the functions it compiles
_PARTS = 3  # init, chunk and evaluate


class CompileCounter:
    """Counts XLA compilations (or cache reads) of the engine's functions in this process."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration_secs: float, **facts: Any) -> None:
        self.count += event == _COMPILATION and _PROGRAM in str(facts.get("fun_name"))


def study_trials(name: str, changes: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """The trials of a study's sweep, with some of its axes replaced."""
    study = OmegaConf.to_object(compose_config("study", [f"study={name}"]).study)
    assert isinstance(study, StudyConfig)
    study.base = flatten(study.base)
    return trials_of(study, points_of({**flatten(study.sweep), **changes}))


def train(trials: Sequence[Trial], root: Path) -> dict[str, Any]:
    """Train and record, with a progress display and no tracker.

    seconds: of the clocks. elapsed: of everything. programs: XLA compilations / 3, because a program has three parts.
    """
    compilations = CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(compilations)
    display = ProgressDisplay(Console(file=io.StringIO()))
    root.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    summary = Runner(Store(root), devices.local_devices(), observers=[display]).train(trials)
    elapsed = time.perf_counter() - started
    jax.monitoring.unregister_event_duration_listener(compilations)
    return {
        "elapsed": elapsed,
        "seconds": summary.seconds,
        "host": summary.host,
        "trained": summary.trained,
        "compiled": summary.compiled,
        "programs": compilations.count / _PARTS,
        "signatures": len({(trial.static(), trial.horizon) for trial in trials}),
    }


def main() -> None:
    devices.configure()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        """{study, changes, root} -> what `train` returns."""
        return train(study_trials(question["study"], question["changes"]), Path(question["root"]))

    serve(answer)


if __name__ == "__main__":
    main()
