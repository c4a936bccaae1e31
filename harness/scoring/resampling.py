"""How far scores would move with other studies: studies resampled jointly for all submissions.

With three to five studies the percentiles of such a bootstrap are too narrow (with 3, resampled medians take 4 values): on
simulated leaderboards 95% of them held the true score 51 to 76% of the time with 3 studies and 77 to 96% with 5
(tests/scoring/test_coverage.py repeats some of it). The interval used instead is the score plus and minus Student's t with
K - 1 degrees of freedom (fewer where cells lack studies: `pooled_freedom`) times the bootstrap's standard error, cut at 0 and
1: it held it 94 to 99% of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from harness.scoring.profiles import median_times, ratios, score
from harness.scoring.rules import Rules
from harness.scoring.trials import StudyTimes

LEVEL = 0.95
_CHUNK = 4_000_000  # numbers gathered at once
_SAME = 1e-12


@dataclass(frozen=True)
class Draws:
    """Resamples of the studies. ratios: (B, S, W). scores: (B, S)."""

    ratios: np.ndarray
    scores: np.ndarray

    def percentiles(self) -> np.ndarray:
        """(S, 2) the middle 95% of the resampled scores."""
        tail = 50 * (1 - LEVEL)
        return np.percentile(self.scores, (tail, 100 - tail), axis=0).T

    def stderr(self) -> np.ndarray:
        """(S,)"""
        return self.scores.std(axis=0, ddof=1)

    def stderr_of_differences(self) -> np.ndarray:
        """(S, S) of the score of one submission minus that of another, in the same resample."""
        covariance = np.atleast_2d(np.cov(self.scores, rowvar=False))
        variance = np.diag(covariance)
        return np.sqrt(np.clip(variance[:, None] + variance[None, :] - 2 * covariance, 0.0, None))


def resample(times: StudyTimes, rules: Rules, draws: int, seed: int) -> Draws:
    """`draws` leaderboards from K studies each, drawn with replacement and the same for all submissions and workloads.

    Where a submission or workload lacks a drawn study, one of its own takes the place (again the same one for all that
    have the same studies), and a cell with n studies keeps n of the draws, so that few studies do not look like many. All
    studies of a cell share its step time, so each resample stretches the cell by one draw of that time's error.
    """
    rng = np.random.default_rng(seed)
    shape = (draws, times.seconds.shape[-1])
    drawn, spare = rng.integers(shape[1], size=shape), rng.random(shape)
    stretch = np.exp(rng.normal(size=(draws, *times.seconds.shape[:2])) * times.time_rel_stderr)
    size = max(1, _CHUNK // times.seconds.size)
    found = []
    for start in range(0, draws, size):
        chosen = _gather(times.seconds, drawn[start : start + size], spare[start : start + size])
        found.append(ratios(median_times(chosen) * stretch[start : start + size], times.workloads))
    ratio = np.concatenate(found)
    return Draws(ratio, score(ratio, rules))


def _gather(seconds: np.ndarray, drawn: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """(S, C, K), (b, K), (b, K) -> (b, S, C, K)."""
    present = ~np.isnan(seconds)
    if present.all():
        return np.moveaxis(seconds[..., drawn], -2, 0)
    count = present.sum(axis=-1)
    own = np.argsort(~present, axis=-1, kind="stable")  # places of a cell's own studies come first
    pick = np.floor(spare[:, None, None, :] * count[..., None]).astype(np.int64)
    instead = np.take_along_axis(np.broadcast_to(own, (len(drawn), *own.shape)), pick, axis=-1)
    place = np.where(np.moveaxis(present[..., drawn], -2, 0), drawn[:, None, None, :], instead)
    values = np.take_along_axis(np.broadcast_to(seconds, place.shape), place, axis=-1)
    return np.where(np.arange(seconds.shape[-1]) < count[..., None], values, np.nan)


def pooled_freedom(variance: np.ndarray, studies: np.ndarray) -> np.ndarray:
    """(..., W), (..., W) -> (...): degrees of freedom of the summed variances of W parts, the w-th from studies[w] studies.

    Satterthwaite's rule for parts whose errors go together, as those of workloads of the same studies may: 1 / sqrt(freedom) is
    the mean of 1 / sqrt(studies - 1), weighted by the variances (alike where all are zero). So it is K - 1 on a full table, and
    lies between the smallest and the largest otherwise. NaN where one part has a single study, which shows no variance.
    Parts without studies do not count.
    """
    parts = np.where(studies > 0, variance, 0.0)
    alone = np.sum(parts, axis=-1, keepdims=True) == 0
    weight = np.where(alone, studies > 0, parts)
    known = ~np.any(studies == 1, axis=-1) & np.any(studies > 0, axis=-1)
    total = np.where(known, np.sum(weight, axis=-1), np.nan)
    return (total / np.sum(weight / np.sqrt(np.maximum(studies - 1, 1)), axis=-1)) ** 2


def quantile(freedom: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Student's t for a two-sided interval; NaN where the degrees of freedom are."""
    return np.asarray(student.ppf((1 + level) / 2, freedom))


def rank_intervals(scores: np.ndarray, draws: Draws, freedom: np.ndarray) -> np.ndarray:
    """(S, 2) ranks that each submission may have: 1 + those whose score is higher beyond doubt, S - those whose is lower.

    A difference is beyond doubt if its 95% interval (t, from the paired standard error, the fewer degrees of freedom of the
    two) excludes zero.
    """
    fewest = np.minimum(freedom[:, None], freedom[None, :])
    gap = scores[:, None] - scores[None, :]
    beyond = gap > quantile(fewest) * draws.stderr_of_differences() + _SAME
    best, worst = 1 + beyond.sum(axis=0), len(scores) - beyond.sum(axis=1)
    return np.stack([best, worst], axis=1)


def ranks(scores: np.ndarray) -> np.ndarray:
    """(..., S) -> (..., S): 1 + how many have a higher score; equal scores share a rank."""
    return 1 + np.sum(scores[..., None, :] > scores[..., :, None] + _SAME, axis=-1)
