"""Rulesets: how often a submission trains, with which hyperparameters, and for how long. After AlgoPerf's rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.registry import Registry
from harness.submissions import Submission
from harness.tuning import Points

MAXIMUM = 4 / 3  # of the runtime that targets were set with


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
        return submission.space.points(self.trials, study)


@RULESETS.register("self_tuning")
@dataclass(frozen=True)
class SelfTuning(Ruleset):
    """One trial a study with the submission's own defaults on every workload; it may train half as long again."""

    stretch: ClassVar[float] = 1.5
    trials: int = 1
    studies: int = 3

    def points(self, submission: Submission, study: int) -> list[dict[str, float]]:
        defaults: Mapping[str, float] = {}
        if isinstance(submission.space, Points):
            defaults = submission.space.points(1, study)[0]
        return [dict(defaults) for _ in range(self.trials)]
