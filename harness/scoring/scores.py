"""A leaderboard: scores and everything that says how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.registry import nearest
from harness.scoring.pairs import Pairs, compare
from harness.scoring.profiles import in_the_running, median_times, ratios, score
from harness.scoring.resampling import Draws, pooled_freedom, quantile, rank_intervals, ranks, resample
from harness.scoring.rules import TAU_MAX, Rules
from harness.scoring.trials import StudyTimes
from workloads.base import BadInput

FEWEST_DRAWS = 100
BASELINE = "baseline"


@dataclass(frozen=True)
class Scores:
    """What scoring found; S submissions in natural order, W base workloads, C columns with the held-out variants.

    medians: (S, C) time to target. ratios: (S, W) to the fastest, inf where it does not count. scores: (S,).
    without: (W, S) scores when a base workload (and its variants) is left out; NaN if it is the only one.
    draws: resampled leaderboards, None if intervals were not asked for. pairs: time ratios. baseline: what speed-ups are over.
    """

    rules: Rules
    times: StudyTimes
    medians: np.ndarray
    ratios: np.ndarray
    scores: np.ndarray
    without: np.ndarray
    draws: Draws | None
    pairs: Pairs
    baseline: int

    @property
    def submissions(self) -> tuple[str, ...]:
        return self.times.submissions

    @property
    def base(self) -> tuple[str, ...]:
        return self.times.workloads.base

    @property
    def order(self) -> list[int]:
        """Places of the submissions from the highest score to the lowest, equal ones in natural order."""
        return np.argsort(-np.round(self.scores, 12), kind="stable").tolist()

    @cached_property
    def studies(self) -> np.ndarray:
        """(S,) studies in which each submission has any trial."""
        return np.sum((~np.isnan(self.times.seconds)).any(axis=1), axis=-1)

    @cached_property
    def cell_studies(self) -> np.ndarray:
        """(S, C) studies in which each submission has a trial on each column."""
        return np.sum(~np.isnan(self.times.seconds), axis=-1)

    @cached_property
    def freedom(self) -> np.ndarray:
        """(S,) degrees of freedom of the scores' standard errors (`pooled_freedom`); NaN without resampled studies.

        The parts are the base workloads; the studies of one are the fewest of its own cell, its held-out variants' and that
        of the fastest submission, whose time is under every ratio.
        """
        if self.draws is None:
            return np.full(len(self.scores), np.nan)
        workloads = self.times.workloads
        counts = in_the_running(self.medians, workloads)
        fastest = self.cell_studies[np.argmin(counts, axis=0), np.arange(counts.shape[1])]
        fewest = np.where(np.isinf(counts.min(axis=0)), self.cell_studies, np.minimum(self.cell_studies, fastest))
        for variant, base in workloads.variants:
            there = self.cell_studies[:, variant] > 0
            spoils = np.minimum(fewest[:, base], self.cell_studies[:, variant])
            fewest[:, base] = np.where(there, spoils, fewest[:, base])
        parts = self.rules.area(self.draws.ratios).var(axis=0, ddof=1)
        return pooled_freedom(parts, fewest[:, : len(self.base)])

    @cached_property
    def uneven(self) -> tuple[str, ...]:
        """Every submission with fewer studies on some workload than the leaderboard has, and there how many."""
        columns, most = self.times.workloads.columns, len(self.times.studies)
        entered = self.cell_studies.max(axis=0).tolist()  # 0: nobody, so none lacks more than others
        found = []
        for name, counts in zip(self.submissions, self.cell_studies.tolist(), strict=True):
            short = [
                f"{column} {n}" for column, n, some in zip(columns, counts, entered, strict=True) if some and n < most
            ]
            found += [f"{name} ({', '.join(short)} of {most})"] if short else []
        return tuple(found)

    @cached_property
    def ranks(self) -> np.ndarray:
        return ranks(self.scores)

    @cached_property
    def ranks_without(self) -> np.ndarray:
        """(W, S)"""
        return ranks(self.without)

    @cached_property
    def stderr(self) -> np.ndarray:
        """(S,) from the resampled studies; NaN without them, and where one study of a workload shows no variance."""
        if self.draws is None:
            return np.full(len(self.scores), np.nan)
        return np.where(np.isnan(self.freedom), np.nan, self.draws.stderr())

    @cached_property
    def ci95(self) -> np.ndarray:
        """(S, 2) score ± t standard errors, cut at 0 and 1 (harness.scoring.resampling)."""
        reach = quantile(self.freedom) * self.stderr
        return np.clip(np.stack([self.scores - reach, self.scores + reach], axis=1), 0.0, 1.0)

    @cached_property
    def percentiles(self) -> np.ndarray:
        """(S, 2) the middle 95% of the resampled scores: too narrow with few studies."""
        return np.full((len(self.scores), 2), np.nan) if self.draws is None else self.draws.percentiles()

    @cached_property
    def rank_ci95(self) -> np.ndarray:
        """(S, 2); every rank where nothing is known."""
        if self.draws is None:
            return np.tile([1, len(self.scores)], (len(self.scores), 1))
        return rank_intervals(self.scores, self.draws, self.freedom)

    @cached_property
    def detectable(self) -> float:
        """The median over pairs of the minimum detectable speed-up; NaN where there is none."""
        known = self.pairs.detectable[np.triu_indices(len(self.scores), 1)]
        known = known[np.isfinite(known)]
        return float(np.median(known)) if known.size else float("nan")

    @cached_property
    def statuses(self) -> np.ndarray:
        """(S, C) why each time counts or does not, in words."""
        workloads = self.times.workloads
        counts = np.isfinite(in_the_running(self.medians, workloads))
        status = np.where(counts, "counts", f"over {TAU_MAX:g}x the fastest").astype(object)
        near = self.medians <= TAU_MAX * self.medians.min(axis=0)
        spoilt = (near & ~counts)[:, : len(workloads.base)]
        status[:, : len(workloads.base)][spoilt] = "held-out variant not met"
        for variant, base in workloads.variants:
            status[np.isinf(self.medians[:, base]), variant] = "base not met"
        status[np.isinf(self.medians)] = "not met"
        return status

    def to_json(self) -> dict[str, Any]:
        """{submission: {score, ci95, …, per_workload{}, leave_one_out{}, versus{}}}, from the highest score to the lowest."""
        return {self.submissions[i]: self._entry(i) for i in self.order}

    def _entry(self, i: int) -> dict[str, Any]:
        return {
            "score": self.scores[i],
            "ci95": self.ci95[i],
            "stderr": self.stderr[i],
            "bootstrap_percentiles": self.percentiles[i],
            "rank": int(self.ranks[i]),
            "rank_ci95": self.rank_ci95[i],
            "studies": int(self.studies[i]),
            "per_workload": self._per_workload(i),
            "leave_one_out": self._leave_one_out(i),
            "speedup": {"over": self.submissions[self.baseline], **self.speedup(i, self.baseline)},
            "versus": {self.submissions[j]: self._versus(i, j) for j in self.order if j != i},
        }

    def _per_workload(self, i: int) -> dict[str, Any]:
        columns = self.times.workloads.columns
        cells = {
            name: {
                "time_s": self.medians[i, c],
                "status": self.statuses[i, c],
                "studies": int(self.cell_studies[i, c]),
                "studies_met": int(np.sum(np.isfinite(self.times.seconds[i, c]))),
            }
            for c, name in enumerate(columns)
        }
        held_out = self.times.workloads.held_out
        return {
            name: {
                "ratio": self.ratios[i, w],
                **cells[name],
                "held_out": {variant: cells[variant] for variant, base in held_out.items() if base == name},
            }
            for w, name in enumerate(self.base)
        }

    def _leave_one_out(self, i: int) -> dict[str, Any]:
        if len(self.base) == 1:
            return {}
        return {
            name: {
                "score": self.without[w, i],
                "change": self.without[w, i] - self.scores[i],
                "rank": int(self.ranks_without[w, i]),
            }
            for w, name in enumerate(self.base)
        }

    def speedup(self, i: int, j: int) -> dict[str, Any]:
        """How many times faster i is than j: value, intervals, verdict, smallest detectable, and what is behind them."""
        return {
            "value": 1 / self.pairs.ratio[i, j],
            "ci95": (1 / self.pairs.ci95[i, j])[::-1],
            "ci90": (1 / self.pairs.ci90[i, j])[::-1],
            "verdict": self.pairs.verdict[i, j],
            "minimum_detectable": self.pairs.detectable[i, j],
            "workloads": int(self.pairs.workloads[i, j]),
            "studies": int(self.pairs.studies[i, j]),
        }

    def _versus(self, i: int, j: int) -> dict[str, Any]:
        found = self.speedup(i, j)
        return {
            "time_ratio": self.pairs.ratio[i, j],
            "ci95": self.pairs.ci95[i, j],
            "ci90": self.pairs.ci90[i, j],
            "verdict": found["verdict"],
            "minimum_detectable_speedup": found["minimum_detectable"],
            "workloads": found["workloads"],
            "studies": found["studies"],
        }


def leaderboard(times: StudyTimes, rules: Rules, *, baseline: str = "", bootstrap: int = 1000, seed: int = 0) -> Scores:
    """Score every submission of `times`.

    baseline: what speed-ups are over (default: the submission called "baseline", else the one with the highest score).
    bootstrap: resamples of the studies, 0 for none. Raises BadInput on an unknown baseline and on too few resamples.
    """
    if bootstrap and bootstrap < FEWEST_DRAWS:
        raise BadInput(f"bootstrap={bootstrap} is too few for an interval; use at least {FEWEST_DRAWS}, or 0 for none")
    if baseline and baseline not in times.submissions:
        raise BadInput(f"baseline '{baseline}' did not enter. {nearest(baseline, times.submissions)}")
    medians = median_times(times.seconds)
    ratio = ratios(medians, times.workloads)
    scores = score(ratio, rules)
    resampled = bootstrap > 0 and len(times.studies) > 1
    wanted = baseline or BASELINE
    best = int(np.argmax(np.round(scores, 12)))
    return Scores(
        rules=rules,
        times=times,
        medians=medians,
        ratios=ratio,
        scores=scores,
        without=_without(medians, times, rules),
        draws=resample(times, rules, bootstrap, seed) if resampled else None,
        pairs=compare(times),
        baseline=times.submissions.index(wanted) if wanted in times.submissions else best,
    )


def _without(medians: np.ndarray, times: StudyTimes, rules: Rules) -> np.ndarray:
    """(W, S) scores with each base workload left out."""
    base = times.workloads.base
    if len(base) == 1:
        return np.full((1, len(medians)), np.nan)
    found = []
    for name in base:
        rest, columns = times.workloads.without(name)
        found.append(score(ratios(medians[:, columns], rest), rules))
    return np.stack(found)


def largest_changes(scores: Scores) -> Mapping[str, float]:
    """Base workload -> the largest absolute change of any score when it is left out."""
    change = np.abs(scores.without - scores.scores).max(axis=1)
    return dict(zip(scores.base, change.tolist(), strict=True))
