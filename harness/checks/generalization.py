"""Does another way of training generalise as well as the baseline?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.analysis import LEARNING_RATE
from harness.checks.base import CHECKS, UNDECIDED, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from workloads.base import BadInput


@CHECKS.register("generalization")
@dataclass(frozen=True)
class Generalization(Check):
    """Test score of every series at its best learning rate, against that of `baseline`, a series' name.

    The rate is the one with the best mean of `score` on the validation split; test images choose nothing. score: "loss", which
    is better the lower, or "metric". Seeds are paired. margin: of the baseline's score. *no_worse*: the 90% interval of the
    mean difference lies below the margin; *worse*: the 95% interval lies above 0.
    """

    title = "Does it generalise as well as the baseline?"
    words = ("no_worse", "worse")

    baseline: str = ""
    score: str = "metric"
    margin: float = 0.05

    def run(self, members: Sequence[Member]) -> Finding:
        if self.score not in ("loss", "metric"):
            raise BadInput(f"score={self.score} must be loss or metric")
        chosen = {name: self._best(mine) for name, mine in self.series(members)}
        if self.baseline not in chosen:
            raise BadInput(f"baseline='{self.baseline}' is no series; there are: {', '.join(chosen)}")
        base = chosen[self.baseline]
        if not base[1]:
            raise BadInput(f"every trial of the baseline '{self.baseline}' diverged; lower its learning rates")
        sign = -1.0 if self._maximized(members) else 1.0
        compared = {n: self._compare(scores, base[1], sign) for n, (_, scores) in chosen.items() if n != self.baseline}
        rows = tuple((name, rate, _mean(scores), _stderr(scores)) for name, (rate, scores) in chosen.items())
        named = members[0].trial.workload.metric.name if self.score == "metric" else "loss"
        header = ("series", "best learning rate", f"test {named}", "standard error")
        layers = []
        for name, mine in self.series(members):
            rates, means = self._curve(mine)
            layers.append(Layer(name, rates, means, kind="line"))
        caption = f"Validation {named} by learning rate, mean over seeds; rates at which a seed diverged are left out."
        plot = Plot(
            "generalization", f"Validation {named}", "learning rate", named, tuple(layers), log_y=False,
            caption=caption, alt=caption,
        )  # fmt: skip
        document = {name: {"learning_rate": rate, "test": scores} for name, (rate, scores) in chosen.items()}
        return Finding(compared, document, (Table(f"Test {named} at the best rate", header, rows),), (plot,))

    def _maximized(self, members: Sequence[Member]) -> bool:
        return self.score == "metric" and members[0].trial.workload.metric.direction == "maximize"

    def _curve(self, members: Sequence[Member]) -> tuple[np.ndarray, np.ndarray]:
        """Learning rates at which no seed diverged, and the mean validation scores there."""
        means = {}
        for rate in sorted({m.row[LEARNING_RATE] for m in members}):
            mine = [m for m in members if m.row[LEARNING_RATE] == rate]
            if not any(m.diverged for m in mine):
                means[rate] = np.mean([m.row[f"final_{self.score}"] for m in mine])
        return np.array(list(means)), np.array(list(means.values()))

    def _best(self, members: Sequence[Member]) -> tuple[float, dict[int, float]]:
        """The best learning rate, and seed -> test score there; NaN and none where every rate diverged."""
        rates, means = self._curve(members)
        if not rates.size:
            return float("nan"), {}
        rate = float(rates[means.argmax() if self._maximized(members) else means.argmin()])
        return rate, {m.row["seed"]: m.row[f"test_{self.score}"] for m in members if m.row[LEARNING_RATE] == rate}

    def _compare(self, scores: dict[int, float], base: dict[int, float], sign: float) -> tuple[str, str]:
        seeds = sorted(scores.keys() & base.keys())
        if len(seeds) < 2:
            return UNDECIDED, "Fewer than 2 seeds in common with the baseline; run more, at rates that do not diverge."
        excess = sign * np.array([scores[seed] - base[seed] for seed in seeds])
        level = abs(float(np.mean([base[seed] for seed in seeds])))
        mean, error = excess.mean(), excess.std(ddof=1) / len(seeds) ** 0.5
        half90, half95 = (stats.t.ppf(0.5 + q / 2, len(seeds) - 1) * error for q in (0.90, 0.95))
        shown = (
            f"worse by {mean:+.3g}, 95% [{mean - half95:+.3g}, {mean + half95:+.3g}], where the baseline has {level:.3g}, "
            f"{len(seeds)} paired seeds"
        )
        if mean + half90 < self.margin * level:
            return "no_worse", f"The 90% interval lies below {self.margin:.0%} of the baseline's: {shown}."
        if mean - half95 > 0:
            return "worse", f"The 95% interval lies above 0: {shown}."
        return UNDECIDED, f"The interval is too wide; run more seeds: {shown}."


def _mean(scores: dict[int, float]) -> float | None:
    return float(np.mean(list(scores.values()))) if scores else None


def _stderr(scores: dict[int, float]) -> float | None:
    return float(np.std(list(scores.values()), ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else None
