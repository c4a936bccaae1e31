"""Maximal update parametrization (Yang et al. 2022, "Tensor Programs V", table 3), relative to a base width."""

from __future__ import annotations

from dataclasses import dataclass

from harness.optimizers.base import Optimizer
from harness.parametrizations.abc_table import no_rule
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf, Parametrization, decay_factor
from workloads.base import BadInput


@PARAMETRIZATIONS.register("mup")
@dataclass(frozen=True)
class MuP(Parametrization):
    """With n the ratio of a leaf's fan-in (or, for input and vector leaves, fan-out) to the base width's:

    |        | init std      | Adam LR | SGD LR | orthogonalised (Muon) LR |
    | input  | 1             | 1       | n      | n^1/2   |
    | vector | 1             | 1       | n      | (its Adam) 1 |
    | hidden | 1 (SP's fan-in^-1/2) | 1/n | 1   | 1       |
    | output | n^-1/2 (on SP's)     | 1/n | 1/n | n^-1/2 |

    An orthogonalised update has spectral norm 1 where (fan-out / fan-in)^1/2 is wanted (Yang et al. 2023, "A spectral
    condition for feature learning", eq. 1); what the optimizer itself multiplies on by shape is divided out.
    Attention logits are scaled by 1/head size instead of its square root (definition 4.1); a tied readout is scaled by 1/n.
    weight_decay: coupled (to the leaf's learning rate), independent or sqrt; gains and biases are not decayed.
    epsilon: constant, or per_layer: 1/n for input, vector and hidden leaves, as their gradients shrink (appendix B.3).
    """

    epsilon: str = "constant"
    weight_decay: str = "coupled"

    def validate(self) -> None:
        super().validate()
        if self.epsilon not in ("constant", "per_layer"):
            raise BadInput(f"unknown parametrization.epsilon '{self.epsilon}'; use constant or per_layer")

    def factors(self, leaf: Leaf, optimizer: Optimizer, depth_ratio: float) -> Factors:
        rate = self._learning_rate(leaf, optimizer)
        shrinking = leaf.role in ("input", "vector", "hidden")
        return Factors(
            init=leaf.width_ratio**-0.5 if leaf.role == "output" else 1.0,
            learning_rate=rate,
            weight_decay=decay_factor(self.weight_decay, leaf, rate),
            epsilon=1.0 / leaf.width_ratio if self.epsilon == "per_layer" and shrinking else 1.0,
        )

    def _learning_rate(self, leaf: Leaf, optimizer: Optimizer) -> float:
        n = leaf.width_ratio
        match optimizer.family:
            case "adam":
                return 1.0 / n if leaf.role in ("hidden", "output") else 1.0
            case "sgd":
                return {"input": n, "vector": n, "hidden": 1.0, "output": 1.0 / n, "fixed": 1.0}[leaf.role]
            case "matrix":
                return spectral_rate(leaf, optimizer)
        raise BadInput(no_rule(self.name, optimizer))

    def attention_scale(self, head_size_ratio: float) -> float:
        return head_size_ratio**-0.5

    def tied_output_scale(self, width_ratio: float) -> float:
        return 1.0 / width_ratio


def spectral_rate(leaf: Leaf, optimizer: Optimizer) -> float:
    """(fan-out / fan-in)^1/2 over the optimizer's own factor by shape, relative to the base width."""
    if len(leaf.shape) < 2 or leaf.role == "fixed":
        return 1.0

    def wanted(shape: tuple[int, ...]) -> float:
        return (shape[-1] / shape[-2]) ** 0.5 / optimizer.shape_factor(shape)

    return wanted(leaf.shape) / wanted(leaf.base_shape)
