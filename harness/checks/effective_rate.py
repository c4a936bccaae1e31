"""Does the effective learning rate follow the schedule, or does norm growth undo it?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.transfer.effective_rate import effective_rates

_PREFIX = "probe.norm:"
_WORDS = {"supported": "follows", "refuted": "drifts"}


@CHECKS.register("effective_rate")
@dataclass(frozen=True)
class EffectiveRate(Check):
    """Norms and effective learning rates of the matrices over training (see effective_rate), at the first scale of a series.

    since: share of the horizon from which on the claim holds (after the warmup). matrices: a
    regular expression that the matrix' path must hold.
    """

    title = "Does the effective learning rate follow the schedule?"
    words = ("follows", "drifts")
    probes = ("norms",)

    since: float = 0.1
    matrices: str = ""

    def run(self, members: Sequence[Member]) -> Finding:
        verdicts, document, tables, plots = {}, {}, [], []
        for name, everyone in self.series(members):
            mine = [m for m in everyone if m.row[self.axis] == self.scale(everyone).min() and not m.diverged]
            if not mine:
                verdicts[name] = ("undecided", "Every trial diverged.")
                continue
            names = [key for key in mine[0].curve if key.startswith(_PREFIX) and re.search(self.matrices, key)]
            norms = {key.removeprefix(_PREFIX): np.stack([m.measured(key)[1] for m in mine]) for key in names}
            steps = mine[0].measured("eval_loss")[0]
            rates = mine[0].curve["lr"][np.isin(mine[0].curve["step"], steps)]
            kept = rates > 1e-3 * rates.max()  # what is left of the rate at the end of a schedule says nothing
            found = effective_rates(
                steps[kept], rates[kept], {key: value[:, kept] for key, value in norms.items()},
                mine[0].trial.optimizer.family, since=self.since * mine[0].trial.horizon,
            )  # fmt: skip
            verdicts[name] = (_WORDS.get(found.verdict, "undecided"), found.reason)
            document[name] = found.to_json()
            rows = tuple((key, one.growth, 2 ** float(one.drift[:, -1].mean())) for key, one in found.matrices.items())
            tables.append(
                Table(f"{name}: norms", ("matrix", "growth of the norm", "effective rate over the schedule's"), rows)
            )
            layers = tuple(
                Layer(key, found.steps, 2 ** one.drift.mean(0), kind="line") for key, one in found.matrices.items()
            )
            caption = "Effective learning rate over what the schedule asks for; 1 is a rate that follows it."
            plots.append(
                Plot(
                    f"effective_rate_{name}",
                    f"{name}: effective learning rate",
                    "step",
                    "of the schedule's",
                    layers,
                    log_x=False,
                    caption=caption,
                    alt=caption,
                )
            )
        return Finding(verdicts, document, tuple(tables), tuple(plots))
