"""small: packs of tiny models against a Python loop that calls one jitted step per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.cases import family, seeds, trial
from tests.bench.measure import Section, Target, interleave, ratios, scaled
from tests.bench.packs import timed_pack
from tests.bench.setup import Setup
from tests.bench.worker import Worker

SPEED_UP = 20.0


@dataclass(frozen=True)
class Case:
    """label: how the size is called. fields: of the workload, beside its defaults."""

    workload: str
    label: str
    optimizer: str
    fields: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.workload} {self.label}, {self.optimizer}"


CASES = tuple(
    Case(workload, label, optimizer, fields)
    for workload, label, fields in (
        ("image_mlp", "width 64 (default)", {}),
        ("image_mlp", "width 16", {"width": 16}),
        ("regression", "width 64 (default)", {}),
        ("regression", "width 16", {"width": 16}),
    )
    for optimizer in ("sgd", "adamw")
)


def measure(setup: Setup, cases: tuple[Case, ...] = CASES, pack: int = 64, steps: int = 1000) -> Section:
    section = Section("small", f"trial-steps/s of packs of {pack} against one trial in a loop of jitted steps")
    with Worker("tests.bench.loop", setup.environment) as worker:
        for case in cases:
            _add_case(section, case, worker, setup, pack, steps)
    section.notes += [
        "loop: the engine's step on JAX's own random keys (same numbers), state donated, hyperparameters and data constants, "
        "in a process with JAX's defaults",
        "fetching: the loop reads the loss on the host at every step, as most users' loops do; packs fetch all losses",
        "the target is for the loop that fetches nothing",
    ]
    return section


def _add_case(section: Section, case: Case, worker: Worker, setup: Setup, pack: int, steps: int) -> None:
    one = trial(family(case.workload, **case.fields), case.optimizer, steps)
    question = {"workload": case.workload, "fields": dict(case.fields), "optimizer": case.optimizer, "steps": steps}

    def loop(fetch: bool) -> Callable[[], float]:
        return lambda: worker.ask(**question, fetch=fetch, seconds=setup.seconds / 2)["seconds"]

    engine = timed_pack(seeds(one, pack), setup.devices, setup.seconds / 2)
    timings = interleave({"engine": engine, "loop": loop(False), "fetching": loop(True)}, setup.rounds)
    section.add(f"{case.name}: engine", "us", scaled(timings["engine"], 1e6))
    section.add(f"{case.name}: loop", "us", scaled(timings["loop"], 1e6))
    section.add(
        f"{case.name}: loop / engine", "x", ratios(timings["loop"], timings["engine"]), Target("at least", SPEED_UP)
    )
    section.add(f"{case.name}: loop fetching / engine", "x", ratios(timings["fetching"], timings["engine"]))
