"""Standard parametrization: the model's own initialisation and one global learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from harness.optimizers.base import Optimizer
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf, Parametrization
from workloads.base import Workload


@PARAMETRIZATIONS.register("sp")
@dataclass(frozen=True)
class SP(Parametrization):
    """All factors 1, except that gains and biases are not decayed."""

    def reference_width(self, workload: Workload) -> int:
        return workload.width

    def factors(self, leaf: Leaf, optimizer: Optimizer, depth_ratio: float) -> Factors:
        return Factors(weight_decay=float(len(leaf.shape) > 1))
