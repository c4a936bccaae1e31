"""The contest: methods, settings, and the equal tuning of every method at every setting.

A *setting* is a workload at one width and one horizon. At each, every method goes through the same number of *studies*, each
from the start: it draws quasi-random points of its own search space, trains them on a seed, and trains the best again on fresh
seeds, which alone report. What differs between studies is thus all that chance has to do with a result: the seeds, and the
luck of the points that were drawn. Points and seeds are a setting's own, so that this luck averages out over settings; methods
share them. A method that tunes itself has one point; the steps that it spends on its search are steps of its run.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.budget import Budget
from harness.parametrizations import PARAMETRIZATIONS
from harness.submissions import Submission
from harness.trial import Trial
from harness.tuning import Points, Space
from workloads.base import BadInput, Workload

FIRST_FRESH = 100  # of a setting's thousand seeds, those from here on report; those before tune
MOST_STUDIES = 50
ROUNDS = 3  # of extending axes: all at whose ends optima lie, then twice learning rates alone
CHUNKS = 50  # shorter horizons have as many evaluations a step, so that they share programs

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

    @functools.cached_property
    def first_seed(self) -> int:
        """Of a thousand that (but for collisions, one in 100,000) no other setting has."""
        return 1000 * (1 + zlib.crc32(self.name.encode()) % 100_000)


@dataclass(frozen=True)
class Arena:
    """settings by workload; the first setting of each workload is where it is scored. points: per method, setting and study.
    seeds: fresh ones of each study. chunks: evaluations, at least, at a workload's longest horizon. on: what tuning looks at,
    at the horizon: loss or metric. rate_widths: workload -> widths at which learning rates are swept (default: its settings').
    """

    settings: Mapping[str, Sequence[Setting]]
    points: int
    studies: int
    seeds: int = 1
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
        if self.studies > MOST_STUDIES:
            raise BadInput(
                f"studies={self.studies} are more than {MOST_STUDIES}, for which there are seeds; take fewer"
            )
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
                self.trial(method, setting, self.first_points(method, setting, 0)[0], 0).validate()

    def first_points(self, method: Submission, setting: Setting, study: int) -> list[Mapping[str, float]]:
        """What a method tries in a study, before edges are extended."""
        count = len(method.space.listed) if isinstance(method.space, Points) else self.points
        return list(method.space.points(count, setting.first_seed + study))

    def trial(self, method: Submission, setting: Setting, values: Mapping[str, float], seed: int) -> Trial:
        """One training run of a method. At a seed all see the same initialisation and, with the same batch size, batches.

        A method with a batch size of its own sees as many examples in another number of steps.
        """
        shortest = self.shortest[setting.workload.name]
        longest = max(other.steps for other in self.settings[setting.workload.name])
        chunks = math.ceil(self.chunks * shortest / longest)
        workload = method.workload(setting.workload)
        return Trial(
            workload=workload,
            optimizer=method.optimizer(**values),
            schedule=method.schedule,
            parametrization=PARAMETRIZATIONS["sp"](),
            budget=Budget(steps=max(1, round(setting.steps * setting.workload.batch_size / workload.batch_size))),
            seed=seed,
            evaluations=max(1, round(chunks * setting.steps / shortest)),
        )


@dataclass(frozen=True)
class Study:
    """One tuning from the start. points: every point tried with what it reached (less is better), the best first.
    edges: hyperparameter -> end of its axis at which the best one lies. trials: the best point on fresh seeds.
    """

    points: tuple[tuple[Mapping[str, float], float], ...]
    edges: Mapping[str, str]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Tuned:
    """A method at a setting."""

    method: Submission
    setting: Setting
    studies: tuple[Study, ...]

    @functools.cached_property
    def points(self) -> tuple[tuple[Mapping[str, float], float], ...]:
        """Of all studies, the best first."""
        return tuple(sorted((point for study in self.studies for point in study.points), key=lambda point: point[1]))

    @property
    def best(self) -> Mapping[str, float]:
        return self.points[0][0]

    @property
    def edges(self) -> Mapping[str, str]:
        """Ends of axes at which the best points of more than half of the studies lie."""
        found = [edge for study in self.studies for edge in study.edges.items()]
        return {name: end for name, end in dict.fromkeys(found) if 2 * found.count((name, end)) > len(self.studies)}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The fresh ones of all studies."""
        return tuple(trial for study in self.studies for trial in study.trials)

    @property
    def tokens(self) -> int:
        """That a run of the method sees (examples, where the workload has no tokens): the setting's, but for steps rounded to a
        batch size of its own.
        """
        return self.trials[0].tokens


@dataclass
class _Search:
    """One study of a method at a setting, while it goes on. scores: of what was tried."""

    method: Submission
    setting: Setting
    study: int
    space: Space | Points
    tried: list[Mapping[str, float]]
    scores: list[float] = field(default_factory=list)

    @property
    def best(self) -> Mapping[str, float]:
        return self.tried[min(range(len(self.scores)), key=self.scores.__getitem__)]

    @property
    def edges(self) -> dict[str, Literal["low", "high"]]:
        return self.space.edges(self.best) if isinstance(self.space, Space) else {}

    def extend(self, edges: Sequence[tuple[str, Literal["low", "high"]]], count: int, turn: int) -> None:
        """Try `count` more points: outside the space so far where these edges make it longer, or else inside it."""
        if isinstance(self.space, Space):
            wider = self.space.widened(edges)
            seed = self.setting.first_seed + self.study  # whose sequence goes on, or beside which others are drawn
            others = 0 if wider == self.space else FIRST_FRESH * (1 + turn)
            self.tried += wider.more_points(self.space, len(self.tried), count, seed + others)
            self.space = wider


def tune(methods: Sequence[Submission], arena: Arena, train: Train) -> list[Tuned]:
    """Every method at every setting. Edges at which any method's best point of a study lies are extended for all that have the
    axis, and all try as many more points, outside the space that they had; methods without such an axis inside theirs. Where a
    best learning rate then lies at the new end, again.

    A submission that lists its points, such as the one point of an optimizer that tunes itself, has these and no others.
    """
    groups = [
        [_Search(m, s, study, m.space, arena.first_points(m, s, study)) for m in methods]
        for s in arena.all
        for study in range(arena.studies)
    ]
    _train(groups, arena, train)
    for turn in range(ROUNDS):
        extended = False
        for group in groups:
            found = {edge for one in group for edge in one.edges.items() if turn == 0 or edge[0] == "learning_rate"}
            for one in group:
                one.extend(sorted(found), len(found) * max(2, arena.points // 4), turn)
            extended |= bool(found)
        if not extended:
            break
        _train(groups, arena, train)
    searches = [one for group in groups for one in group]
    return [
        Tuned(
            method,
            setting,
            tuple(_study(one, arena) for one in searches if (one.method, one.setting) == (method, setting)),
        )
        for setting in arena.all
        for method in methods
    ]


def _train(groups: Sequence[Sequence[_Search]], arena: Arena, train: Train) -> None:
    """Sets scores: validation loss (or metric, its sign such that less is better) of every point; infinite if it diverged."""
    trials = [
        (one, [arena.trial(one.method, one.setting, point, one.setting.first_seed + one.study) for point in one.tried])
        for group in groups
        for one in group
    ]
    rows = train([trial for _, mine in trials for trial in mine])
    for one, mine in trials:
        one.scores = [_badness(rows[trial.id], trial.workload, arena.on) for trial in mine]


def _study(one: _Search, arena: Arena) -> Study:
    order = sorted(range(len(one.scores)), key=one.scores.__getitem__)
    points = tuple((one.tried[i], one.scores[i]) for i in order)
    first = one.setting.first_seed + FIRST_FRESH + one.study * arena.seeds
    trials = tuple(arena.trial(one.method, one.setting, one.best, first + k) for k in range(arena.seeds))
    return Study(points, one.edges, trials)


def _badness(row: Mapping[str, Any], workload: Workload, on: str) -> float:
    value = row[f"final_{on}"]
    if value is None or not math.isfinite(value):
        return math.inf
    return -float(value) if on == "metric" and workload.metric.direction == "maximize" else float(value)


def best_of(values: Sequence[float], k: int) -> float:
    """Expected best of k of these points, drawn without replacement, were they drawn in another order.

    Sum over the sorted values v_i of v_i C(n - i, k - 1) / C(n, k): Dodge et al. 2019, "Show your work", equation 7.
    """
    ordered, n = sorted(values), len(values)
    total = math.comb(n, k)
    weights = [math.comb(n - i, k - 1) / total for i in range(1, n + 1)]
    return sum(weight * value for weight, value in zip(weights, ordered, strict=True) if weight)
