"""Maximal update parametrization (Yang et al. 2022, "Tensor Programs V", table 3), relative to a base width."""

from __future__ import annotations

from dataclasses import dataclass

from harness.optimizers.base import Family
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf, Parametrization
from workloads.base import BadInput


@PARAMETRIZATIONS.register("mup")
@dataclass(frozen=True)
class MuP(Parametrization):
    """With n the ratio of a leaf's fan-in (or, for input and vector leaves, fan-out) to the base width's:

    |        | init std      | Adam LR | SGD LR |
    | input, vector | 1      | 1       | n      |
    | hidden | 1 (SP's fan-in^-1/2) | 1/n | 1   |
    | output | n^-1/2 (on SP's)     | 1/n | 1/n |

    Attention logits are scaled by 1/head size instead of its square root (definition 4.1); a tied readout is scaled by 1/n.
    Decoupled weight decay is coupled to the leaf's learning rate; gains and biases are not decayed.
    """

    def factors(self, leaf: Leaf, family: Family) -> Factors:
        if family not in ("adam", "sgd"):
            raise BadInput(
                f"parametrization 'mup' has rules for Adam-like and SGD-like optimizers, and this one is of family "
                f"'{family}'; use parametrization=sp, or an optimizer such as adamw, lion or momentum"
            )
        decay = float(len(leaf.shape) > 1)
        match leaf.role:
            case "input" | "vector":
                return Factors(1.0, leaf.fan_out_ratio if family == "sgd" else 1.0, decay)
            case "hidden":
                return Factors(1.0, 1.0 if family == "sgd" else 1.0 / leaf.fan_in_ratio, decay)
            case "output":
                return Factors(leaf.fan_in_ratio**-0.5, 1.0 / leaf.fan_in_ratio, decay)
        return Factors(weight_decay=decay)

    def attention_scale(self, head_size_ratio: float) -> float:
        return head_size_ratio**-0.5

    def tied_output_scale(self, width_ratio: float) -> float:
        return 1.0 / width_ratio
