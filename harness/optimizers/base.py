"""The optimizer protocol, its registry, and the one place where an update is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import optax

from harness.registry import Registry
from workloads.base import Array, BadInput, Batch, Params

Family = Literal["sgd", "adam", "matrix", "other"]


@dataclass(frozen=True)
class Literature:
    """The configuration that the literature recommends to all who do not tune.

    values: hyperparameter -> number or switch, the learning rate always; the others are as the class has them.
    source: who says so, and where.
    """

    values: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Optimizer:
    """An optimizer's hyperparameters, and how to make its optax transformation from them.

    family: how the update scales with the gradient, which is what parametrizations need to know: "sgd" (linear),
    "adam" (invariant to the gradient's scale, entrywise), "matrix" (orthogonalised), "other".
    file: where a user's own is written.
    candidates: batches drawn a step, of which `select` takes one batch's worth of examples.
    decoupled_decay: `weight_decay` means w <- w - lr * weight_decay * w beside the update; then the harness applies it,
    so that parametrizations can scale it by leaf.
    literature: its default in the literature, None where there is none. Defaults of fields are only what goes without saying.
    """

    name: ClassVar[str]
    family: ClassVar[Family] = "other"
    decoupled_decay: ClassVar[bool] = False
    file: ClassVar[str] = ""
    candidates: ClassVar[int] = 1
    literature: ClassVar[Literature | None] = None

    learning_rate: float = 1e-3

    def build(self, learning_rate: Array) -> optax.GradientTransformation:
        """The transformation at this step's learning rate (hyperparameters may be tracers)."""
        raise NotImplementedError

    def evaluation_params(self, state: Any, params: Params) -> Params:
        """The parameters to evaluate (optimizers that average weights override this)."""
        return params

    def select(self, drawn: Batch, losses: Array, count: int, key: Array) -> Array:
        """The rows of `drawn` to train on, (count,) integers; asked where candidates > 1.

        losses: (candidates * count,), of every example alone under the present parameters. key: of this step.
        """
        raise NotImplementedError

    def shape_factor(self, shape: tuple[int, ...]) -> float:
        """What a matrix optimizer itself multiplies on the orthogonalised update of a (..., fan-in, fan-out) leaf."""
        return 1.0

    def validate(self) -> None:
        """Raise BadInput if the hyperparameters make no optimizer."""
        if not 0.0 <= self.learning_rate < float("inf"):
            raise BadInput(f"optimizer.learning_rate={self.learning_rate} must be a non-negative finite number")


def apply_update(
    optimizer: Optimizer,
    learning_rate: Array,
    grads: Params,
    state: Any,
    params: Params,
    loss: Array,
    lr_scale: Any,
    decay_scale: Any,
    epsilon_scale: Any,
) -> tuple[Params, Any]:
    """One optimizer step: (params, optimizer state) -> (params, optimizer state).

    lr_scale, decay_scale, epsilon_scale: trees like `params` of scalars, from the parametrization. A leaf moves by
    lr_scale * (update - lr * weight_decay * decay_scale * leaf). Adam's m / (sqrt(v) + k epsilon) is what it makes, exactly,
    of the gradient divided by k, and so does every optimizer of its family; others have epsilon_scale 1.
    """
    grads = jax.tree.map(lambda g, k: g / k, grads, epsilon_scale)
    transform = optax.with_extra_args_support(optimizer.build(learning_rate))
    updates, state = transform.update(grads, state, params, value=loss)
    if optimizer.decoupled_decay:
        shrink = learning_rate * optimizer.weight_decay  # type: ignore[attr-defined]
        moved = jax.tree.map(lambda p, u, s, d: p + s * (u - (shrink * d) * p), params, updates, lr_scale, decay_scale)
    else:
        moved = jax.tree.map(lambda p, u, s: p + s * u, params, updates, lr_scale)
    return moved, state


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
