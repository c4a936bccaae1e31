"""One configuration for all workloads: what a method is worth to those who do not tune.

"How far away are truly hyperparameter-free learning algorithms?" (Kasimbeg et al. 2024) calibrates one configuration on all
workloads and compares it with the literature's defaults. Here a workload's calibrated configuration is the tried point that is
best on the *other* workloads, so that none is judged by data that chose it; with one workload there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from harness.judging.contest import Arena, Rows, Tuned
from harness.submissions import Submission
from harness.transfer.plain import plain
from harness.trial import Trial

FIRST_SEED = 200
DIVERGED = 1.0
"""Log of the excess loss that a diverged run counts as when a configuration is chosen: e times the best."""
KINDS = ("default", "calibrated")
_Point = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Fixed:
    """A method with one configuration on a workload. kind: default (its own) or calibrated (on the other workloads)."""

    method: str
    kind: str
    workload: str
    values: Mapping[str, float]
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
    """Of two contestants: ratio of losses (geometric mean) with its 95% t interval over workloads and seeds, paired."""

    first: str
    second: str
    ratio: float
    ci95: tuple[float, float]


def fixed_runs(tuned: Sequence[Tuned], arena: Arena) -> list[Fixed]:
    """What to train: every method's default and calibrated configuration at the settings that score.

    There must be two workloads or more: a calibrated configuration is of the others.
    """
    scored = [settings[0] for settings in arena.settings.values()]
    found = []
    for method in dict.fromkeys(one.method.name for one in tuned):
        mine = {one.setting: one for one in tuned if one.method.name == method and one.setting in scored}
        submission = next(iter(mine.values())).method
        for setting in scored:
            defaults = _defaults(submission)
            calibrated = _calibrated([one for other, one in mine.items() if other != setting])
            for kind, values in zip(KINDS, (defaults, calibrated), strict=True):
                seeds = range(FIRST_SEED, FIRST_SEED + arena.seeds)
                trials = tuple(arena.trial(submission, setting, values, seed) for seed in seeds)
                found.append(Fixed(method, kind, setting.workload.name, values, trials))
    return found


def _defaults(submission: Submission) -> dict[str, float]:
    optimizer = submission.optimizer()
    axes = getattr(submission.space, "axes", {})
    values = {name: getattr(optimizer, name) for name in axes}
    return {name: value for name, value in values.items() if value is not None}


def _calibrated(tried: Sequence[Tuned]) -> Mapping[str, float]:
    """The point tried on all of these settings whose losses, over each setting's best, have the least geometric mean."""
    tables: list[dict[_Point, float]] = [{tuple(sorted(p.items())): loss for p, loss in one.points} for one in tried]
    common: list[_Point] = [key for key in tables[0] if all(key in table for table in tables)]

    def cost(key: _Point) -> float:
        excess = [math.log(table[key] / min(table.values())) if table[key] < math.inf else DIVERGED for table in tables]
        return sum(min(value, DIVERGED) for value in excess)

    best: _Point = min(common, key=cost)
    return dict(best)


def _contestants(runs: Sequence[Fixed], rows: Rows, reference: Mapping[str, float]) -> list[Contestant]:
    found = []
    for method in dict.fromkeys(run.method for run in runs):
        for kind in KINDS:
            mine = [run for run in runs if (run.method, run.kind) == (method, kind) and run.workload in reference]
            table = [
                [math.log(_loss(rows[trial.id]) / reference[run.workload]) for trial in run.trials] for run in mine
            ]
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

    def to_json(self) -> dict[str, Any]:
        configurations = [
            {"method": run.method, "kind": run.kind, "workload": run.workload, "values": dict(run.values)}
            for run in self.runs
        ]
        found = [{"method": c.method, "kind": c.kind, "log_excess": c.excess, "mean": c.mean} for c in self.contestants]
        result: dict[str, Any] = plain(
            {"configurations": configurations, "contestants": found, "comparisons": [vars(c) for c in self.comparisons]}
        )
        return result


def untuned(runs: Sequence[Fixed], rows: Rows, reference: Mapping[str, float], judged: str) -> Untuned:
    """reference: workload -> the tuned first baseline's median loss; the others do not count."""
    found = _contestants(runs, rows, reference)
    ours = next(one for one in found if (one.method, one.kind) == (judged, "calibrated"))
    others = [one for one in found if one is not ours]
    return Untuned(tuple(runs), tuple(found), tuple(compare(ours, one) for one in others))
