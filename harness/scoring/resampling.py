"""How far scores would move with other studies: studies resampled jointly for all submissions.

With three to five studies the percentiles of such a bootstrap are too narrow (with 3, resampled medians take 4 values): on
simulated leaderboards 95% of them held the true score 51 to 76% of the time with 3 studies and 77 to 96% with 5
(tests/scoring/test_coverage.py repeats some of it). The interval used instead is the score plus and minus Student's t with
K - 1 degrees of freedom times the bootstrap's standard error, cut at 0 and 1: it held it 94 to 99% of the time.
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
    have the same studies), and a cell with n studies keeps n of the draws, so that few studies do not look like many.
    """
    rng = np.random.default_rng(seed)
    shape = (draws, times.seconds.shape[-1])
    drawn, spare = rng.integers(shape[1], size=shape), rng.random(shape)
    size = max(1, _CHUNK // times.seconds.size)
    found = []
    for start in range(0, draws, size):
        chosen = _gather(times.seconds, drawn[start : start + size], spare[start : start + size])
        found.append(ratios(median_times(chosen), times.workloads))
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


def quantile(studies: np.ndarray) -> np.ndarray:
    """Student's t for a two-sided interval from this many studies; NaN below 2."""
    studies = np.asarray(studies)
    return np.where(studies > 1, student.ppf((1 + LEVEL) / 2, np.maximum(studies - 1, 1)), np.nan)


def rank_intervals(scores: np.ndarray, draws: Draws, studies: np.ndarray) -> np.ndarray:
    """(S, 2) ranks that each submission may have: 1 + those whose score is higher beyond doubt, S - those whose is lower.

    A difference is beyond doubt if its 95% interval (t, from the paired standard error) excludes zero.
    """
    fewest = np.minimum(studies[:, None], studies[None, :])
    gap = scores[:, None] - scores[None, :]
    beyond = gap > quantile(fewest) * draws.stderr_of_differences() + _SAME
    best, worst = 1 + beyond.sum(axis=0), len(scores) - beyond.sum(axis=1)
    return np.stack([best, worst], axis=1)


def ranks(scores: np.ndarray) -> np.ndarray:
    """(..., S) -> (..., S): 1 + how many have a higher score; equal scores share a rank."""
    return 1 + np.sum(scores[..., None, :] > scores[..., :, None] + _SAME, axis=-1)
