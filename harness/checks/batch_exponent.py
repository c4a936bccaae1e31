"""How does the best learning rate grow with the batch size?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import LEARNING_RATE
from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.transfer.batch import best_rate_exponent, largest_stable_rate
from harness.transfer.noise_scale import gradient_noise_scale
from workloads.base import BadInput

_WORDS = {"supported": "predicted", "refuted": "differs"}


@CHECKS.register("batch_exponent")
@dataclass(frozen=True)
class BatchExponent(Check):
    """The best learning rate's exponent in the batch size, held against 1 for SGD and 1/2 for Adam-like optimizers.

    largest: batches above are left out, as the predictions hold below the critical batch only (0: none). The largest stable
    rates are reported beside it, and the gradient noise scale if the trials have the probe noise_scale.
    """

    title = "How does the best learning rate grow with the batch size?"
    words = ("predicted", "differs")

    axis: str = "workload.batch_size"
    largest: int = 0

    def run(self, members: Sequence[Member]) -> Finding:
        verdicts, document, tables, layers = {}, {}, [], []
        for name, everyone in self.series(members):
            mine = [m for m in everyone if not self.largest or m.row[self.axis] <= self.largest]
            batch, rate = self.scale(mine), np.array([m.row[LEARNING_RATE] for m in mine])
            diverged, seed = np.array([m.diverged for m in mine]), np.array([m.row["seed"] for m in mine])
            loss = np.array([m.row["final_loss"] for m in mine])
            found = best_rate_exponent(batch, rate, loss, seed, diverged, family=mine[0].trial.optimizer.family)
            verdicts[name] = (_WORDS.get(found.verdict, "undecided"), found.reason)
            stable = largest_stable_rate(*(self._all(everyone)))
            document[name] = found.to_json() | {"largest_stable": stable.to_json(), "noise_scale": _noise(everyone)}
            entry = found.transfer
            rows = tuple(
                (b, entry.best_lr[i], tuple(entry.best_lr_ci95[i]), _stable(stable, b))
                for i, b in enumerate(entry.scales.tolist())
            )
            header = ("batch", "best learning rate", "95% interval", "largest stable rate between")
            tables.append(Table(f"{name}: best learning rate by batch size", header, rows))
            ok = np.isfinite(entry.best_lr)
            ci95 = entry.best_lr_ci95[ok]
            layers.append(Layer(name, entry.scales[ok], entry.best_lr[ok], ci95[:, 0], ci95[:, 1]))
        caption = "Best learning rate with 95% intervals against the batch size."
        plot = Plot(
            "batch_exponent",
            "Best learning rate",
            "batch size",
            "learning rate",
            tuple(layers),
            caption=caption,
            alt=caption,
        )
        return Finding(verdicts, document, tuple(tables), (plot,))

    def _all(self, members: Sequence[Member]) -> tuple[np.ndarray, ...]:
        columns = (
            [m.row[LEARNING_RATE] for m in members],
            [m.diverged for m in members],
            [m.row["seed"] for m in members],
        )
        return (self.scale(members), *map(np.array, columns))


def _stable(found: object, batch: float) -> tuple[float, float]:
    i = int(np.flatnonzero(found.batches == batch)[0])  # type: ignore[attr-defined]
    return float(found.low[i]), float(found.high[i])  # type: ignore[attr-defined]


def _noise(members: Sequence[Member]) -> dict[str, object] | None:
    """Of the trials that did not diverge, at the end of training; None without the probe."""
    rows = [m.row for m in members if not m.diverged and m.row.get("probe.noise_trace") is not None]
    if len(rows) < 3:
        return None
    try:
        found = gradient_noise_scale(
            [r["probe.noise_trace"] for r in rows], [r["probe.noise_squared_norm"] for r in rows]
        )
    except BadInput as error:
        return {"reason": str(error)}
    return found.to_json()
