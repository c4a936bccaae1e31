"""The parametrization protocol: leaves and their roles from shapes, and the per-leaf factors a rule gives them.

Everything is in *effective* coordinates: a weight with its forward multiplier folded in. That loses nothing: a multiplier is
an initial value, a learning rate, a decay and an epsilon of the folded weight (see `abc_table.py`).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax

from harness.optimizers.base import Optimizer
from harness.parametrizations.rescale import Rescaling
from harness.registry import Registry, nearest
from workloads.base import BadInput, Workload

Role = Literal["input", "hidden", "output", "vector", "fixed"]
DECAY_RULES = ("coupled", "independent", "sqrt")


@dataclass(frozen=True)
class Leaf:
    """One parameter array, seen at the trial's width and at the base width.

    role: "hidden" if both fan-in and fan-out grow with width, "input" if only fan-out does, "output" if only fan-in does,
    "vector" for gains and biases that grow, "fixed" for what does not depend on width.
    fan_in_ratio, fan_out_ratio: size at this width / size at the base width. repeated: whether depth adds more of its kind
    (it belongs to a residual block or to a layer of a stack).
    """

    path: str
    shape: tuple[int, ...]
    role: Role
    fan_in_ratio: float
    fan_out_ratio: float
    repeated: bool = False

    @property
    def base_shape(self) -> tuple[int, ...]:
        """The shape at the base width."""
        ratios = [1.0] * (len(self.shape) - 2) + [self.fan_in_ratio, self.fan_out_ratio][-min(len(self.shape), 2) :]
        return tuple(round(size / ratio) for size, ratio in zip(self.shape, ratios[-len(self.shape) :], strict=True))

    @property
    def width_ratio(self) -> float:
        """n: how much wider the leaf is than at the base width (1 where it does not depend on width)."""
        return self.fan_in_ratio if self.role in ("hidden", "output") else self.fan_out_ratio


class Factors(NamedTuple):
    """What a rule gives a leaf, each a factor on the SP value at this width.

    init: on the initial values. learning_rate: on the update. weight_decay: on the coefficient of decoupled decay,
    whose step is learning rate x coefficient. epsilon: on the epsilon of Adam-like optimizers.
    """

    init: float = 1.0
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    epsilon: float = 1.0


@dataclass(frozen=True)
class Scales:
    """A parametrization applied to one workload at one width: nested dicts of floats, and the model's named scalars."""

    init: Any
    learning_rate: Any
    weight_decay: Any
    epsilon: Any
    attention_scale: float
    residual_scale: float
    output_scale: float


@dataclass(frozen=True)
class Parametrization(Rescaling):
    """A rule from a leaf's role and ratios to its factors. At the base width (and depth) every parametrization is SP.

    Beside it, rules by which hyperparameters follow batch size and duration (see `rescale.py`), off by default.
    """

    name: ClassVar[str]

    base_width: int = 32

    def reference_width(self, workload: Workload) -> int:
        """The width at which this is SP, and against which ratios are taken."""
        return self.base_width

    def depth_ratio(self, workload: Workload) -> float:
        """m_L: depth over the depth at which this is SP; 1 where depth has no rule."""
        return 1.0

    def factors(self, leaf: Leaf, optimizer: Optimizer, depth_ratio: float) -> Factors:
        """The leaf's factors for this optimizer. Raises BadInput where no rule exists."""
        raise NotImplementedError

    def attention_scale(self, head_size_ratio: float) -> float:
        """Factor on attention logits, beside 1 / sqrt(head size)."""
        return 1.0

    def residual_scale(self, depth_ratio: float) -> float:
        """Factor on every residual branch."""
        return 1.0

    def tied_output_scale(self, width_ratio: float) -> float:
        """Factor on the output where the readout is the transposed embedding, a leaf with two roles."""
        return 1.0

    def validate(self) -> None:
        super().validate()
        if self.base_width < 1:
            raise BadInput(f"parametrization.base_width={self.base_width} must be at least 1")


def decay_factor(rule: str, leaf: Leaf, learning_rate: float) -> float:
    """Factor on the decay coefficient lambda, by what becomes of the shrink per step s = eta lambda.

    coupled: lambda constant, so s follows the leaf's learning rate (1 / n for hidden leaves under muP and Adam).
    independent: s constant, lambda = 1 / the learning rate's factor (Wortsman et al. 2023; n under muP).
    sqrt: matrix-like lambda ~ sqrt(n), so s ~ n^-1/2 where the learning rate is 1 / n ("Robust layerwise scaling rules",
    Fan et al. 2025). Gains and biases are not decayed under any rule. Raises BadInput on other rules.
    """
    if rule not in DECAY_RULES:
        raise BadInput(f"unknown parametrization.weight_decay '{rule}'. {nearest(rule, DECAY_RULES)}")
    if len(leaf.shape) < 2:
        return 0.0
    return {"coupled": 1.0, "independent": 1.0 / learning_rate, "sqrt": leaf.width_ratio**0.5}[rule]


def leaves(workload: Workload, base_width: int) -> list[Leaf]:
    """Every leaf of the workload's parameters with its role, by comparing shapes at three widths and two depths.

    Growth is seen between the width and its double, so that roles are known at the base width too. A leaf is repeated if a
    deeper model has a new leaf whose path differs in its numbers only.
    """
    here, base, double = (_shapes(workload.replace(width=w)) for w in (workload.width, base_width, 2 * workload.width))
    if not here.keys() == base.keys() == double.keys():
        odd = sorted(here.keys() ^ base.keys() | here.keys() ^ double.keys())
        raise BadInput(
            f"workload '{workload.name}' has leaves that exist only at some widths: {', '.join(odd)}; roles cannot be "
            f"told from shapes"
        )
    deeper = _shapes(workload.replace(depth=workload.depth + 1)).keys() - here.keys()
    kinds = {kind(path) for path in deeper}
    return [_leaf(path, here[path], base[path], double[path], kind(path) in kinds) for path in here]


@functools.cache
def scales(parametrization: Parametrization, workload: Workload, optimizer: Optimizer) -> Scales:
    """The factors of every leaf and the model's named scalars. Of the optimizer only its kind matters, not its numbers."""
    base = workload.replace(width=parametrization.reference_width(workload))
    try:
        base.validate()
    except BadInput as error:
        raise BadInput(f"parametrization.base_width={base.width} is no width of this workload: {error}") from None
    found = leaves(workload, base.width)
    depth_ratio = parametrization.depth_ratio(workload)
    factors = {leaf.path: parametrization.factors(leaf, optimizer, depth_ratio) for leaf in found}
    structure = jax.eval_shape(workload.init, jax.random.key(0))

    def tree(field: str) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: getattr(factors[_name(path)], field), structure)

    tied = not any(leaf.role == "output" for leaf in found)
    width_ratio = workload.width / base.width
    head_ratio = workload.head_size / base.head_size
    return Scales(
        init=tree("init"),
        learning_rate=tree("learning_rate"),
        weight_decay=tree("weight_decay"),
        epsilon=tree("epsilon"),
        attention_scale=workload.attention_scale * parametrization.attention_scale(head_ratio),
        residual_scale=workload.residual_scale * parametrization.residual_scale(depth_ratio),
        output_scale=workload.output_scale * (parametrization.tied_output_scale(width_ratio) if tied else 1.0),
    )


def _shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    shapes = jax.eval_shape(workload.init, jax.random.key(0))
    return {_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(entry.key) for entry in path)


def kind(path: str) -> str:
    """The path with its numbers left out."""
    return re.sub(r"\d+", "#", path)


def _leaf(path: str, here: tuple[int, ...], base: tuple[int, ...], double: tuple[int, ...], repeated: bool) -> Leaf:
    grows = [d > h for d, h in zip(double, here, strict=True)]
    ratio = [h / b for h, b in zip(here, base, strict=True)]
    if len(here) < 2:
        return Leaf(path, here, "vector" if any(grows) else "fixed", 1.0, ratio[-1] if here else 1.0, repeated)
    roles: dict[tuple[bool, bool], Role] = {
        (True, True): "hidden",
        (False, True): "input",
        (True, False): "output",
        (False, False): "fixed",
    }
    return Leaf(path, here, roles[grows[-2], grows[-1]], ratio[-2], ratio[-1], repeated)


PARAMETRIZATIONS: Registry[Parametrization] = Registry("parametrization")
