"""Is the sharpness independent of width, and does it reach the optimizer's stability bound?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.transfer.stability import Margin, margin
from harness.transfer.width_independence import width_independence
from workloads.base import BadInput


@CHECKS.register("sharpness")
@dataclass(frozen=True)
class Sharpness(Check):
    """Slope of log sharpness on log width over a window of training (see width_independence).

    window: first and last step, as shares of the horizon. quantity: "sharpness" (of H) or "bounded" (of what the
    optimizer's stability bound is about, P^-1 H for Adam).
    """

    title = "Is the sharpness independent of width?"
    words = ("independent", "dependent")
    probes = ("sharpness",)

    first: float = 0.3
    last: float = 1.0
    quantity: str = "sharpness"

    def run(self, members: Sequence[Member]) -> Finding:
        if self.quantity not in ("sharpness", "bounded"):
            raise BadInput(f"quantity={self.quantity} must be sharpness or bounded")
        verdicts, document, tables, plots = {}, {}, [], []
        for name, mine in self.series(members):
            curves = [member.measured(f"probe.{self.quantity}") for member in mine]
            width, seed = self.scale(mine), [member.row["seed"] for member in mine]
            lengths = [steps.size for steps, _ in curves]
            horizon = max(member.trial.horizon for member in mine)
            found = width_independence(
                np.repeat(width, lengths),
                np.concatenate([steps for steps, _ in curves]),
                np.concatenate([values for _, values in curves]),
                np.repeat(seed, lengths),
                window=(self.first * horizon, self.last * horizon),
            )
            verdicts[name] = (found.verdict, found.reason)
            edges = [_edge(member) for member in mine if not member.diverged]
            document[name] = found.to_json() | {"at_bound": [one.to_json() for one in edges]}
            ratio = float(np.median([one.ratio for one in edges])) if edges else float("nan")
            level = zip(found.widths.tolist(), found.level.tolist(), strict=True)
            rows = tuple((w, value, ratio) for w, value in level)
            header = (
                "width",
                f"{self.quantity}, mean over the window",
                "of its stability bound at the end, all widths",
            )
            tables.append(Table(f"{name}: {self.quantity} by width", header, rows))
            plots.append(self._plot(name, mine))
        return Finding(verdicts, document, tuple(tables), tuple(plots))

    def _plot(self, name: str, members: Sequence[Member]) -> Plot:
        layers = []
        for width in sorted(set(self.scale(members))):
            runs = [
                m.measured(f"probe.{self.quantity}") for m in members if m.row[self.axis] == width and not m.diverged
            ]
            if runs:
                values = np.stack([values for _, values in runs])
                layers.append(
                    Layer(
                        f"width {width:g}",
                        runs[0][0],
                        np.exp(np.log(values).mean(0)),
                        values.min(0),
                        values.max(0),
                        "line",
                    )
                )
        caption = f"{self.quantity} during training, geometric mean over seeds with their range."
        return Plot(
            f"sharpness_{name}", f"{name}: {self.quantity}", "step", self.quantity, tuple(layers), log_x=False,
            caption=caption, alt=caption,
        )  # fmt: skip


def _edge(member: Member) -> Margin:
    """Curvature against its bound, at the largest ratio of the second half of training."""
    steps, curvature = member.measured("probe.bounded")
    bound = member.measured("probe.bound")[1]
    late = steps >= member.trial.horizon / 2
    highest = int(np.argmax(np.where(late, curvature / bound, -np.inf)))
    return margin(curvature[highest], bound[highest])
