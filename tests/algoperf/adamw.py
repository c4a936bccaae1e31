"""AdamW with a cosine after linear warmup, written as an AlgoPerf submission: the reference of these tests."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from algoperf import jax_sharding_utils, spec


class Counter(NamedTuple):
    """An annotation of a package that is not installed."""

    count: chex.Array


def rate(peak, horizon, warmup):
    def at(step):
        done = jnp.clip((step - warmup) / (horizon - warmup), 0.0, 1.0)
        return peak * jnp.where(
            step < warmup, jnp.minimum((step + 1) / warmup, 1.0), 0.5 * (1 + jnp.cos(jnp.pi * done))
        )

    return at


def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    matrices = jax.tree.map(lambda shape: len(shape.shape_tuple) > 1, workload.param_shapes)
    optimizer = optax.adamw(
        rate(hyperparameters.learning_rate, workload.step_hint, 0.1 * workload.step_hint),
        b1=1 - hyperparameters.one_minus_beta1,
        b2=hyperparameters.beta2,
        weight_decay=hyperparameters.weight_decay,
        mask=matrices,
    )
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape_tuple), workload.param_shapes)
    return optimizer.init(zeros), optimizer.update


def train_step(workload, update, model_state, optimizer_state, params, batch, rng, label_smoothing, dropout_rate):
    def loss_of(params):
        logits, new_model_state = workload.model_fn(
            params,
            batch,
            model_state,
            spec.ForwardPassMode.TRAIN,
            rng,
            update_batch_norm=True,
            dropout_rate=dropout_rate,
        )
        loss = workload.loss_fn(
            label_batch=batch["targets"],
            logits_batch=logits,
            mask_batch=batch.get("weights"),
            label_smoothing=label_smoothing,
        )
        return loss["summed"], (loss["n_valid_examples"], new_model_state)

    (_, (count, new_model_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    grads = jax.tree.map(lambda g: g / count, grads)
    updates, optimizer_state = update(grads, optimizer_state, params)
    return optimizer_state, optax.apply_updates(params, updates), new_model_state


@functools.cache
def jitted():
    whole, split = jax_sharding_utils.get_replicate_sharding(), jax_sharding_utils.get_batch_dim_sharding()
    shardings = (whole, whole, whole, split, whole, whole, whole)
    return jax.jit(
        train_step, static_argnums=(0, 1), donate_argnums=(2, 3, 4), in_shardings=shardings, out_shardings=whole
    )


def update_params(
    workload,
    current_param_container,
    current_params_types,
    model_state,
    hyperparameters,
    batch,
    loss_type,
    optimizer_state,
    eval_results,
    global_step,
    rng,
    train_state=None,
):
    state, update = optimizer_state
    smoothing = getattr(hyperparameters, "label_smoothing", 0.0)
    state, params, model_state = jitted()(
        workload, update, model_state, state, current_param_container, batch, rng, smoothing, 0.0
    )
    return (state, update), params, model_state


def prepare_for_eval(
    workload,
    current_param_container,
    current_params_types,
    model_state,
    hyperparameters,
    loss_type,
    optimizer_state,
    eval_results,
    global_step,
    rng,
):
    return optimizer_state, current_param_container, model_state


def get_batch_size(workload_name):
    if workload_name == "criteo1tb":
        return 262_144
    raise ValueError(f"Unsupported workload name: {workload_name}.")


def data_selection(
    workload, input_queue, optimizer_state, current_param_container, model_state, hyperparameters, global_step, rng
):
    return next(input_queue)
