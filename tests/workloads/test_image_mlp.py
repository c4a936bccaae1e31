"""Digits: the splits are disjoint and stratified, the model is a plain tree, and it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from workloads.base import BadInput
from workloads.image_mlp import ImageMLP

KEY = jax.random.key(0)
DATA_KEY = jax.random.key(1)
SMALL = ImageMLP(width=16)


@pytest.fixture(scope="module")
def data():
    return {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


@pytest.fixture(scope="module")
def params():
    return jax.jit(SMALL.init)(KEY)


def evaluate(workload, params, data, split):
    return jax.jit(workload.evaluate, static_argnums=2)(params, data, split)


def smoothed_loss(workload, params, batch):
    """Training loss from the definition, in float64."""
    hidden = np.asarray(batch["images"], np.float64)
    for layer in range(workload.depth):
        linear = params[f"hidden_{layer}"]
        hidden = np.maximum(hidden @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"]), 0)
    logits = hidden @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"])
    logits = workload.output_scale * logits
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    right = log_p[np.arange(len(log_p)), np.asarray(batch["labels"])]
    return -np.mean((1 - workload.label_smoothing) * right + workload.label_smoothing * log_p.mean(axis=1))


def test_splits_are_disjoint_complete_and_stratified(data):
    loaded = SMALL.load()
    labels = {split: np.asarray(data[f"{split}_labels"]) for split in ("train", "validation", "test")}
    assert {split: len(y) for split, y in labels.items()} == {"train": 1197, "validation": 300, "test": 300}
    assert loaded.examples == 1197
    assert loaded.info["images"]["test"] == 300
    for split in ("validation", "test"):
        assert (np.bincount(labels[split]) == 30).all()
    from sklearn.datasets import load_digits

    images = np.concatenate([data[f"{split}_images"] for split in labels])
    pixels = load_digits().data
    back = np.rint(images * pixels.std() + pixels.mean())  # training statistics differ by less than rounding
    assert sorted(map(tuple, back.tolist())) == sorted(map(tuple, pixels.tolist()))
    assert float(jnp.mean(data["train_images"])) == pytest.approx(0, abs=1e-5)
    assert float(jnp.std(data["train_images"])) == pytest.approx(1, abs=1e-4)


def test_batches_depend_on_key_and_step_and_not_on_the_model(data):
    batch = SMALL.batch(data, DATA_KEY, 5)
    wide = dataclasses.replace(SMALL, width=64, depth=3).batch(data, DATA_KEY, 5)
    jax.tree.map(np.testing.assert_array_equal, batch, wide)
    assert batch["images"].shape == (16, 64)
    assert batch["labels"].shape == (16,)
    for other in (SMALL.batch(data, DATA_KEY, 6), SMALL.batch(data, KEY, 5)):
        assert (batch["images"] != other["images"]).any()


def test_every_training_image_is_drawn_equally_often(data):
    numbered = {"train_images": data["train_images"], "train_labels": jnp.arange(1197)}
    steps = jnp.arange(4000)
    rows = jax.jit(jax.vmap(lambda t: SMALL.batch(numbered, DATA_KEY, t)["labels"]))(steps)
    counts = np.bincount(np.asarray(rows).ravel(), minlength=1197)
    mean = 64_000 / 1197
    chi_squared = np.sum((counts - mean) ** 2 / mean)
    assert abs(chi_squared - 1196) < 4 * (2 * 1196) ** 0.5


@pytest.mark.parametrize("depth", [1, 3])
def test_parameters_are_a_plain_tree_with_readable_names(depth):
    params = jax.jit(dataclasses.replace(SMALL, depth=depth).init)(KEY)
    shapes = jax.tree.map(jnp.shape, params)
    hidden = {f"hidden_{i}": {"kernel": (16 if i else 64, 16), "bias": (16,)} for i in range(depth)}
    assert shapes == {**hidden, "output": {"kernel": (16, 10), "bias": (10,)}}
    assert all(type(leaf) is type(jnp.zeros(1)) for leaf in jax.tree.leaves(params))


def test_initial_variances_are_two_and_one_over_fan_in():
    params = jax.jit(ImageMLP(width=512, depth=2).init)(KEY)
    for name, variance in (("hidden_0", 2 / 64), ("hidden_1", 2 / 512), ("output", 1 / 512)):
        assert float(jnp.var(params[name]["kernel"])) == pytest.approx(variance, rel=0.06)


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.3, "output_scale": 0.25, "depth": 1}])
def test_the_loss_is_its_definition_and_the_gradient_is_finite(data, changes):
    workload = dataclasses.replace(SMALL, **changes)
    params = jax.jit(workload.init)(KEY)
    batch = workload.batch(data, DATA_KEY, 0)
    (loss, _), gradient = jax.jit(jax.value_and_grad(workload.loss, has_aux=True))(params, batch, KEY)
    assert loss == pytest.approx(smoothed_loss(workload, params, batch), rel=1e-5)
    assert all(np.isfinite(g).all() and (g != 0).any() for g in jax.tree.leaves(gradient))


def test_the_start_is_near_the_trivial_predictor(params, data):
    scores = evaluate(SMALL, params, data, "validation")
    assert set(scores) == {"loss", "error_rate", "error_rate_stderr"}
    assert abs(scores["loss"] - np.log(10)) < 1.0
    assert scores["error_rate"] > 0.75
    silent = evaluate(dataclasses.replace(SMALL, output_scale=0.0), params, data, "test")
    assert silent["loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert silent["error_rate"] == pytest.approx(0.9, abs=1e-6)
    assert silent["error_rate_stderr"] == pytest.approx((0.9 * 0.1 / 299) ** 0.5, rel=1e-5)


def test_evaluation_is_not_smoothed(params, data):
    smooth = evaluate(dataclasses.replace(SMALL, label_smoothing=0.5), params, data, "test")
    assert smooth["loss"] == evaluate(SMALL, params, data, "test")["loss"]


def test_training_in_a_scan_learns_digits_and_floats_share_one_program(data):
    traces = []

    @jax.jit
    def train(data, label_smoothing, learning_rate):
        traces.append(1)
        workload = dataclasses.replace(SMALL, label_smoothing=label_smoothing)
        optimizer = optax.adam(learning_rate)

        def step(carry, t):
            params, state = carry
            batch = workload.batch(data, DATA_KEY, t)
            gradient = jax.grad(lambda p: workload.loss(p, batch, KEY)[0])(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = workload.init(KEY)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(1000))
        return workload.evaluate(params, data, "test")

    for smoothing in (0.0, 0.1):
        assert train(data, smoothing, 5e-3)["error_rate"] < 0.07
    assert len(traces) == 1


def test_matmul_flops_by_hand():
    # layers 64x16, 16x16, 16x10: forward and weight gradients for all, input gradients for the last two
    assert SMALL.matmul_flops() == 2 * 16 * (2 * 1024 + 3 * 256 + 3 * 160)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 1.0}, "workload.label_smoothing"),
        ({"label_smoothing": float("nan")}, "workload.label_smoothing"),
        ({"depth": 0}, "workload.depth"),
        ({"batch_size": 0}, "workload.batch_size"),
    ],
)
def test_bad_fields_are_named(changes, message):
    SMALL.validate()
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(SMALL, **changes).validate()


def test_unknown_splits_are_told_the_valid_ones(params, data):
    with pytest.raises(BadInput, match="Valid names: train, validation, test"):
        SMALL.evaluate(params, data, "valid")
