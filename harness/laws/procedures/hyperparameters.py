"""Best learning rate and batch size as power laws of model size and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings
from harness.laws.procedures.knobs import Sweeps, estimate
from harness.laws.procedures.rules import Rule
from workloads.base import BadInput

STEP_LAW = MappingProxyType({"c": 1.79, "a": -0.713, "b": 0.307, "d": 0.58, "e": 0.571})
RULES = (Rule("lr", "c", {"N": "a", "D": "b"}), Rule("B", "d", {"D": "e"}))


@PROCEDURES.register("hyperparameters")
@dataclass(frozen=True)
class Hyperparameters(Procedure):
    """lr = c N^a D^b and B = d D^e at the optima of grids of runs.  Li et al. 2025 (arXiv:2503.04715), Step Law, eq. 1.

    N parameters, D training tokens, lr peak learning rate, B batch in tokens (in sequences with `tokens_per_sequence`),
    loss at the end; a loss that is not finite is a diverged run. A cell is one (N, D); its optimum is the mean log of
    the runs within `tolerance` of its best (the paper's rule), and the vertex of a parabola in log lr x log B through
    the runs within `window`. Cells whose best run lies at the edge of the sweep are refused. reference: coefficients to
    judge, the published ones by default, {} for none. at: {"N", "D"} at which to recommend.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "D", "lr", "B", "loss")

    tokens_per_sequence: float = 1.0
    tolerance: float = 0.0025
    window: float = 0.01
    reference: Mapping[str, float] = field(default_factory=lambda: dict(STEP_LAW))
    at: Mapping[str, float] = field(default_factory=dict)

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        """Raises BadInput on bad columns or options, and with fewer than five cells that have an optimum."""
        if not (np.isfinite(self.tokens_per_sequence) and self.tokens_per_sequence > 0):
            raise BadInput(f"tokens_per_sequence={self.tokens_per_sequence} must be positive; 1 where B is in tokens")
        tokens = np.asarray(columns["B"], np.float64) * self.tokens_per_sequence
        sweeps = Sweeps(("N", "D"), RULES, self.tolerance, self.window, self.reference, self.at)
        return estimate(self.name, sweeps, {**columns, "B": tokens}, settings)
