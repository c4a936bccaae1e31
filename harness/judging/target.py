"""The run to be decided about: what proxies say of it, and what the optimizer's own work would be there."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax

from harness.engine.update_flops import update_flops
from harness.judging.joint import Joint
from harness.optimizers.base import Optimizer
from workloads.base import Workload

_PER_LAYER = 128  # units of width for each layer of a large transformer
_STEP = 64  # widths are multiples of it


@dataclass(frozen=True)
class Target:
    """params: its parameters. tokens: that it sees. batch: tokens of a step."""

    params: float
    tokens: float
    batch: float


@dataclass(frozen=True)
class AtTarget:
    """A method on a workload, extrapolated to the target. speed_up: in steps, by the joint law, with its 95% interval (NaN:
    none was fitted). flops_share: the optimizer's own FLOPs over 6 N x the batch's tokens. width, depth: of the model of this
    family that has about as many parameters, in which they were counted.
    """

    method: str
    workload: str
    speed_up: float
    ci95: tuple[float, float]
    flops_share: float
    width: int
    depth: int

    @property
    def in_flops(self) -> float:
        """The speed-up when the optimizer's own work is paid."""
        return self.speed_up / (1 + self.flops_share)


def at_target(target: Target, method: str, workload: Workload, optimizer: Optimizer, joint: Joint | None) -> AtTarget:
    """What is to be expected of a method. joint: the law fitted on the workload's proxies, if there is one."""
    large, shapes = grown(workload, target.params)
    share = update_flops(optimizer, shapes) / (6 * count(shapes) * target.batch)
    found = (math.nan, (math.nan, math.nan))
    if joint is not None and method in joint.methods:
        found = joint.speed_up(method, target.params, target.tokens)
    return AtTarget(method, workload.name, *found, share, large.width, large.depth)


@functools.cache
def grown(workload: Workload, params: float) -> tuple[Workload, Any]:
    """The family's model with the largest width that has no more parameters (or the smallest there is), and their shapes.

    With attention it grows in depth, too, a layer for 128 units of width, as large transformers do; others in width alone.
    """
    low, high = 1, 2  # multiples of the step
    while count(_shapes(workload, high)) < params:
        low, high = high, 2 * high
    while high - low > max(1, low // 64):  # near enough
        middle = (low + high) // 2
        low, high = (middle, high) if count(_shapes(workload, middle)) <= params else (low, middle)
    return _at(workload, low), _shapes(workload, low)


def count(shapes: Any) -> int:
    """Parameters of a model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _at(workload: Workload, multiple: int) -> Workload:
    width = multiple * _STEP
    depth = max(workload.depth, width // _PER_LAYER) if workload.head_size > 1 else workload.depth
    return workload.replace(width=width, depth=depth)


def _shapes(workload: Workload, multiple: int) -> Any:
    return jax.eval_shape(_at(workload, multiple).init, jax.random.key(0))
