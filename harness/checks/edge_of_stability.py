"""Does training sit at its stability bound?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.checks.base import CHECKS, UNDECIDED, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.probes.curvature import EXAMPLES
from workloads.base import BadInput

_QUANTITIES = ("bounded", "batch_sharpness")


@CHECKS.register("edge_of_stability")
@dataclass(frozen=True)
class EdgeOfStability(Check):
    """Curvature over the optimizer's stability bound, over the last part of training, learning rates pooled.

    quantity: "bounded", the top eigenvalue of what the bound is about (full batch: Cohen et al. 2021, and 2022 for Adam), or
    "batch_sharpness", the curvature of a batch's loss along its own gradient (minibatch SGD: Andreyev & Beneventano 2024),
    whose bound for SGD without momentum is 2 / eta too. since: share of the horizon from which on it is read. tolerance:
    relative. A trial is one value, the geometric mean over its evaluations. *at_edge*: the 90% interval of the mean of
    log(curvature / bound) lies within the tolerance of 0; *below_edge*, *above_edge*: the 95% interval lies beyond it.
    The linear-stability condition of SGD is reported where the trials have the probe linear_stability. Its curvature, and that
    of H, is measured on fewer examples than the training set has, and is larger than the whole set's.
    """

    title = "Does training sit at its stability bound?"
    words = ("at_edge", "below_edge", "above_edge")
    probes = ("sharpness",)

    quantity: str = "bounded"
    since: float = 0.5
    tolerance: float = 0.2

    def run(self, members: Sequence[Member]) -> Finding:
        if self.quantity not in _QUANTITIES:
            raise BadInput(f"quantity={self.quantity} must be one of {', '.join(_QUANTITIES)}")
        verdicts, document, tables, plots = {}, {}, [], []
        for name, everyone in self.series(members):
            mine = [member for member in everyone if not member.diverged]
            logs = np.array([np.log(self._late(m, self.quantity, "bound")).mean() for m in mine])
            verdicts[name] = self._verdict(logs)
            others = {
                f"sharpness on {EXAMPLES} examples over 2 / eta": self._means(mine, "sharpness", "bound"),
                f"eta (1 + 1/B) lam_max on {EXAMPLES} examples, stable below 2": self._means(mine, "stability_top"),
                f"sum over eigenvalues on {EXAMPLES} examples, stable below 1": self._means(mine, "stability_total"),
            }
            document[name] = {"log_ratio": logs.tolist(), **{key: values for key, values in others.items() if values}}
            ratio = float(np.exp(logs.mean())) if logs.size else None
            rows = [(key, float(np.mean(values))) for key, values in others.items() if values]
            header = ("quantity", "mean")
            whole = ((f"{self.quantity} over its bound", ratio), *rows)
            tables.append(Table(f"{name}: late in training, mean over trials", header, whole))
            plots.append(self._plot(name, mine))
        return Finding(verdicts, document, tuple(tables), tuple(plots))

    def _late(self, member: Member, column: str, bound: str | None = None) -> np.ndarray:
        """The column's values (over `bound`'s) in the last part of training; NaN where not positive."""
        steps, values = member.measured(f"probe.{column}")
        values = values if bound is None else values / member.measured(f"probe.{bound}")[1]
        late = values[steps >= self.since * member.trial.horizon]
        return np.where(late > 0, late, np.nan)

    def _means(self, members: Sequence[Member], column: str, bound: str | None = None) -> list[float]:
        """Of every trial that measured it, the mean of the positive values."""
        late = [self._late(m, column, bound) for m in members if f"probe.{column}" in m.curve]
        return [float(np.nanmean(values)) for values in late if np.isfinite(values).any()]

    def _verdict(self, logs: np.ndarray) -> tuple[str, str]:
        logs = logs[np.isfinite(logs)]
        if logs.size < 3:
            return UNDECIDED, "Fewer than 3 trials that did not diverge and have positive curvature; run more seeds."
        mean, error = logs.mean(), logs.std(ddof=1) / logs.size**0.5
        half90, half95 = (stats.t.ppf(0.5 + level / 2, logs.size - 1) * error for level in (0.90, 0.95))
        bound = np.log1p(self.tolerance)
        low, high = np.exp([mean - half95, mean + half95])
        shown = f"{np.exp(mean):.3g} of the bound, 95% [{low:.3g}, {high:.3g}], {logs.size} trials"
        if mean - half90 > -bound and mean + half90 < bound:
            return "at_edge", f"Within {self.tolerance:.0%} of the bound: {shown}."
        if mean + half95 < -bound:
            return "below_edge", f"Below the bound by more than {self.tolerance:.0%}: {shown}."
        if mean - half95 > bound:
            return "above_edge", f"Above the bound by more than {self.tolerance:.0%}: {shown}."
        return UNDECIDED, f"The interval is too wide; run more seeds: {shown}."

    def _plot(self, name: str, members: Sequence[Member]) -> Plot:
        layers = []
        for rate in sorted({member.trial.optimizer.learning_rate for member in members}):
            mine = [m for m in members if m.trial.optimizer.learning_rate == rate]
            steps = mine[0].measured(f"probe.{self.quantity}")[0]
            ratios = [m.measured(f"probe.{self.quantity}")[1] / m.measured("probe.bound")[1] for m in mine]
            values = np.stack(ratios)
            layers.append(Layer(f"{rate:.3g}", steps, values.mean(0), values.min(0), values.max(0), "line"))
        caption = f"{self.quantity} over the stability bound by learning rate, mean over seeds with their range."
        return Plot(
            f"edge_{name}", f"{name}: distance from the edge", "step", "of the bound", tuple(layers), log_x=False,
            log_y=False, caption=caption, alt=caption,
        )  # fmt: skip
