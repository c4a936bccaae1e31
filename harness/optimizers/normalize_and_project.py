"""Normalize-and-Project: matrices keep their initial norm, so that the learning rate alone sets the effective one.

"Normalization and effective learning rates in reinforcement learning" (Lyle et al. 2024), sec. 3: normalise before every
nonlinearity, and after every update project each matrix back to the norm it began with.  The projection alone would
change what an unnormalised network can express, so such models are refused (harness.optimizers.normalisation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from harness.optimizers.normalisation import refuse_unnormalised
from workloads.base import Array, BadInput, Params


class Sphere(NamedTuple):
    """Per leaf: `radius`, and whether norms below it are allowed (`ball`), trees of scalars.

    Leaves with fewer than two axes are free (an infinite ball).
    """

    radius: Any
    ball: Any


class ProjectionState(NamedTuple):
    """State of `keep_norms`: the wrapped transformation's state, and the norms to keep."""

    inner: Any
    sphere: Sphere


def initial_sphere(params: Params) -> Sphere:
    """The Frobenius norms that matrices (leaves with two axes or more, one matrix each) keep.  May be traced.

    A matrix that begins at zero, as a residual branch's last one may, would never leave it; it may grow up to
    fan_out^1/2, the norm of one whose entries have the usual deviation fan_in^-1/2, and is held there (own).
    """

    def radius(leaf: Array) -> Array:
        if leaf.ndim < 2:
            return jnp.asarray(jnp.inf, jnp.float32)
        norm = _norm(leaf)
        return jnp.where(norm > 0, norm, leaf.shape[-1] ** 0.5)

    def ball(leaf: Array) -> Array:
        return _norm(leaf) == 0 if leaf.ndim >= 2 else jnp.asarray(True)

    return Sphere(jax.tree.map(radius, params), jax.tree.map(ball, params))


def project(params: Params, sphere: Sphere) -> Params:
    """`params` with every matrix rescaled onto its sphere (into its ball); same structure, shapes and dtypes."""

    def one(leaf: Array, radius: Array, ball: Array) -> Array:
        if leaf.ndim < 2:
            return leaf
        norm = _norm(leaf)
        onto = radius / jnp.where(norm > 0, norm, 1.0)
        factor = jnp.where(norm > 0, jnp.where(ball, jnp.minimum(onto, 1.0), onto), 1.0)
        return (leaf * factor).astype(leaf.dtype)

    return jax.tree.map(one, params, sphere.radius, sphere.ball)


def _norm(leaf: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32))))


def keep_norms(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`inner` followed by the projection: applying its updates gives matrices with their initial norm.

    The projection must come last: decay belongs inside `inner`, and no factor may follow on the updates. Makes no
    check of the model; `normalize_and_project` does. `update` needs `params` (raises BadInput without).
    """
    wrapped = optax.with_extra_args_support(inner)

    def init(params: Params) -> ProjectionState:
        return ProjectionState(wrapped.init(params), initial_sphere(params))

    def update(
        updates: Any, state: ProjectionState, params: Params | None = None, **extra: Any
    ) -> tuple[Any, ProjectionState]:
        if params is None:
            raise BadInput("normalize_and_project needs the parameters; call update(updates, state, params)")
        updates, inner_state = wrapped.update(updates, state.inner, params, **extra)
        moved = project(optax.apply_updates(params, updates), state.sphere)
        return jax.tree.map(lambda new, old: new - old, moved, params), ProjectionState(inner_state, state.sphere)

    return optax.GradientTransformationExtraArgs(init, update)


def normalize_and_project(
    inner: optax.GradientTransformation, loss: Callable[[Params, Array], Array], params: Params
) -> optax.GradientTransformationExtraArgs:
    """`keep_norms(inner)` for a model that normalises before every nonlinearity; raises BadInput for others.

    loss(params, output_scale): any function of the model's outputs times output_scale. params: arrays or shapes.

    >>> optimizer = normalize_and_project(optax.adam(1e-3), loss, params)
    """
    refuse_unnormalised(loss, params)
    return keep_norms(inner)
