"""One configuration for all workloads: what a method is worth to those who do not tune.

"How far away are truly hyperparameter-free learning algorithms?" (Kasimbeg et al. 2025) calibrates one configuration on all
workloads and compares it with the literature's default. Here every method tries the same points on all workloads, and a
workload's calibrated configuration is the one that is best on the *others*, so that none is judged by data that chose it; with
one workload there is none. A method without a default in the literature (`Optimizer.literature`) takes part calibrated only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from harness.judging.contest import Arena, Rows, Setting, Train, Tuned
from harness.submissions import Submission
from harness.transfer.plain import plain
from harness.trial import Trial
from harness.tuning import Points

CALIBRATION_SEED = 0  # of the points, and of training them; no setting has seeds below 1000
FIRST_SEED = 200
DIVERGED = 1.0
"""Log of the excess loss that a diverged run counts as when a configuration is chosen: e times the best."""


@dataclass(frozen=True)
class Fixed:
    """A method with one configuration on a workload. kind: default (the literature's) or calibrated (on the other workloads).

    source: where the configuration comes from.
    """

    method: str
    kind: str
    workload: str
    values: Mapping[str, float]
    source: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Contestant:
    """excess: (workloads, seeds) log of the loss over that of the tuned first baseline's median; NaN: diverged."""

    method: str
    kind: str
    excess: np.ndarray

    @property
    def mean(self) -> float:
        return float(np.where(np.isnan(self.excess), DIVERGED, self.excess).mean())


@dataclass(frozen=True)
class Comparison:
    """Of two contestants: ratio of losses (geometric mean) with its 95% t interval over seeds, paired. Conditional on the
    workloads and on the points tried.
    """

    first: str
    second: str
    ratio: float
    ci95: tuple[float, float]


def fixed_runs(tuned: Sequence[Tuned], arena: Arena, train: Train) -> list[Fixed]:
    """What to train: every method's default and calibrated configuration at the settings that score, on as many fresh seeds as
    the tuned ones have. There must be two workloads or more: a calibrated configuration is of the others.
    """
    methods = {one.method.name: one.method for one in tuned}
    scored = [settings[0] for settings in arena.settings.values()]
    losses = _tried(list(methods.values()), scored, arena, train)
    seeds = range(FIRST_SEED, FIRST_SEED + arena.studies * arena.seeds)
    return [
        Fixed(
            name, kind, here.workload.name, values, source, tuple(arena.trial(method, here, values, s) for s in seeds)
        )
        for name, method in methods.items()
        for here in scored
        for kind, values, source in _configurations(
            method, arena, {other.workload.name: losses[name, other.name] for other in scored if other != here}
        )
    ]


def _configurations(
    method: Submission, arena: Arena, others: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, Mapping[str, float], str]]:
    """(kind, values, source) of a method's configurations. others: the losses of its points on the other workloads."""
    literature = method.optimizer.literature
    if literature is not None:
        optimizer = method.optimizer(**literature.values)
        searched = {name: getattr(optimizer, name) for name in getattr(method.space, "axes", {})}
        values = {name: value for name, value in searched.items() if value is not None} | dict(literature.values)
        yield "default", values, literature.source
    excess = [sum(values) for values in zip(*map(_excess, others.values()), strict=True)]
    best = min(range(len(excess)), key=excess.__getitem__)
    yield "calibrated", _points(method, arena)[best], f"best of {len(excess)} points on {', '.join(others)}"


def _points(method: Submission, arena: Arena) -> Sequence[Mapping[str, float]]:
    """What a method tries on all workloads: as many points as its studies of a setting begin with, or those that it lists."""
    count = len(method.space.listed) if isinstance(method.space, Points) else arena.points * arena.studies
    return method.space.points(count, CALIBRATION_SEED)


def _tried(
    methods: Sequence[Submission], scored: Sequence[Setting], arena: Arena, train: Train
) -> dict[tuple[str, str], list[float]]:
    """(method, setting name) -> losses of the method's points there; infinite where they diverged."""
    trials = {
        (m.name, s.name): [arena.trial(m, s, point, CALIBRATION_SEED) for point in _points(m, arena)]
        for m in methods
        for s in scored
    }
    rows = train([trial for group in trials.values() for trial in group])
    losses = {key: [_loss(rows[trial.id]) for trial in group] for key, group in trials.items()}
    return {key: [math.inf if math.isnan(loss) else loss for loss in group] for key, group in losses.items()}


def _excess(losses: Sequence[float]) -> list[float]:
    """Logs of the losses over the least of them, DIVERGED at most."""
    best = min(losses)
    return [DIVERGED if loss == math.inf else min(math.log(loss / best), DIVERGED) for loss in losses]


def _contestants(runs: Sequence[Fixed], rows: Rows, reference: Mapping[str, float]) -> list[Contestant]:
    """In the order of methods and kinds; a method without a default has none of that kind."""
    found = []
    for method, kind in dict.fromkeys((run.method, run.kind) for run in runs):
        mine = [run for run in runs if (run.method, run.kind) == (method, kind) and run.workload in reference]
        table = [[math.log(_loss(rows[trial.id]) / reference[run.workload]) for trial in run.trials] for run in mine]
        found.append(Contestant(method, kind, np.array(table)))
    return found


def _loss(row: Mapping[str, Any]) -> float:
    return float(row["final_loss"]) if row["status"] == "ok" and row["final_loss"] > 0 else math.nan


def compare(first: Contestant, second: Contestant) -> Comparison:
    """Paired by workload and seed; the interval is over seeds, conditional on the workloads. Diverged runs leave none."""
    difference = (first.excess - second.excess).mean(axis=0)  # (seeds,): workloads count alike
    value, seeds = float(difference.mean()), difference.size
    half = math.nan
    if seeds > 1:
        half = float(stats.t.ppf(0.975, seeds - 1) * difference.std(ddof=1) / math.sqrt(seeds))
    names = (f"{first.method}, {first.kind}", f"{second.method}, {second.kind}")
    return Comparison(*names, math.exp(value), (math.exp(value - half), math.exp(value + half)))


@dataclass(frozen=True)
class Untuned:
    """The hyperparameter-free mode's result: the judged method, calibrated, against every other contestant."""

    runs: tuple[Fixed, ...]
    contestants: tuple[Contestant, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def without_default(self) -> tuple[str, ...]:
        """The methods that take part calibrated only, because the literature has no default of them."""
        kinds = {(one.method, one.kind) for one in self.contestants}
        methods = dict.fromkeys(one.method for one in self.contestants)
        return tuple(method for method in methods if (method, "default") not in kinds)

    def to_json(self) -> dict[str, Any]:
        configurations = [
            {
                "method": run.method,
                "kind": run.kind,
                "workload": run.workload,
                "values": dict(run.values),
                "source": run.source,
            }
            for run in self.runs
        ]
        found = [{"method": c.method, "kind": c.kind, "log_excess": c.excess, "mean": c.mean} for c in self.contestants]
        result: dict[str, Any] = plain(
            {
                "configurations": configurations,
                "contestants": found,
                "without_default": list(self.without_default),
                "comparisons": [vars(c) for c in self.comparisons],
            }
        )
        return result


def untuned(runs: Sequence[Fixed], rows: Rows, reference: Mapping[str, float], judged: str) -> Untuned:
    """reference: workload -> the tuned first baseline's median loss; the others do not count."""
    found = _contestants(runs, rows, reference)
    ours = next(one for one in found if (one.method, one.kind) == (judged, "calibrated"))
    others = [one for one in found if one is not ours]
    return Untuned(tuple(runs), tuple(found), tuple(compare(ours, one) for one in others))
