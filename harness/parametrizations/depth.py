"""Parametrizations of depth as well as width: depth-muP and CompleteP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness.optimizers.base import Optimizer
from harness.parametrizations.abc_table import no_rule
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf
from harness.parametrizations.mup import MuP
from workloads.base import BadInput, Workload


@dataclass(frozen=True)
class _Depth(MuP):
    """muP in width, and for m = depth / base_depth: residual branches times m^-alpha, the Adam learning rate of what is in
    the branches times m^(alpha - 1), so that m branches of size m^-alpha move the residual stream by order one in all.

    alpha = 1/2 assumes that branches add up as independent noise, 1 that they add up coherently.
    """

    alpha: ClassVar[float]

    base_depth: int = 2

    def validate(self) -> None:
        super().validate()
        if self.base_depth < 1:
            raise BadInput(f"parametrization.base_depth={self.base_depth} must be at least 1")

    def depth_ratio(self, workload: Workload) -> float:
        return workload.depth / self.base_depth

    def residual_scale(self, depth_ratio: float) -> float:
        return depth_ratio**-self.alpha

    def factors(self, leaf: Leaf, optimizer: Optimizer, depth_ratio: float) -> Factors:
        if optimizer.family != "adam":
            raise BadInput(f"{no_rule(self.name, optimizer)} (depth has rules for Adam-like optimizers only)")
        found = super().factors(leaf, optimizer, depth_ratio)
        if not leaf.repeated:
            return found
        return found._replace(
            learning_rate=found.learning_rate * depth_ratio ** (self.alpha - 1.0),
            epsilon=found.epsilon * (depth_ratio**-self.alpha if self.epsilon == "per_layer" else 1.0),
        )


@PARAMETRIZATIONS.register("depth_mup")
@dataclass(frozen=True)
class DepthMuP(_Depth):
    """muP in width; in depth ratio m, residual branches and their leaves' Adam learning rate times m^-1/2.

    Yang et al. 2023, "Tensor Programs VI: Feature learning in infinite-depth neural networks", table 1.
    """

    alpha: ClassVar[float] = 0.5


@PARAMETRIZATIONS.register("complete_p")
@dataclass(frozen=True)
class CompleteP(_Depth):
    """muP in width ratio n; in depth ratio m, residual branches times 1/m and learning rates unchanged by depth; decay of
    hidden leaves times n (independent of the learning rate), epsilon times 1/n for embeddings and 1/(n m) for hidden leaves.

    Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient deep transformers", table 1 with alpha = 1.
    """

    alpha: ClassVar[float] = 1.0

    epsilon: str = "per_layer"
    weight_decay: str = "independent"
