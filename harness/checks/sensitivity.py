"""What does a wrong learning rate cost, and does an intervention make it cost less?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import LEARNING_RATE
from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.transfer.sensitivity import learning_rate_sensitivity
from workloads.base import BadInput

_WORDS = {"supported": "lower", "refuted": "not_lower"}


@CHECKS.register("sensitivity")
@dataclass(frozen=True)
class Sensitivity(Check):
    """Learning-rate sensitivity of every series against that of `baseline`, a series' name (see sensitivity)."""

    title = "What does a wrong learning rate cost?"
    words = ("lower", "not_lower")

    baseline: str = ""

    def run(self, members: Sequence[Member]) -> Finding:
        names = {id(m): name for name, mine in self.series(members) for m in mine}
        found = learning_rate_sensitivity(
            width=self.scale(members),
            learning_rate=[m.row[LEARNING_RATE] for m in members],
            loss=[np.nan if m.diverged else m.row["final_loss"] for m in members],
            init_loss=[m.row["initial_loss"] for m in members],
            seed=[m.row["seed"] for m in members],
            intervention=[names[id(m)] for m in members],
        )
        if self.baseline not in found.interventions:
            raise BadInput(f"baseline='{self.baseline}' is no series; there are: {', '.join(found.interventions)}")
        compared = {name: found.compare(name, self.baseline) for name in found.interventions if name != self.baseline}
        verdicts = {name: (_WORDS.get(one.verdict, "undecided"), one.reason) for name, one in compared.items()}
        intervals = found.intervals(0.95)
        rows = tuple(
            (name, width, found.mean[i, w], tuple(intervals[i, w]))
            for i, name in enumerate(found.interventions)
            for w, width in enumerate(found.widths.tolist())
        )
        table = Table("Learning-rate sensitivity", ("series", "width", "sensitivity", "95% interval"), rows)
        layers = tuple(
            Layer(name, found.widths, found.mean[i], intervals[i, :, 0], intervals[i, :, 1], "line")
            for i, name in enumerate(found.interventions)
        )
        caption = "Mean over learning rates of min(loss, loss at initialisation) - best loss."
        plot = Plot(
            "sensitivity",
            "Learning-rate sensitivity",
            "width",
            "sensitivity",
            layers,
            log_y=False,
            caption=caption,
            alt=caption,
        )
        document = found.to_json() | {"comparisons": {name: one.to_json() for name, one in compared.items()}}
        return Finding(verdicts, document, (table,), (plot,))
