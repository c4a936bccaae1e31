"""Training is one page: pure functions of one trial, from what shapes them.

`make_train(static)` gives init, chunk and evaluate for one trial; `harness.engine.pack` maps them over the trial axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from harness.components import bind
from harness.engine import keys
from harness.optimizers.base import Optimizer, apply_update
from harness.optimizers.normalize_and_project import ProjectionState, initial_sphere, project
from harness.probes import PROBES, Moment
from harness.trial import Hparams, Static
from workloads.base import Array, Batch, Params, Workload

Arrays = Mapping[str, Array]


class State(NamedTuple):
    """Everything a trial carries from step to step. Keys are derived from (seed, step), so there is no RNG state.

    optimizer: its state; with keep_norms, a ProjectionState around it. step: steps taken (int32). initial_loss: training loss
    of step 0. diverged_step: -1, or the step whose loss was not finite or above the limit; the trial is frozen from then on.
    """

    params: Params
    optimizer: Any
    step: Array
    initial_loss: Array
    diverged_step: Array


class Train(NamedTuple):
    """The three pure functions of one trial."""

    init: Callable[[Hparams], State]
    chunk: Callable[[State, Hparams, Array, Arrays], tuple[State, Array]]
    evaluate: Callable[[State, Hparams, Arrays], dict[str, dict[str, Array]]]
    step: Callable[[State, Hparams, Arrays], tuple[State, Array]]


def learning_rate(static: Static, hparams: Hparams, step: Array) -> Array:
    """The learning rate of `step` (0-based int): peak x schedule."""
    schedule = bind(static.schedule, hparams.schedule)
    return hparams.optimizer["learning_rate"] * schedule.multiplier(
        step.astype(jnp.float32), hparams.horizon, hparams.lengths
    )


def make_train(
    static: Static, together: str | None = None, split: Callable[[Batch], Batch] = lambda batch: batch
) -> Train:
    """Pure functions for trials of this static signature.

    together: name of the mapped axis whose trials take their steps side by side, in one loop; None where there is none.
    split: says which device computes on which examples of a batch.
    """

    def bound(hparams: Hparams) -> tuple[Workload, Optimizer]:
        return bind(static.workload, hparams.workload), bind(static.optimizer, hparams.optimizer)

    def own(state: Any) -> Any:
        """The optimizer's own state."""
        return state.inner if static.keep_norms else state

    def init(hparams: Hparams) -> State:
        workload, optimizer = bound(hparams)
        params = jax.tree.map(
            lambda p, s: (p * s).astype(jnp.float32), workload.init(jax.random.key(hparams.seed)), hparams.scales[0]
        )
        state = optimizer.build(hparams.optimizer["learning_rate"]).init(params)
        if static.keep_norms:
            state = ProjectionState(state, initial_sphere(params))
        return State(params, state, jnp.int32(0), jnp.float32(0.0), jnp.int32(-1))

    def train_step(state: State, hparams: Hparams, data: Arrays) -> tuple[State, Array]:
        workload, optimizer = bound(hparams)
        noise = jax.random.fold_in(keys.key(hparams.seed), state.step)

        def drawn(workload: Workload) -> Batch:
            return split(workload.batch(data, keys.key(hparams.data_seed), state.step))

        def loss_on(batch: Batch, params: Params, workload: Workload = workload) -> tuple[Array, dict[str, Array]]:
            return workload.loss(_cast(params, static.precision), _cast(batch, static.precision), noise)

        if optimizer.candidates == 1:
            batch = drawn(workload)
        else:
            count, alone = workload.batch_size, workload.replace(batch_size=1)
            candidates = drawn(workload.replace(batch_size=optimizer.candidates * count))
            losses = jax.vmap(lambda one: loss_on(_alone(one), state.params, alone)[0].astype(jnp.float32))(candidates)
            rows = optimizer.select(candidates, losses, count, noise)
            batch = split(jax.tree.map(lambda x: x[rows], candidates))

        def loss_of(params: Params) -> tuple[Array, dict[str, Array]]:
            return loss_on(batch, params)

        (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        loss = loss.astype(jnp.float32)
        rate = learning_rate(static, hparams, state.step)
        _, lr_scale, decay_scale, epsilon_scale = hparams.scales
        params, optimizer_state = apply_update(
            optimizer, rate, grads, own(state.optimizer), state.params, loss, lr_scale, decay_scale, epsilon_scale
        )
        if static.keep_norms:
            sphere = state.optimizer.sphere
            params, optimizer_state = project(params, sphere), ProjectionState(optimizer_state, sphere)
        initial_loss = jnp.where(state.step == 0, loss, state.initial_loss)
        limit = initial_loss + (hparams.divergence_factor - 1) * jnp.abs(initial_loss)  # losses may be negative
        healthy = loss <= limit  # False for NaN
        diverged_step = jnp.where(healthy & jnp.isfinite(loss), -1, state.step)
        return State(params, optimizer_state, state.step + 1, initial_loss, diverged_step), loss

    def chunk(state: State, hparams: Hparams, stop: Array, data: Arrays) -> tuple[State, Array]:
        """Train up to step `stop`, at most `static.capacity` steps.

        Returns (2, capacity): loss and learning rate of every step, NaN where none was taken.
        """

        def running(state: State) -> Array:
            return (state.step < stop) & (state.diverged_step < 0)

        def some_running(carry: tuple[Array, State, Array]) -> Array:
            here = running(carry[1])
            return here if together is None else jax.lax.pmax(here.astype(jnp.int32), together) > 0

        def advance(carry: tuple[Array, State, Array]) -> tuple[Array, State, Array]:
            count, state, steps = carry
            new, loss = train_step(state, hparams, data)
            taken = jnp.stack([loss, learning_rate(static, hparams, state.step)])
            if together is not None:  # this trial may have ended before the others
                taken = jnp.where(running(state), taken, jnp.nan)
                new = jax.tree.map(lambda new, old: jnp.where(running(state), new, old), new, state)
            return count + 1, new, steps.at[:, count].set(taken)

        steps = jnp.full((2, static.capacity), jnp.nan, jnp.float32)
        return jax.lax.while_loop(some_running, advance, (jnp.int32(0), state, steps))[1:]

    def probes(state: State, evaluated: Params, hparams: Hparams, data: Arrays) -> dict[str, Array]:
        workload, optimizer = bound(hparams)
        rate = learning_rate(static, hparams, state.step - 1)
        own_state = own(state.optimizer)
        moment = Moment(workload, optimizer, state.params, evaluated, own_state, rate, hparams.scales[1], data)
        found: dict[str, Array] = {}
        for name in static.probes:
            found |= PROBES[name]().measure(moment)
        return found

    def evaluate(state: State, hparams: Hparams, data: Arrays) -> dict[str, dict[str, Array]]:
        """Scores on the validation split, at the horizon on the test split, and probes. NaN before, and in unused slots."""
        workload, optimizer = bound(hparams)
        params = _cast(optimizer.evaluation_params(own(state.optimizer), state.params), static.precision)

        def where(wanted: Array, measure: Callable[[], dict[str, Array]]) -> dict[str, Array]:
            shapes = jax.eval_shape(measure)
            nothing = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)
            if together is None:
                return jax.lax.cond(wanted, measure, lambda: nothing)
            anybody = (
                jax.lax.pmax(wanted.astype(jnp.int32), together) > 0
            )  # one answer for all: vmap keeps the branches
            found = jax.lax.cond(anybody, measure, lambda: nothing)
            return jax.tree.map(lambda value, none: jnp.where(wanted, value, none), found, nothing)

        begun, ended = state.step > 0, state.step >= hparams.horizon.astype(jnp.int32)
        return {
            "validation": where(begun, lambda: workload.evaluate(params, data, "validation")),
            "test": where(ended, lambda: workload.evaluate(params, data, "test")),
            "probe": where(begun, lambda: probes(state, params, hparams, data)),
        }

    return Train(init, chunk, evaluate, train_step)


def _alone(example: Batch) -> Batch:
    """A batch of one example, from its arrays without a batch axis."""
    return jax.tree.map(lambda x: x[None], example)


def _cast(tree: Any, precision: str) -> Any:
    """Floating-point leaves in the compute precision (master weights stay float32)."""
    if precision == "float32":
        return tree
    return jax.tree.map(lambda x: x.astype(precision) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
