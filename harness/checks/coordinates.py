"""Do all activations move by the same amount at every width?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.budget import Budget
from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.procedures.base import Table
from harness.schedules import SCHEDULES
from harness.transfer.coordinate_check import coordinate_check

_NAMED = 3  # activations in a reason


@CHECKS.register("coordinates")
@dataclass(frozen=True)
class Coordinates(Check):
    """The coordinate check of each series' first trial, at a constant rate without warmup (see coordinate_check).

    widths: by default those of the series. steps, seeds: of the check's own short runs.
    """

    title = "Do activations move by the same amount at every width?"
    words = ("pass", "fail")

    widths: list[int] = field(default_factory=list)
    steps: int = 4
    seeds: int = 8

    def run(self, members: Sequence[Member]) -> Finding:
        verdicts, document, tables, plots = {}, {}, [], []
        for name, mine in self.series(members):
            trial = mine[0].trial
            still = SCHEDULES["constant"](warmup="0 steps")
            trial = replace(trial, schedule=still, budget=Budget(steps=self.steps), probes=())
            widths = self.widths or sorted({member.trial.workload.width for member in mine})
            found = coordinate_check(trial, widths, self.seeds, self.steps)
            failing = [key for key, slope in found.slopes.items() if slope.verdict == found.verdict != "pass"]
            shown = ", ".join(f"{key} {found.slopes[key].value:+.2f}" for key in failing[:_NAMED])
            reason = (
                f"{len(failing)} of {len(found.slopes)} log-log slopes against width, such as {shown}"
                if failing
                else f"all {len(found.slopes)} log-log slopes against width lie within 0.25 of 0"
            )
            verdicts[name] = (found.verdict, reason)
            document[name] = found.to_json()
            rows = tuple((key, slope.value, slope.ci95, slope.verdict) for key, slope in found.slopes.items())
            tables.append(
                Table(f"{name}: slope against width", ("activation", "slope", "95% interval", "verdict"), rows)
            )
            plots.append(found.plot(f"coordinates_{name}"))
        return Finding(verdicts, document, tuple(tables), tuple(plots))
