"""abc-parametrizations with per-layer learning rates (Everett et al. 2024, "Scaling exponents across parameterizations and
optimizers", tables 1 and 2; Yang & Hu 2021 for the form).

A leaf of a layer whose width ratio is n is W = n^-a w, w ~ N(0, n^-2b), trained with learning rate n^-c. The harness trains W
itself, so per leaf, relative to the base width:

    initial values      n^-(a + b)
    learning rate       n^-(a + c) for optimizers invariant to the gradient's scale (w moves by n^-c, W by n^-a as much),
                        n^-(2a + c) for those linear in it (the gradient of w is n^-a that of W)
    decoupled decay     shrinks w, hence W, by n^-c eta lambda: a factor n^a beside Adam's learning rate
    epsilon             meets the gradient of w: a factor n^a on the gradient of W

c follows from a stability argument. Let the update of a layer's preactivation be sum over fan-in of dW h: entries of dW of
size n^-1 (full alignment of dW and h) or n^-1/2 (none) keep it of order one in hidden and readout layers; the input layer's
fan-in does not grow, so entries of order one do. Adam's dW has entries eta n^-(a + c): hence a + c = 0 for input, 1 (full) or
1/2 (none) for hidden and readout. For SGD dW = eta n^-(2a + c) g, and the gradient g of W is of the size of the readout's
effective initial value, n^-(a_out + b_out), for input and hidden leaves, and of order one for the readout's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.optimizers.base import Optimizer
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf, Parametrization, decay_factor
from harness.registry import nearest
from workloads.base import BadInput

Layer = Literal["input", "hidden", "output"]

# table -> layer -> (a, b)
TABLES: dict[str, dict[Layer, tuple[float, float]]] = {
    "standard": {"input": (0.0, 0.0), "hidden": (0.0, 0.5), "output": (0.0, 0.5)},
    "ntk": {"input": (0.0, 0.0), "hidden": (0.5, 0.0), "output": (0.5, 0.0)},
    "mup": {"input": (-0.5, 0.5), "hidden": (0.0, 0.5), "output": (0.5, 0.5)},
    "mean_field": {"input": (0.0, 0.0), "hidden": (0.5, 0.0), "output": (1.0, 0.0)},
}
# The power of n in SP's own initial values at a width, which the model draws: what a + b is compared with.
SP_INIT: dict[Layer, float] = {"input": 0.0, "hidden": 0.5, "output": 0.5}
ALIGNMENTS = {"full": 1.0, "none": 0.5}
EPSILONS = ("constant", "per_layer")


def gradient_power(layer: Layer, readout_init: float) -> float:
    """p where the effective gradient's entries are of size n^-p at the start. readout_init: a + b of the readout."""
    return 0.0 if layer == "output" else readout_init


def update_power(layer: Layer, alignment: float) -> float:
    """p where effective updates with entries of size n^-p move preactivations by order one."""
    return 0.0 if layer == "input" else alignment


@PARAMETRIZATIONS.register("abc")
@dataclass(frozen=True)
class ABC(Parametrization):
    """table: standard, ntk, mup or mean_field. alignment: full or none, what the learning rates assume.

    epsilon: constant, in the coordinates of the table's multipliers; or per_layer, so that it stays as small beside the
    gradient as it is at the base width (Everett et al. 2024, section 4.3). weight_decay: coupled, independent or sqrt
    (harness.parametrizations.base.decay_factor), likewise in the multipliers' coordinates.
    Gains and biases are input layers. Attention logits are scaled by 1 / head size under mup, its square root elsewhere.
    """

    table: str = "mup"
    alignment: str = "full"
    epsilon: str = "constant"
    weight_decay: str = "coupled"

    def validate(self) -> None:
        super().validate()
        for key, valid in (("table", TABLES), ("alignment", ALIGNMENTS), ("epsilon", EPSILONS)):
            if getattr(self, key) not in valid:
                word = getattr(self, key)
                raise BadInput(f"unknown parametrization.{key} '{word}'. {nearest(word, valid)}")

    def factors(self, leaf: Leaf, optimizer: Optimizer, depth_ratio: float) -> Factors:
        if optimizer.family not in ("adam", "sgd"):
            raise BadInput(no_rule(self.name, optimizer))
        if leaf.role == "fixed":
            return Factors(weight_decay=decay_factor(self.weight_decay, leaf, 1.0))
        layer: Layer = "input" if leaf.role == "vector" else leaf.role
        n, (a, b) = leaf.width_ratio, TABLES[self.table][layer]
        gradient = gradient_power(layer, sum(TABLES[self.table]["output"]))
        rate = n ** -update_power(layer, ALIGNMENTS[self.alignment])
        adam = optimizer.family == "adam"
        return Factors(
            init=1.0 if leaf.role == "vector" else n ** (SP_INIT[layer] - a - b),
            learning_rate=rate if adam else rate * n**gradient,
            weight_decay=decay_factor(self.weight_decay, leaf, rate) * n**a,
            epsilon=1.0 if not adam else n**a if self.epsilon == "constant" else n**-gradient,
        )

    def attention_scale(self, head_size_ratio: float) -> float:
        return head_size_ratio**-0.5 if self.table == "mup" else 1.0

    def tied_output_scale(self, width_ratio: float) -> float:
        """The readout's effective initial value beside the embedding's, which is of order one."""
        return width_ratio ** -sum(TABLES[self.table]["output"])


def no_rule(name: str, optimizer: Optimizer) -> str:
    return (
        f"parametrization '{name}' has no rule for optimizer '{optimizer.name}' (of family '{optimizer.family}'); use "
        "parametrization=sp, or an optimizer such as adamw, lion or momentum"
    )
