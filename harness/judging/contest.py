"""The contest: methods, settings, and the equal tuning of every method at every setting.

A *setting* is a workload at one width and one horizon. At each, every method trains the same number of quasi-random points of
its own search space on one seed; the best is trained again on fresh seeds, which alone report.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.budget import Budget
from harness.parametrizations import PARAMETRIZATIONS
from harness.submissions import Submission
from harness.trial import Trial
from harness.tuning import Space
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

    @property
    def tokens(self) -> int:
        """That are seen in all of them (examples, where the workload has no tokens)."""
        return self.steps * self.workload.batch_size * self.workload.tokens_per_example


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


def tune(methods: Sequence[Submission], arena: Arena, train: Train) -> list[Tuned]:
    """Every method at every setting. An edge at which any method's best learning rate lies is extended for all of them.

    Raises BadInput on a submission that lists points, beyond whose edge nothing can be drawn.
    """
    drawn = {method.name: _axes(method) for method in methods}
    spaces = {(m.name, s.name): [drawn[m.name]] for m in methods for s in arena.all}
    tried: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for method in methods:
        for setting in arena.all:
            tried[method.name, setting.name] = list(method.space.points(arena.points, TUNING_SEED))
    scores = _scores(methods, arena, tried, train)
    for setting in arena.all:
        ends = {_edge(method, _best(tried, scores, method, setting)) for method in methods} - {""}
        for method in methods:
            for end in sorted(ends):
                wider = drawn[method.name].beyond("learning_rate", end)
                spaces[method.name, setting.name].append(wider)
                tried[method.name, setting.name] += wider.points(max(2, arena.points // 4), TUNING_SEED + 1)
    scores = _scores(methods, arena, tried, train)
    return [_tuned(method, setting, arena, spaces, tried, scores) for setting in arena.all for method in methods]


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


def _edge(method: Submission, point: Mapping[str, float]) -> str:
    return _axes(method).axes["learning_rate"].edge(point["learning_rate"])


def _axes(method: Submission) -> Space:
    if not isinstance(method.space, Space):
        raise BadInput(
            f"{method.name} lists its points; tuning all methods alike takes axes, e.g. learning_rate: {{log: [1e-4, 1e-1]}}"
        )
    return method.space


def _tuned(
    method: Submission,
    setting: Setting,
    arena: Arena,
    spaces: Mapping[tuple[str, str], Sequence[Space]],
    tried: Mapping[tuple[str, str], Sequence[Mapping[str, float]]],
    scores: Mapping[tuple[str, str], Sequence[float]],
) -> Tuned:
    key = (method.name, setting.name)
    order = sorted(range(len(scores[key])), key=scores[key].__getitem__)
    points = tuple((tried[key][i], scores[key][i]) for i in order)
    edges = {}
    for name, value in points[0][0].items():
        axes = [space.axes[name] for space in spaces[key]]
        low, high = min(axis.low for axis in axes), max(axis.high for axis in axes)
        end = dataclasses.replace(axes[0], low=low, high=high).edge(value)
        if end:
            edges[name] = end
    seeds = range(FIRST_FRESH, FIRST_FRESH + arena.seeds)
    return Tuned(method, setting, points, edges, tuple(arena.trial(method, setting, points[0][0], s) for s in seeds))


def best_of(values: Sequence[float], k: int) -> float:
    """Expected best of k of these points, drawn without replacement, were they drawn in another order.

    Sum over the sorted values v_i of v_i C(n - i, k - 1) / C(n, k): Dodge et al. 2019, "Show your work", equation 7.
    """
    ordered, n = sorted(values), len(values)
    total = math.comb(n, k)
    weights = [math.comb(n - i, k - 1) / total for i in range(1, n + 1)]
    return sum(weight * value for weight, value in zip(weights, ordered, strict=True) if weight)
