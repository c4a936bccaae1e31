"""Rulesets: how often a submission trains, with which hyperparameters, and for how long. After AlgoPerf's rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.budget import Budget
from harness.goals import Goal
from harness.parametrizations import PARAMETRIZATIONS
from harness.registry import Registry
from harness.submissions import Submission
from harness.trial import Trial
from harness.tuning import Points
from workloads.base import BadInput

MAXIMUM = 4 / 3  # of the runtime that targets were set with
EVALUATIONS = 50  # at least, in the horizon that targets were set with
FIRST_POINTS = 1_000_000_000
"""Study k draws its points by the seed FIRST_POINTS + k, above every seed that harness.judging.contest draws points by: else a
study of the algorithm that set a target could hold the very configuration that set it.
"""


class Ruleset:
    """Base of the rulesets. The class docstring says what the ruleset does.

    trials: of a study; the best one counts. stretch: the longest run, over the external ruleset's.
    """

    name: ClassVar[str]
    stretch: ClassVar[float] = 1.0
    trials: int
    studies: int

    def longest(self, steps: int) -> int:
        """The longest run allowed, in steps of the reference batch size. steps: that targets were set with."""
        return math.ceil(steps * MAXIMUM * self.stretch - 1e-9)

    def points(self, submission: Submission, study: int) -> list[dict[str, float]]:
        """Hyperparameters of each trial of a study."""
        raise NotImplementedError


RULESETS: Registry[Ruleset] = Registry("ruleset")


@RULESETS.register("external_tuning")
@dataclass(frozen=True)
class ExternalTuning(Ruleset):
    """Every study draws its own quasi-random points (scrambled Halton) from the search space, or takes them from a list."""

    trials: int = 5
    studies: int = 3

    def points(self, submission: Submission, study: int) -> list[dict[str, float]]:
        return submission.space.points(self.trials, FIRST_POINTS + study)


@RULESETS.register("self_tuning")
@dataclass(frozen=True)
class SelfTuning(Ruleset):
    """One trial a study, with one configuration on every workload: the first point that the submission lists, or else its
    literature's default (harness.optimizers.literature; of a user's function its own). It may train half as long again.
    """

    stretch: ClassVar[float] = 1.5
    trials: int = 1
    studies: int = 3

    def points(self, submission: Submission, study: int) -> list[dict[str, float]]:
        return [self._point(submission) for _ in range(self.trials)]

    def _point(self, submission: Submission) -> dict[str, float]:
        """Raises BadInput where there is none."""
        if isinstance(submission.space, Points):
            return submission.space.points(1, 0)[0]
        literature = submission.optimizer.literature
        if literature is None and submission.optimizer.file:
            raise BadInput(
                f"{submission.name} has no learning rate of its own, which ruleset=self_tuning trains with; write "
                'SPACE = [{"learning_rate": 3e-3}] in its file, or def make(learning_rate=3e-3, ...), or use '
                "ruleset=external_tuning"
            )
        if literature is None:
            raise BadInput(
                f"the literature has no default of {submission.name}, which ruleset=self_tuning trains with; use "
                "ruleset=external_tuning, or enter a FILE.py that lists its point"
            )
        return dict(literature.values)


def trial_of(
    submission: Submission,
    goal: Goal,
    ruleset: Ruleset,
    values: Mapping[str, float],
    seed: int,
    test_curve: bool = False,
) -> Trial:
    """One training run under a ruleset. Batch sizes of a submission's own see as many examples."""
    workload = submission.workload(goal.workload)
    share = submission.horizon * goal.workload.batch_size / workload.batch_size
    steps = max(1, round(ruleset.longest(goal.steps) * share))
    return Trial(
        workload=workload,
        optimizer=submission.optimizer(**values),
        schedule=submission.schedule,
        parametrization=PARAMETRIZATIONS["sp"](),
        budget=Budget(steps=steps),
        seed=seed,
        evaluations=evaluations_of(steps * workload.batch_size, goal),
        probes=("test",) if test_curve else (),
    )


def evaluations_of(examples: int, goal: Goal) -> int:
    """How often a run of so many examples is evaluated: as densely as one of the goal's own horizon."""
    return max(EVALUATIONS, round(EVALUATIONS * examples / (goal.steps * goal.workload.batch_size)))
