"""Best learning rate as a power law of training tokens, proportional to the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings
from harness.laws.procedures.knobs import Sweeps, estimate
from harness.laws.procedures.rules import Rule

PROPORTIONAL = (Rule("lr", "a", {"tokens": "b"}, fixed={"B": 1.0}),)
FREE = (Rule("lr", "a", {"tokens": "b", "B": "g"}),)


@PROCEDURES.register("power_scheduler")
@dataclass(frozen=True)
class PowerScheduler(Procedure):
    """lr = a B n^b at the optima of learning rate sweeps.  Shen et al. 2024 (arXiv:2408.13359).

    B batch and n = `tokens` training tokens, in the units of the table (a depends on them; the paper counts B in sequences),
    lr peak learning rate, loss at the end; a loss that is not finite is a diverged run. A cell is one (B, tokens). free_batch
    fits lr = a B^g n^b instead, to see whether g is 1. Optima and regrets as in `hyperparameters`. reference: coefficients
    to judge, none by default. at: {"B", "tokens"} at which to recommend.
    """

    columns: ClassVar[tuple[str, ...]] = ("B", "tokens", "lr", "loss")

    free_batch: bool = False
    tolerance: float = 0.0025
    window: float = 0.01
    reference: Mapping[str, float] = field(default_factory=dict)
    at: Mapping[str, float] = field(default_factory=dict)

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        """Raises BadInput on bad columns or options, and with too few cells that have an optimum."""
        rules = FREE if self.free_batch else PROPORTIONAL
        sweeps = Sweeps(("B", "tokens"), rules, self.tolerance, self.window, self.reference, self.at)
        return estimate(self.name, sweeps, columns, settings)
