"""overhead: what a study spends outside compiled programs, in a process that starts cold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.measure import Section, Target
from tests.bench.setup import Setup
from tests.bench.worker import Worker

MOST = 5.0  # percent of train time
_OUTSIDE = ("data", "checkpoint", "records")  # clocks that run outside compiled programs
_ROUNDS = 3

# Study -> axes of its sweep that are cut, so that the benchmark stays short.
STUDIES: dict[str, dict[str, Sequence[Any]]] = {
    "quickstart": {"workload.width": [32, 64], "optimizer.learning_rate": [2.0**-8, 2.0**-6], "seed": [0, 1]},
    "digits": {},
}

Run = Mapping[str, Any]


def measure(setup: Setup, studies: Mapping[str, Mapping[str, Sequence[Any]]] = STUDIES) -> Section:
    section = Section("overhead", "time outside compiled programs, as a share of the time in training steps")
    for study, changes in studies.items():
        runs = [_run(study, changes, setup, turn) for turn in range(min(setup.rounds, _ROUNDS))]
        _add_study(section, study, runs)
    section.notes += [
        "outside: everything but training steps, evaluations and waiting for compilation; records and progress display "
        "on, tracker off; each repeat in a fresh process, the first with an empty compilation cache",
        "quickstart: "
        + ", ".join(f"{key} {values}" for key, values in STUDIES["quickstart"].items())
        + "; digits: whole",
    ]
    return section


def _run(study: str, changes: Mapping[str, Sequence[Any]], setup: Setup, turn: int) -> Run:
    with Worker("tests.bench.studies", setup.with_cache(setup.folder / "cache_studies")) as worker:
        root = setup.folder / f"{study}_{turn}"
        return worker.ask(study=study, changes={key: list(values) for key, values in changes.items()}, root=str(root))


def _add_study(section: Section, study: str, runs: Sequence[Run]) -> None:
    def share(seconds: Sequence[float]) -> list[float]:
        return [100.0 * s / run["seconds"]["train"] for s, run in zip(seconds, runs, strict=True)]

    clocks = [run["seconds"] for run in runs]
    inside = [sum(clock[name] for name in ("train", "eval", "compile")) for clock in clocks]
    outside = [run["elapsed"] - seconds for run, seconds in zip(runs, inside, strict=True)]
    section.add(f"{study}: train, {runs[0]['trained']} trials", "s", [clock["train"] for clock in clocks])
    section.add(f"{study}: waiting for compilation", "s", [clock["compile"] for clock in clocks])
    section.add(f"{study}: outside / train", "%", share(outside), Target("at most", MOST))
    for name in _OUTSIDE:
        section.add(f"{study}: of that, {name}", "%", share([clock[name] for clock in clocks]))
    section.add(f"{study}: of that, on no clock", "%", share([run["host"] for run in runs]))
    section.add(f"{study}: evaluation / train", "%", share([clock["eval"] for clock in clocks]))
    excess = [max(abs(run[name] - run["signatures"]) for name in ("compiled", "programs")) for run in runs]
    name = f"{study}: programs compiled beyond its {runs[0]['signatures']} static signatures"
    section.add(name, "programs", excess, Target("exactly", 0.0))
