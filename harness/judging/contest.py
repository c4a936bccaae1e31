"""The contest: methods, settings, and the equal tuning of every method at every setting.

A *setting* is a workload at one width and one horizon. At each, every method trains the same number of quasi-random points of
its own search space on one seed; the best is trained again on fresh seeds, which alone report. A method that tunes itself has
one point; the steps that it spends on its search are steps of its run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.budget import Budget
from harness.parametrizations import PARAMETRIZATIONS
from harness.submissions import Submission
from harness.trial import Trial
from harness.tuning import Points, Space
from workloads.base import BadInput, Workload

TUNING_SEED = 0
FIRST_FRESH = 100  # seeds from here on report
CHUNKS = 25  # longer horizons have as many evaluations a step, so that they share programs

Rows = Mapping[str, Mapping[str, Any]]  # trial id -> row
Train = Callable[[Sequence[Trial]], Rows]


@dataclass(frozen=True)
class Setting:
    """A workload (with its width) and a horizon in steps."""

    workload: Workload
    steps: int

    @property
    def name(self) -> str:
        return f"{self.workload.name} width {self.workload.width}, {self.steps} steps"


@dataclass(frozen=True)
class Arena:
    """settings by workload; the first setting of each workload is where it is scored. points, seeds: per method and setting.
    chunks: evaluations at a workload's shortest horizon. on: what tuning looks at, at the horizon: loss or metric.
    rate_widths: workload -> widths at which learning rates are swept (default: those of its settings).
    """

    settings: Mapping[str, Sequence[Setting]]
    points: int
    seeds: int
    chunks: int = CHUNKS
    on: str = "loss"
    rate_widths: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def all(self) -> list[Setting]:
        return [setting for settings in self.settings.values() for setting in settings]

    @functools.cached_property
    def shortest(self) -> Mapping[str, int]:
        return {name: min(setting.steps for setting in settings) for name, settings in self.settings.items()}

    def validate(self, methods: Sequence[Submission]) -> None:
        """Raise BadInput, before anything is trained, on what cannot be."""
        for name, settings in self.settings.items():
            for setting in settings:
                setting.workload.validate()
            for width in self.rate_widths.get(name, ()):
                settings[0].workload.replace(width=width).validate()
        for method in methods:
            listed = len(method.space.listed) if isinstance(method.space, Points) else 0
            if listed > self.points:
                raise BadInput(
                    f"{method.name} lists {listed} points where every method tries {self.points}; set points={listed}, or list "
                    "fewer"
                )
            for setting in self.all:
                self.trial(method, setting, self.first_points(method)[0], TUNING_SEED).validate()

    def first_points(self, method: Submission) -> list[Mapping[str, float]]:
        """What a method tries at every setting, before edges are extended."""
        count = len(method.space.listed) if isinstance(method.space, Points) else self.points
        return list(method.space.points(count, TUNING_SEED))

    def trial(self, method: Submission, setting: Setting, values: Mapping[str, float], seed: int) -> Trial:
        """One training run of a method. At a seed all see the same initialisation and, with the same batch size, batches.

        A method with a batch size of its own sees as many examples in another number of steps.
        """
        ratio = setting.steps / self.shortest[setting.workload.name]
        workload = method.workload(setting.workload)
        return Trial(
            workload=workload,
            optimizer=method.optimizer(**values),
            schedule=method.schedule,
            parametrization=PARAMETRIZATIONS["sp"](),
            budget=Budget(steps=max(1, round(setting.steps * setting.workload.batch_size / workload.batch_size))),
            seed=seed,
            evaluations=max(1, round(self.chunks * ratio)),
        )


@dataclass(frozen=True)
class Tuned:
    """A method at a setting. points: every point tried with what it reached (less is better), the best first.
    edges: hyperparameter -> end of its axis at which the best one lies. trials: the best point on fresh seeds.
    """

    method: Submission
    setting: Setting
    points: tuple[tuple[Mapping[str, float], float], ...]
    edges: Mapping[str, str]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Mapping[str, float]:
        return self.points[0][0]

    @property
    def tokens(self) -> int:
        """That a run of the method sees (examples, where the workload has no tokens): the setting's, but for steps rounded to a
        batch size of its own.
        """
        return self.trials[0].tokens


def tune(methods: Sequence[Submission], arena: Arena, train: Train) -> list[Tuned]:
    """Every method at every setting. Edges at which any method's best point lies are extended for all that have the axis, and
    all try as many more points, outside the space that they had; methods without such an axis inside theirs.

    A submission that lists its points, such as the one point of an optimizer that tunes itself, has these and no others.
    """
    tried = {(m.name, s.name): arena.first_points(m) for m in methods for s in arena.all}
    scores = _scores(methods, arena, tried, train)
    spaces = {}
    for setting in arena.all:
        found = {edge for m in methods for edge in _edges(m.space, _best(tried, scores, m, setting)).items()}
        more = len(found) * max(2, arena.points // 4)
        for method in methods:
            key = (method.name, setting.name)
            if isinstance(method.space, Space):
                spaces[key] = method.space.widened(sorted(found))
                tried[key] += spaces[key].more_points(method.space, arena.points, more, TUNING_SEED)
    scores = _scores(methods, arena, tried, train)
    return [
        _tuned(method, setting, arena, spaces.get((method.name, setting.name), method.space), tried, scores)
        for setting in arena.all
        for method in methods
    ]


def _edges(space: Space | Points, point: Mapping[str, float]) -> dict[str, Literal["low", "high"]]:
    return space.edges(point) if isinstance(space, Space) else {}


def _scores(
    methods: Sequence[Submission],
    arena: Arena,
    tried: Mapping[tuple[str, str], Sequence[Mapping[str, float]]],
    train: Train,
) -> dict[tuple[str, str], list[float]]:
    """Validation loss (or metric, its sign such that less is better) of every point tried; infinite where it diverged."""
    trials = {
        (m.name, s.name): [arena.trial(m, s, point, TUNING_SEED) for point in tried[m.name, s.name]]
        for m in methods
        for s in arena.all
    }
    rows = train([trial for group in trials.values() for trial in group])
    return {
        key: [_badness(rows[trial.id], trial.workload, arena.on) for trial in group] for key, group in trials.items()
    }


def _badness(row: Mapping[str, Any], workload: Workload, on: str) -> float:
    value = row[f"final_{on}"]
    if value is None or not math.isfinite(value):
        return math.inf
    return -float(value) if on == "metric" and workload.metric.direction == "maximize" else float(value)


def _best(
    tried: Mapping[tuple[str, str], Sequence[Mapping[str, float]]],
    scores: Mapping[tuple[str, str], Sequence[float]],
    method: Submission,
    setting: Setting,
) -> Mapping[str, float]:
    key = (method.name, setting.name)
    return tried[key][min(range(len(scores[key])), key=scores[key].__getitem__)]


def _tuned(
    method: Submission,
    setting: Setting,
    arena: Arena,
    space: Space | Points,
    tried: Mapping[tuple[str, str], Sequence[Mapping[str, float]]],
    scores: Mapping[tuple[str, str], Sequence[float]],
) -> Tuned:
    """space: with its edges extended."""
    key = (method.name, setting.name)
    order = sorted(range(len(scores[key])), key=scores[key].__getitem__)
    points = tuple((tried[key][i], scores[key][i]) for i in order)
    best = points[0][0]
    trials = tuple(arena.trial(method, setting, best, FIRST_FRESH + k) for k in range(arena.seeds))
    return Tuned(method, setting, points, _edges(space, best), trials)


def best_of(values: Sequence[float], k: int) -> float:
    """Expected best of k of these points, drawn without replacement, were they drawn in another order.

    Sum over the sorted values v_i of v_i C(n - i, k - 1) / C(n, k): Dodge et al. 2019, "Show your work", equation 7.
    """
    ordered, n = sorted(values), len(values)
    total = math.comb(n, k)
    weights = [math.comb(n - i, k - 1) / total for i in range(1, n + 1)]
    return sum(weight * value for weight, value in zip(weights, ordered, strict=True) if weight)
