"""Normalize-and-Project keeps norms, and is refused where the model does not normalise before every nonlinearity."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.optimizers.normalisation import refuse_unnormalised
from harness.optimizers.normalize_and_project import initial_sphere, keep_norms, normalize_and_project, project
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP
from workloads.language_model import LanguageModel
from workloads.layers import rms_norm

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 8)).astype(np.float32)
Y = RNG.normal(size=(16, 3)).astype(np.float32)


def matrix(*shape):
    return (RNG.normal(size=shape) * shape[-2] ** -0.5).astype(np.float32)


def vector(size):
    return np.ones(size, np.float32)


PARAMS = {
    "first": matrix(8, 12),
    "gain": vector(12),
    "bias": np.zeros(12, np.float32),
    "qkv": matrix(12, 36),
    "attention_out": np.zeros((12, 12), np.float32),
    "mlp_in": matrix(12, 24),
    "mlp_out": np.zeros((24, 12), np.float32),
    "readout": matrix(12, 3),
}


def plain(x):
    return x


def layer_norm(x):
    """With the variance as a difference, kept from rounding below zero, as flax computes it."""
    mean = x.mean(-1, keepdims=True)
    variance = jnp.maximum(0.0, jnp.mean(jnp.square(x), -1, keepdims=True) - jnp.square(mean))
    return (x - mean) / jnp.sqrt(variance + 1e-5)


def scaled(x):
    return 1e-4 * x


def shifted(x):
    return x + 1e-4


def network(before_first=rms_norm, before_mlp=rms_norm, before_scores=rms_norm, after=plain, activation=jax.nn.relu):
    """Loss of a layer, a residual attention block over the examples and a residual MLP block, both beginning at zero.

    before_*: what is done to each nonlinearity's inputs. after: to the first one's outputs.
    """

    def loss(params, output_scale):
        x = X @ params["first"] + params["bias"][None]
        x = after(activation(before_first(x) * params["gain"][None]))
        q, k, v = jnp.split(rms_norm(x) @ params["qkv"], 3, axis=1)
        weights = jax.nn.softmax(before_scores(q) @ before_scores(k).T * 12**-0.5)
        x = x + (weights @ v) @ params["attention_out"]
        x = x + activation(before_mlp(rms_norm(x) @ params["mlp_in"])) @ params["mlp_out"]
        return jnp.mean(jax.nn.logsumexp(output_scale * (rms_norm(x) @ params["readout"]) - Y, axis=1))

    return loss


def scanned(norm):
    """A residual stream through eight layers of one stacked leaf's columns, in a loop."""

    def loss(params, output_scale):
        def layer(x, w):
            return x + jax.nn.gelu(norm(rms_norm(x) @ w)), None

        layers = jnp.stack([params["qkv"][:, :12], params["qkv"][:, 12:24]])
        x, _ = jax.lax.scan(jax.checkpoint(layer), X @ params["first"], layers)
        return jnp.mean(jnp.square(output_scale * x))

    return loss


def gated(before):
    """SwiGLU: only the gate passes a nonlinearity."""

    def loss(params, output_scale):
        gate, value = jnp.split(X @ params["first"], 2, axis=1)
        return jnp.sum(output_scale * (jax.nn.silu(before(gate)) * value))

    return loss


def weight_normalised(params, output_scale):
    hidden = jnp.tanh(X @ (params["first"] / jnp.linalg.norm(params["first"])))
    return jnp.mean(output_scale * (hidden @ params["qkv"]))


def compared(params, output_scale):
    """ReLU as a choice instead of a maximum."""
    x = X @ params["first"]
    return jnp.sum(output_scale * jnp.where(x > 0, x, 0.0))


def recurrent(loop):
    """A nonlinearity on what the loop carries: harmless only in its first turn, which begins at zero."""

    def loss(params, output_scale):
        def turn(h):
            return jnp.tanh(h) @ params["qkv"][:, :12] + X @ params["first"]

        h = jnp.zeros((16, 12))
        if loop == "scan":
            h, _ = jax.lax.scan(lambda h, _: (turn(h), None), h, length=3)
        else:
            h = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, turn(c[1])), (0, h))[1]
        return jnp.sum(output_scale * h)

    return loss


def skipped(params, output_scale):
    """What is added after the normalisation is not normalised."""
    x = X @ params["first"]
    return jnp.sum(output_scale * jnp.tanh(rms_norm(x) + x))


ACCEPTED = {
    "relu": network(),
    "gelu": network(activation=jax.nn.gelu),
    "tanh": network(activation=jnp.tanh),
    "layer_norm": network(layer_norm, layer_norm, layer_norm),
    "linear": lambda p, s: jnp.mean(jnp.square(s * (X @ p["first"]))),
    "loop": scanned(rms_norm),
    "gated": gated(rms_norm),
    "weight_normalised": weight_normalised,
}
# model -> what the message must name
REFUSED = {
    "no_norm": (network(plain, plain, plain), "'max' is applied to values that grow with first"),
    "first_layer": (network(before_first=plain), "'max' .* first"),
    "first_layer_gelu": (network(before_first=plain, activation=jax.nn.gelu), "'tanh' .* first"),
    "normalised_after": (network(before_first=plain, after=rms_norm, activation=jnp.tanh), "'tanh' .* first"),
    "mlp_behind_zeros": (network(before_mlp=plain), "'max' .* mlp_in"),
    "scores_behind_zeros": (network(before_scores=plain), "'max' .* qkv"),
    "small_factor": (network(before_first=scaled), "first"),
    "small_shift": (network(before_first=shifted, activation=jnp.tanh), "first"),
    "loop": (scanned(plain), "'tanh' .* qkv"),
    "gated": (gated(plain), "'logistic' .* first"),
    "scan": (recurrent("scan"), "'tanh' .* first, qkv"),
    "while": (recurrent("while"), "'tanh' .* first, qkv"),
    "skipped": (skipped, "'tanh' .* first"),
    "compared": (compared, "'gt' .* first"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_models_that_normalise_before_every_nonlinearity_are_accepted(name):
    assert refuse_unnormalised(ACCEPTED[name], PARAMS) is None


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused(name):
    loss, words = REFUSED[name]
    with pytest.raises(BadInput, match=words):
        normalize_and_project(optax.sgd(0.1), loss, PARAMS)


WORKLOADS = {
    "image_mlp": (ImageMLP(width=16, batch_size=8), "'max' .* hidden_0/kernel"),
    "language_model": (
        LanguageModel(width=32, context=8, corpus="zipf_markov"),
        "'exp' .*query_key_value.*qk_norm=true",
    ),
    "language_model_qk_norm": (
        LanguageModel(width=32, context=8, corpus="zipf_markov", qk_norm=True),
        "'tanh' .*mlp_in",
    ),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_asked_through_their_output_scale(name):
    """None has the option to normalise everywhere yet."""
    workload, words = WORKLOADS[name]
    params = jax.eval_shape(workload.init, jax.random.key(0))
    data = workload.load().arrays
    batch = workload.batch(data, jax.random.key(0), 0)

    def loss(params, output_scale):
        scaled_workload = dataclasses.replace(workload, output_scale=workload.output_scale * output_scale)
        return scaled_workload.loss(params, batch, jax.random.key(0))[0]

    with pytest.raises(BadInput, match=words):
        refuse_unnormalised(loss, params)


def norms(params):
    return {name: float(np.linalg.norm(leaf)) for name, leaf in params.items() if leaf.ndim >= 2}


def trained(transform, steps=60):
    loss = ACCEPTED["relu"]

    @quick_jit
    def run():
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, 1.0)
            updates, state = transform.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        start = jax.tree.map(jnp.asarray, PARAMS)
        (params, _), losses = jax.lax.scan(step, (start, transform.init(start)), length=steps)
        return params, losses

    return jax.tree.map(np.asarray, run())


INNER = {
    "sgd": optax.sgd(0.3),
    "adam": optax.adam(0.03),
    "adamw_in_chain": optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.5), optax.scale(-0.03)),
}


@pytest.mark.parametrize("name", INNER)
def test_matrices_keep_their_norm_while_the_loss_falls(name):
    params, losses = trained(normalize_and_project(INNER[name], ACCEPTED["relu"], PARAMS))
    first, last = norms(PARAMS), norms(params)
    for leaf in ("first", "qkv", "mlp_in", "readout"):
        assert last[leaf] == pytest.approx(first[leaf], rel=1e-5)
        assert np.abs(params[leaf] - PARAMS[leaf]).max() > 0.01
    for leaf in ("attention_out", "mlp_out"):  # began at zero: in the ball of radius fan_out^1/2
        assert 0.01 < last[leaf] <= 12**0.5 * (1 + 1e-5)
    assert np.abs(params["gain"] - 1).max() > 1e-3
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_without_projection_norms_move(name):
    last, first = norms(trained(INNER[name])[0]), norms(PARAMS)
    assert max(abs(last[leaf] / first[leaf] - 1) for leaf in ("first", "qkv", "mlp_in")) > 0.02


def test_one_step_by_hand():
    params = {"w": jnp.array([[3.0, 4.0]]), "b": jnp.array([1.0])}
    grads = {"w": jnp.array([[-5.0, 0.0]]), "b": jnp.array([2.0])}
    transform = keep_norms(optax.sgd(1.0))
    updates, state = transform.update(grads, transform.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["w"], np.array([[8.0, 4.0]]) * 5 / 80**0.5, rtol=1e-6)
    assert moved["b"].tolist() == [-1.0]
    again, _ = transform.update(jax.tree.map(jnp.zeros_like, grads), state, moved)
    np.testing.assert_allclose(again["w"], 0.0, atol=1e-6)


def test_a_zero_matrix_may_grow_and_is_held_at_its_radius():
    sphere = initial_sphere({"w": jnp.zeros((6, 4))})
    inside, outside = jnp.full((6, 4), 0.1), jnp.full((6, 4), 3.0)
    np.testing.assert_array_equal(project({"w": inside}, sphere)["w"], inside)
    assert float(jnp.linalg.norm(project({"w": outside}, sphere)["w"])) == pytest.approx(2.0)
    np.testing.assert_array_equal(project({"w": jnp.zeros((6, 4))}, sphere)["w"], 0.0)


def test_a_convolution_kernel_is_one_matrix_and_dtypes_stay():
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 4, 8)), jnp.bfloat16)
    sphere = initial_sphere({"k": kernel})
    back = project({"k": 2 * kernel}, sphere)["k"]
    assert back.dtype == jnp.bfloat16
    np.testing.assert_allclose(back.astype(np.float32), kernel.astype(np.float32), rtol=0.02)


def test_projection_does_not_change_what_a_normalised_matrix_computes():
    """The point of the refusal: rescaling a matrix behind a normalisation is free, and is not without it."""
    stretched = PARAMS | {"mlp_in": 3 * PARAMS["mlp_in"], "mlp_out": matrix(24, 12)}
    params = stretched | {"mlp_in": PARAMS["mlp_in"]}
    normalised, bare = ACCEPTED["gelu"], network(before_mlp=plain, activation=jax.nn.gelu)
    change = quick_jit(lambda: [net(stretched, 1.0) - net(params, 1.0) for net in (normalised, bare)])()
    assert abs(float(change[0])) < 1e-4
    assert abs(float(change[1])) > 1e-2


def test_parameters_are_needed():
    transform = keep_norms(optax.sgd(1.0))
    with pytest.raises(BadInput, match="needs the parameters"):
        transform.update(PARAMS, transform.init(PARAMS))
