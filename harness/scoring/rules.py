"""Rulesets: which trial counts for its study, and how a performance profile becomes one number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.registry import Registry

TAU_MAX = 4.0
"""Times beyond this multiple of the fastest count as not met (AlgoPerf: Dahl et al. 2023, Benchmarking Neural Network
Training Algorithms)."""


class Rules:
    """Base of the rulesets. The class docstring says what the ruleset does."""

    name: ClassVar[str]
    needs_index: ClassVar[bool]

    def first_by(self, hit_index: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """(n,) what the chosen trial of a study has least of; ties go to the first trial in natural order."""
        raise NotImplementedError

    def area(self, ratios: np.ndarray) -> np.ndarray:
        """Area under the step [ratio <= tau] of each workload, tau from 1 to TAU_MAX, over the range's length. Any shape."""
        raise NotImplementedError


RULES: Registry[Rules] = Registry("rules")


@RULES.register("exact")
@dataclass(frozen=True)
class Exact(Rules):
    """The trial with the earliest time; the integral of the profile in closed form, (4 - ratio) / 3."""

    needs_index = False

    def first_by(self, hit_index: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        return seconds

    def area(self, ratios: np.ndarray) -> np.ndarray:
        return np.clip((TAU_MAX - ratios) / (TAU_MAX - 1), 0.0, None)


@RULES.register("algoperf")
@dataclass(frozen=True)
class AlgoPerf(Rules):
    """AlgoPerf's leaderboards: the trial with the earliest evaluation index, and its time; the trapezoid rule on 100 points."""

    needs_index = True

    def first_by(self, hit_index: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        return hit_index

    def area(self, ratios: np.ndarray) -> np.ndarray:
        tau = np.linspace(1.0, TAU_MAX, 100)
        step = tau[1] - tau[0]
        weight = np.full(tau.size, step)
        weight[[0, -1]] = step / 2
        above = np.append(np.cumsum(weight[::-1])[::-1], 0.0) / (TAU_MAX - 1)  # of the points from each on
        return above[np.searchsorted(tau, ratios)]
