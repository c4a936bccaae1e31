"""How much faster one submission is than another, whoever else entered: geometric means of paired time ratios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, norm
from scipy.stats import t as student

from harness.scoring.profiles import median_times
from harness.scoring.resampling import LEVEL, pooled_freedom, quantile
from harness.scoring.trials import StudyTimes

POWER = 0.8
EQUIVALENT = (0.93, 1.07)
"""Where the 90% interval of the ratio of two equals lies."""


@dataclass(frozen=True)
class Pairs:
    """(S, S) each, of the row's time over the column's. NaN where the data do not say.

    log_ratio: mean log time ratio. stderr: of it, from its variation between studies, with `freedom` degrees of freedom; NaN
    where both met a workload in one study only. time_stderr: of it, from the errors of the step times behind the seconds.
    workloads: base workloads behind it, those that both met. studies: those in which both met one of these.
    """

    log_ratio: np.ndarray
    stderr: np.ndarray
    freedom: np.ndarray
    time_stderr: np.ndarray
    workloads: np.ndarray
    studies: np.ndarray

    @cached_property
    def ratio(self) -> np.ndarray:
        return np.exp(self.log_ratio)

    @cached_property
    def ci95(self) -> np.ndarray:
        """(S, S, 2) 95% intervals of the ratio."""
        return self._interval(LEVEL)

    @cached_property
    def ci90(self) -> np.ndarray:
        """(S, S, 2)"""
        return self._interval(0.90)

    def _interval(self, level: float) -> np.ndarray:
        """(S, S, 2): t times the studies' standard error and the normal quantile times the step times', squares added.

        Each alone has its own exact reach, so the error of the step times, which is taken as known, costs no freedom.
        """
        reach = np.hypot(quantile(self.freedom, level) * self.stderr, norm.ppf((1 + level) / 2) * self.time_stderr)
        return np.exp(np.stack([self.log_ratio - reach, self.log_ratio + reach], axis=-1))

    @cached_property
    def verdict(self) -> np.ndarray:
        """(S, S) words for the row: equivalent if the 90% interval lies inside EQUIVALENT, else faster or slower if the 95%
        interval excludes 1, else undecided.
        """
        equivalent = (self.ci90[..., 0] >= EQUIVALENT[0]) & (self.ci90[..., 1] <= EQUIVALENT[1])
        cases = {"equivalent": equivalent, "faster": self.ci95[..., 1] < 1, "slower": self.ci95[..., 0] > 1}
        return np.select(list(cases.values()), list(cases), "undecided").astype(object)

    @cached_property
    def detectable(self) -> np.ndarray:
        """(S, S) the smallest true speed-up whose interval would exclude 1 in 80% of repetitions with as many studies."""
        tenths = np.floor(10 * self.freedom + 1e-6) / 10
        needed = np.full(tenths.shape, np.nan)
        for freedom in np.unique(tenths[np.isfinite(tenths)]).tolist():
            needed[tenths == freedom] = _noncentrality(freedom)
        known = norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER)
        return np.exp(np.hypot(needed * self.stderr, known * self.time_stderr))


def compare(times: StudyTimes) -> Pairs:
    """Ratios of every two submissions on the base workloads that both met (by their median over studies).

    Logs of time ratios are taken within a study, averaged over the studies in which both met the target, then over
    workloads. The standard error is that of a mean of clusters, the studies (squares of a workload seen in n of them times
    n / (n - 1)), so workloads of one study may be correlated; for a full table the interval is the paired t of the studies'
    means. Studies in which one failed say nothing about the ratio: it is conditional on both finishing.
    """
    base = times.seconds[:, : len(times.workloads.base)]
    met = np.isfinite(median_times(base))
    logs = np.log(np.where(np.isfinite(base) & met[..., None], base, np.nan))
    of_rows = [_against_all(logs, row) for row in range(len(logs))]
    log_ratio, stderr, freedom, shared, studies = (np.stack(column) for column in zip(*of_rows, strict=True))
    workloads = shared.sum(axis=-1)
    squares = np.broadcast_to(times.time_rel_stderr, times.seconds.shape[:2])[:, : base.shape[1]] ** 2
    timing = np.sum(np.where(shared, squares[:, None] + squares, 0.0), axis=-1)
    np.fill_diagonal(timing, 0.0)  # against itself
    return Pairs(log_ratio, stderr, freedom, np.sqrt(timing) / np.maximum(workloads, 1), workloads, studies)


def _against_all(logs: np.ndarray, row: int) -> tuple[np.ndarray, ...]:
    """Of one submission against each: (S,) log ratio, standard error, freedom; (S, W) whether both met it; (S,) studies."""
    apart = logs[row] - logs  # (S, W, K)
    seen = ~np.isnan(apart)
    apart = np.where(seen, apart, 0.0)
    times_seen = seen.sum(axis=-1)
    share = 1.0 / np.maximum(times_seen, 1)  # of each study in a workload's mean
    means = apart.sum(axis=-1) * share
    shared = times_seen > 0
    workloads = shared.sum(axis=-1)
    some = np.maximum(workloads, 1)
    weight = np.sqrt(times_seen / np.maximum(times_seen - 1, 1)) * share / some[:, None]
    pull = np.where(seen, apart - means[..., None], 0.0) * weight[..., None]  # (S, W, K)
    freedom = pooled_freedom(np.sum(pull**2, axis=-1), times_seen)
    stderr = np.where(np.isnan(freedom), np.nan, np.sqrt(np.sum(np.sum(pull, axis=-2) ** 2, axis=-1)))
    log_ratio = np.where(workloads > 0, means.sum(axis=-1) / some, np.nan)
    return log_ratio, stderr, freedom, shared, np.sum(seen.any(axis=-2), axis=-1)


@lru_cache
def _noncentrality(freedom: float) -> float:
    """True mean over its standard error that a two-sided t test finds with probability POWER."""
    critical = float(student.ppf((1 + LEVEL) / 2, freedom))
    return float(brentq(lambda mean: nct.sf(critical, freedom, mean) - POWER, 0.0, 50.0 * critical))
