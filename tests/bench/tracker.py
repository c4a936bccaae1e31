"""tracker: what the live W&B mirror costs training, in offline mode, with 64 runs open at once."""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from harness.config import TrackerConfig
from harness.engine import devices
from harness.engine.runner import Observer, Runner
from harness.records.store import Store
from harness.tracking.journal import Journal
from harness.tracking.progress import ProgressDisplay
from harness.tracking.trackers import make_tracker
from harness.trial import Trial
from tests.bench.cases import seeds, trial
from tests.bench.measure import Section, Target
from tests.bench.setup import Setup
from tests.bench.worker import Worker, serve
from workloads.language_model import LanguageModel

MOST = 3.0  # percent of train time
RUNS = 64
_STEPS, _EVALUATIONS = 1600, 10  # about 0.9 s of 2 cores, the mean of the quickstart's trials
_ROUNDS = 3

Run = Mapping[str, Any]


def cases(count: int = RUNS, steps: int = _STEPS) -> list[Trial]:
    """One pack: a language model of width 32 whose steps are so cheap that a core takes 32 trials of it."""
    model = LanguageModel(width=32, depth=2, heads=4, batch_size=4, context=64)
    return seeds(replace(trial(model, "adamw", steps), evaluations=min(_EVALUATIONS, steps)), count)


def measure(setup: Setup, count: int = RUNS, steps: int = _STEPS) -> Section:
    """Training with and without the mirror, in turns, each in a fresh process that finds its programs compiled."""
    section = Section("tracker", f"training {count} trials in one pack, with and without the live W&B mirror (offline)")
    runs: dict[str, list[Run]] = {"none": [], "wandb": []}
    rounds = min(setup.rounds, _ROUNDS)
    _train(setup, "none", count, steps, "warm")
    for turn in range(rounds):
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            runs[name].append(_train(setup, name, count, steps, str(turn)))
    _add(section, runs)
    section.notes += [
        f"a trial: language model of width 32, {steps} steps of 4 x 64 bytes, {_EVALUATIONS} evaluations",
        "a run costs the same however long its trial is: trials much shorter than these pay a larger share",
        "added in all: whole wall time with the mirror, its start and its end included, less that without, round by round",
        "after training: how long the trainer waits for the mirror to finish; at most tracker.wait",
    ]
    return section


def _train(setup: Setup, tracker: str, count: int, steps: int, turn: str) -> Run:
    with Worker("tests.bench.tracker", setup.with_cache(setup.folder / "cache_tracker")) as worker:
        root = setup.folder / f"tracker_{tracker}_{turn}"
        return worker.ask(tracker=tracker, count=count, steps=steps, root=str(root))


def _add(section: Section, runs: Mapping[str, list[Run]]) -> None:
    pairs = list(zip(runs["wandb"], runs["none"], strict=True))

    def added(key: str) -> list[float]:
        return [100.0 * (on[key] - off[key]) / off["train"] for on, off in pairs]

    section.add("train, without", "s", [run["train"] for run in runs["none"]])
    section.add("added in all / train", "%", added("elapsed"), Target("at most", MOST))
    section.add("of that, to training itself", "%", added("train"))
    section.add("of that, on the trainer's thread", "%", added("host"))
    section.add("of that, after training", "%", [100.0 * on["tail"] / off["train"] for on, off in pairs])
    section.add("mirror: processor time / train", "%", [100.0 * on["mirror_cpu"] / off["train"] for on, off in pairs])
    per_run = [1e3 * run["mirror_cpu"] / run["trials"] for run in runs["wandb"]]
    section.add("mirror: processor time / runs", "ms", per_run)
    lost = [run["runs_lost"] for run in runs["wandb"]]
    section.add("runs that are not whole", "runs", lost, Target("exactly", 0.0))


class Tail:
    """Times the last event of a tracker: how long it makes the trainer wait."""

    def __init__(self, tracker: Observer) -> None:
        self._tracker = tracker
        self.begin, self.chunk, self.finished = tracker.begin, tracker.chunk, tracker.finished
        self.seconds = 0.0

    def end(self) -> None:
        started = time.perf_counter()
        self._tracker.end()
        self.seconds = time.perf_counter() - started


def train(tracker: str, trials: list[Trial], root: Path) -> dict[str, Any]:
    """Train and record. elapsed, train, host, tail: seconds; mirror_cpu: of the mirror's processes."""
    root.mkdir(parents=True)
    observers: list[Any] = [ProgressDisplay(Console(file=io.StringIO()))]
    made = make_tracker(OmegaConf.structured(TrackerConfig(name=tracker)), root.name, root)
    tail = None if made is None else Tail(made)
    observers += [] if tail is None else [tail]
    before = _children()
    started = time.perf_counter()
    summary = Runner(Store(root), devices.local_devices(), observers=observers).train(trials)
    elapsed = time.perf_counter() - started
    whole = len(Journal(root / "wandb").known("offline"))
    return {
        "trials": len(trials),
        "elapsed": elapsed,
        "train": summary.seconds["train"],
        "host": summary.host,
        "tail": tail.seconds if tail else 0.0,
        "mirror_cpu": _children() - before,
        "runs_lost": len(trials) - whole if tracker == "wandb" else 0,
    }


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    devices.configure()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        """{tracker, count, steps, root} -> what `train` returns."""
        return train(question["tracker"], cases(question["count"], question["steps"]), Path(question["root"]))

    serve(answer)


if __name__ == "__main__":
    main()
