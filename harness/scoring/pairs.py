"""How much faster one submission is than another, whoever else entered: geometric means of paired time ratios."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student

from harness.scoring.profiles import median_times
from harness.scoring.resampling import LEVEL, quantile
from harness.scoring.trials import StudyTimes

POWER = 0.8


@dataclass(frozen=True)
class Pairs:
    """(S, S) each, of the row's time over the column's. NaN where the data do not say.

    log_ratio: mean log time ratio. stderr: of it, from its variation between studies. workloads: base workloads behind it,
    those that both met. studies: those in which both met one of these.
    """

    log_ratio: np.ndarray
    stderr: np.ndarray
    workloads: np.ndarray
    studies: np.ndarray

    @cached_property
    def ratio(self) -> np.ndarray:
        return np.exp(self.log_ratio)

    @cached_property
    def ci95(self) -> np.ndarray:
        """(S, S, 2) intervals of the ratio: t with (studies - 1) degrees of freedom."""
        reach = quantile(self.studies) * self.stderr
        return np.exp(np.stack([self.log_ratio - reach, self.log_ratio + reach], axis=-1))

    @cached_property
    def detectable(self) -> np.ndarray:
        """(S, S) the smallest true speed-up whose interval would exclude 1 in 80% of repetitions with as many studies."""
        needed = np.full(self.studies.shape, np.nan)
        for count in np.unique(self.studies[self.studies > 1]).tolist():
            needed[self.studies == count] = _noncentrality(count - 1)
        return np.exp(needed * self.stderr)


def compare(times: StudyTimes) -> Pairs:
    """Ratios of every two submissions on the base workloads that both met (by their median over studies).

    Logs of time ratios are taken within a study, averaged over the studies in which both met the target, then over
    workloads. The standard error is that of a mean of clusters, the studies (K / (K - 1) sum of squares), so workloads of
    one study may be correlated; for a full table the interval is the paired t of the studies' means. Studies in which one
    failed say nothing about the ratio: it is conditional on both finishing.
    """
    base = times.seconds[:, : len(times.workloads.base)]
    met = np.isfinite(median_times(base))
    logs = np.log(np.where(np.isfinite(base) & met[..., None], base, np.nan))
    of_rows = [_against_all(logs, row) for row in range(len(logs))]
    log_ratio, stderr, workloads, studies = (np.stack(column) for column in zip(*of_rows, strict=True))
    return Pairs(log_ratio, stderr, workloads, studies)


def _against_all(logs: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(S,) log ratio, its standard error, workloads and studies of one submission against each."""
    apart = logs[row] - logs  # (S, W, K)
    seen = ~np.isnan(apart)
    apart = np.where(seen, apart, 0.0)
    times_seen = seen.sum(axis=-1)
    share = 1.0 / np.maximum(times_seen, 1)  # of each study in a workload's mean
    means = apart.sum(axis=-1) * share
    workloads = np.sum(times_seen > 0, axis=-1)
    some = np.maximum(workloads, 1)
    pull = np.sum(np.where(seen, apart - means[..., None], 0.0) * share[..., None], axis=-2) / some[:, None]  # (S, K)
    studies = np.sum(seen.any(axis=-2), axis=-1)
    factor = np.where(studies > 1, studies / np.maximum(studies - 1, 1), np.nan)
    log_ratio = np.where(workloads > 0, means.sum(axis=-1) / some, np.nan)
    return log_ratio, np.sqrt(factor * np.sum(pull**2, axis=-1)), workloads, studies


@lru_cache
def _noncentrality(freedom: int) -> float:
    """True mean over its standard error that a two-sided t test finds with probability POWER."""
    critical = float(student.ppf((1 + LEVEL) / 2, freedom))
    return float(brentq(lambda mean: nct.sf(critical, freedom, mean) - POWER, 0.0, 50.0 * critical))
