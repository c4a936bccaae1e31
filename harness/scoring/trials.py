"""The long table that everything is scored from, and the times that each study reached."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records.text import printable
from harness.scoring.rules import Rules
from harness.scoring.targets import Workloads
from workloads.base import BadInput


@dataclass(frozen=True)
class Trials:
    """One row a trial, (n,) each.

    submission, study, workload, trial: names. hit_index: the first evaluation that met the target, negative or NaN = none.
    seconds: its time (any unit that is the same throughout); what is not finite did not meet the target, whatever the index.
    Raises BadInput where two rows have the same names, and on a hit after no time.
    """

    submission: np.ndarray
    study: np.ndarray
    workload: np.ndarray
    trial: np.ndarray
    hit_index: np.ndarray
    seconds: np.ndarray

    def __post_init__(self) -> None:
        rows = list(zip(self.submission, self.study, self.workload, self.trial, strict=True))
        seen: set[tuple[str, ...]] = set()
        for row in rows:
            if row in seen:
                raise BadInput(f"two rows are {_named(row)}; a trial may be there once: remove or rename one")
            seen.add(row)
        early = np.flatnonzero(self.met & (self.seconds <= 0))
        if early.size:
            raise BadInput(
                f"{_named(rows[early[0]])} met its target after {self.seconds[early[0]]:g} s; times must be positive"
            )

    @property
    def met(self) -> np.ndarray:
        """(n,) whether each trial met its target."""
        return (self.hit_index >= 0) & np.isfinite(self.seconds)


def _named(row: tuple[str, ...]) -> str:
    words = zip(("submission", "study", "workload", "trial"), row, strict=True)
    return ", ".join(f"{word} '{printable(name)}'" for word, name in words)


@dataclass(frozen=True)
class StudyTimes:
    """seconds: (S, C, K) time to target of each submission on each column of `workloads` in each study.

    inf: no trial of the study met the target. NaN: the study has no trial there.
    """

    submissions: tuple[str, ...]
    workloads: Workloads
    studies: tuple[str, ...]
    seconds: np.ndarray


def study_times(trials: Trials, workloads: Workloads, rules: Rules) -> StudyTimes:
    """The time of each study's chosen trial. Submissions and studies in natural order; other workloads are left out."""
    submissions, of_submission = _in_order(trials.submission)
    studies, of_study = _in_order(trials.study)
    column = {name: i for i, name in enumerate(workloads.columns)}
    of_column = np.array([column.get(name, -1) for name in trials.workload], np.int64)
    of_trial = _in_order(trials.trial)[1]
    seconds = np.full((len(submissions), len(column), len(studies)), np.nan)
    first = np.where(trials.met, rules.first_by(trials.hit_index, trials.seconds), np.inf)
    # Later assignments win, so the trial to choose comes last.
    order = np.lexsort((of_trial, first))[::-1]
    order = order[of_column[order] >= 0]
    values = np.where(trials.met, trials.seconds, np.inf)
    for row in order.tolist():
        seconds[of_submission[row], of_column[row], of_study[row]] = values[row]
    return StudyTimes(tuple(submissions), workloads, tuple(studies), seconds)


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
