"""The long table that everything is scored from, and the times that each study reached."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.records.text import printable
from harness.scoring.rules import Rules
from harness.scoring.targets import Workloads
from workloads.base import BadInput


@dataclass(frozen=True)
class Trials:
    """One row a trial, (n,) each.

    submission, study, workload, trial: names. hit_index: the first evaluation that met the target, negative = none, NaN = not
    known. seconds: its time (any unit that is the same throughout); what is not finite did not meet the target, whatever the
    index. time_rel_stderr: relative standard error of the step time behind the seconds, of all rows where it is (1,).
    Raises BadInput where two rows have the same names, and where time_rel_stderr is negative or no number.
    """

    submission: np.ndarray
    study: np.ndarray
    workload: np.ndarray
    trial: np.ndarray
    hit_index: np.ndarray
    seconds: np.ndarray
    time_rel_stderr: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self) -> None:
        rows = list(zip(self.submission, self.study, self.workload, self.trial, strict=True))
        seen: set[tuple[str, ...]] = set()
        for row in rows:
            if row in seen:
                raise BadInput(
                    f"two rows are {_named(row)}; a trial may be there once, whatever its framework: remove or rename one"
                )
            seen.add(row)
        stderr = np.broadcast_to(self.time_rel_stderr, len(rows))
        odd = np.flatnonzero(~(np.isfinite(stderr) & (stderr >= 0)))
        if odd.size:
            raise BadInput(
                f"{_named(rows[odd[0]])} has time_rel_stderr = {stderr[odd[0]]:g}; use 0.01 for 1%, 0 if exact"
            )

    def met(self, rules: Rules) -> np.ndarray:
        """(n,) whether each trial met its target. Where rules need no index, a time without one is enough.

        Raises BadInput on a hit after no time.
        """
        hit = self.hit_index >= 0 if rules.needs_index else ~(self.hit_index < 0)
        met = hit & np.isfinite(self.seconds)
        early = np.flatnonzero(met & (self.seconds <= 0))
        if early.size:
            names = (self.submission, self.study, self.workload, self.trial)
            raise BadInput(
                f"{_named(tuple(column[early[0]] for column in names))} met its target after {self.seconds[early[0]]:g} s; "
                "times must be positive: write inf or leave it empty if not met"
            )
        return met


def _named(row: tuple[str, ...]) -> str:
    words = zip(("submission", "study", "workload", "trial"), row, strict=True)
    return ", ".join(f"{word} '{printable(name)}'" for word, name in words)


@dataclass(frozen=True)
class StudyTimes:
    """seconds: (S, C, K) time to target of each submission on each column of `workloads` in each study.

    inf: no trial of the study met the target. NaN: the study has no trial there. time_rel_stderr: (S, C), or what broadcasts
    to it: relative standard error of the step time that all seconds of a submission on a column share.
    """

    submissions: tuple[str, ...]
    workloads: Workloads
    studies: tuple[str, ...]
    seconds: np.ndarray
    time_rel_stderr: np.ndarray = field(default_factory=lambda: np.zeros((1, 1)))


def study_times(trials: Trials, workloads: Workloads, rules: Rules) -> StudyTimes:
    """The time of each study's chosen trial, and the mean time_rel_stderr of each cell's rows.

    Submissions and studies in natural order; other workloads are left out. Raises BadInput on a hit after no time.
    """
    submissions, of_submission = _in_order(trials.submission)
    studies, of_study = _in_order(trials.study)
    column = {name: i for i, name in enumerate(workloads.columns)}
    of_column = np.array([column.get(name, -1) for name in trials.workload], np.int64)
    of_trial = _in_order(trials.trial)[1]
    seconds = np.full((len(submissions), len(column), len(studies)), np.nan)
    met = trials.met(rules)
    first = np.where(met, rules.first_by(trials.hit_index, trials.seconds), np.inf)
    # Later assignments win, so the trial to choose comes last.
    order = np.lexsort((of_trial, first))[::-1]
    order = order[of_column[order] >= 0]
    values = np.where(met, trials.seconds, np.inf)
    for row in order.tolist():
        seconds[of_submission[row], of_column[row], of_study[row]] = values[row]
    cell = (of_submission[order], of_column[order])
    rows, total = np.zeros(seconds.shape[:2]), np.zeros(seconds.shape[:2])
    np.add.at(rows, cell, 1)
    np.add.at(total, cell, np.broadcast_to(trials.time_rel_stderr, len(met))[order])
    stderr = total / np.maximum(rows, 1)
    return StudyTimes(tuple(submissions), workloads, tuple(studies), seconds, stderr)


def _in_order(names: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Distinct names in natural order, and the place of each of `names` among them."""
    distinct = sorted(set(names.tolist()), key=natural)
    place = {name: i for i, name in enumerate(distinct)}
    return distinct, np.array([place[name] for name in names.tolist()], np.int64)


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts trial_2 before trial_10."""
    parts = re.split(r"(\d+)", name)
    digits = [part.lstrip("0") for part in parts[1::2]]
    numbered = [(text, len(digit), digit) for text, digit in zip(parts[::2], [*digits, ""], strict=True)]
    return tuple(numbered), name
