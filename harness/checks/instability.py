"""At which learning rate does an instability set in at the largest scale?  Predicted from the smaller ones, then seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis import LEARNING_RATE
from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.transfer.onset import fit_onset, verify_onset
from workloads.base import BadInput

_WORDS = {"supported": "hit", "refuted": "missed"}
_LOGIT, _DRIFT = "attention_logit", "output_drift"


@CHECKS.register("instability")
@dataclass(frozen=True)
class Instability(Check):
    """The onset's learning rate at the largest scale, fitted to all smaller ones (see onset).

    quantity: attention_logit, the largest over layers and training, or output_drift, the largest change of the mean log Z.
    threshold: where the instability sets in.
    """

    title = "Can smaller runs predict where an instability sets in?"
    words = ("hit", "missed")
    probes = ("instabilities",)

    quantity: str = _LOGIT
    threshold: float = 10.0

    def run(self, members: Sequence[Member]) -> Finding:
        if self.quantity not in (_LOGIT, _DRIFT):
            raise BadInput(f"quantity={self.quantity} must be {_LOGIT} or {_DRIFT}")
        verdicts, document, tables, plots = {}, {}, [], []
        for name, mine in self.series(members):
            scale, rate = self.scale(mine), np.array([m.row[LEARNING_RATE] for m in mine])
            size = np.array([_largest(m, self.quantity) for m in mine])
            diverged = np.array([m.diverged for m in mine])
            small = scale < scale.max()
            try:
                fitted = fit_onset(
                    scale[small], rate[small], size[small], threshold=self.threshold, diverged=diverged[small]
                )
                predicted = fitted.learning_rate(scale.max())
                seen = verify_onset(
                    predicted, rate[~small], size[~small], threshold=self.threshold, diverged=diverged[~small]
                )
            except BadInput as error:
                verdicts[name] = ("undecided", str(error))
                continue
            verdicts[name] = (_WORDS.get(seen.verdict, "undecided"), seen.reason)
            document[name] = seen.to_json()
            header = ("axis", "learning rate", self.quantity, "diverged")
            rows = tuple(sorted(zip(scale.tolist(), rate.tolist(), size.tolist(), diverged.tolist(), strict=True)))
            tables.append(Table(f"{name}: {self.quantity}", header, rows))
            plots.append(_plot(name, self.quantity, scale, rate, size))
        return Finding(verdicts, document, tuple(tables), tuple(plots))


def _largest(member: Member, quantity: str) -> float:
    """The quantity's largest value during training; infinite where it was not finite."""
    if quantity == _DRIFT:
        values = member.measured("probe.log_z")[1]
        moved = np.abs(values - values[0]) if values.size else np.array([np.inf])
    else:
        columns = [name for name in member.curve if name.startswith(f"probe.{_LOGIT}_")]
        if not columns:
            raise BadInput("the trials record no attention logits; add the probe instabilities to base.probes")
        moved = np.concatenate([member.measured(name)[1] for name in columns])
    return float(np.max(moved)) if moved.size and np.isfinite(moved).all() else float("inf")


def _plot(name: str, quantity: str, scale: np.ndarray, rate: np.ndarray, size: np.ndarray) -> Plot:
    layers = []
    for one in np.unique(scale):
        rows = np.flatnonzero((scale == one) & np.isfinite(size) & (size > 0))
        rows = rows[np.argsort(rate[rows])]
        layers.append(Layer(f"{one:g}", rate[rows], size[rows]))
    caption = f"Largest {quantity.replace('_', ' ')} during training against the learning rate, by scale."
    return Plot(
        f"{quantity}_{name}",
        f"{name}: {quantity.replace('_', ' ')}",
        "learning rate",
        quantity,
        tuple(layers),
        caption=caption,
        alt=caption,
    )
