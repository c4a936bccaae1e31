"""Leaderboards for tests: simulated ones whose truth is known, and tables of trials written by hand."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.scoring import StudyTimes, Trials, Workloads

COLUMNS = ("submission", "study", "workload", "trial", "hit_eval_index", "time_to_target_s")
NOISE = np.array([0.01, 0.015, 0.03, 0.05, 0.06, 0.09, 0.12, 0.2])
"""Standard deviations of log times between studies, as the workloads of AlgoPerf v0.5 have them."""


def trials(rows: Sequence[tuple[Any, ...]]) -> Trials:
    """From rows in the order of COLUMNS."""
    columns = list(zip(*rows, strict=True))
    names = [np.array(column, object) for column in columns[:4]]
    return Trials(*names, *(np.array(column, np.float64) for column in columns[4:]))


def write(path: Path, rows: Sequence[Sequence[Any]], header: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def table(times: Mapping[tuple[str, str], Sequence[float]]) -> list[tuple[Any, ...]]:
    """Rows of one trial a study, from (submission, workload) -> times of the studies."""
    return [
        (submission, f"study_{k}", workload, "trial_1", 9 if np.isfinite(time) else -1, time)
        for (submission, workload), several in times.items()
        for k, time in enumerate(several)
    ]


def simulate(
    rng: np.random.Generator, studies: int, submissions: int = 6, fail: bool = False, shared: float = 0.0
) -> tuple[StudyTimes, np.ndarray]:
    """Times on 8 workloads, and (S, W) the medians that infinitely many studies would have.

    fail: some cells never meet the target, others in a share of the studies. shared: standard deviation of what all
    workloads of a study have in common.
    """
    level = rng.normal(0, 0.25, (submissions, 1)) + rng.normal(0, 0.25, (submissions, 8))
    shape = (submissions, 8, studies)
    logs = level[..., None] + rng.permutation(NOISE)[:, None] * rng.normal(size=shape)
    logs += shared * (rng.normal(size=(submissions, 1, studies)) + rng.normal(size=(1, 1, studies)))
    kind = rng.random((submissions, 8)) if fail else np.ones((submissions, 8))
    share = np.select([kind < 0.15, kind < 0.3], [1.0, rng.uniform(0.05, 0.95, kind.shape)], 0.0)
    seconds = np.where(rng.random(shape) < share[..., None], np.inf, np.exp(logs))
    workloads = Workloads(tuple(f"workload_{w}" for w in range(8)))
    names = tuple(f"submission_{s}" for s in range(submissions))
    times = StudyTimes(names, workloads, tuple(f"study_{k}" for k in range(studies)), seconds)
    return times, np.where(share > 0.5, np.inf, np.exp(level))
