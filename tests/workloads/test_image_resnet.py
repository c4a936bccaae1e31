"""The residual network against convolutions written plainly, and the statistics that its norms use."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.coordinates import slopes, uneven
from tests.workloads.rows.image_resnet import ROW
from workloads.base import BadInput
from workloads.convolution import Pass, average_moments, convolution, convolution_products
from workloads.image_resnet import ImageResNet

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY, DATA_KEY = jax.random.key(0), jax.random.key(1)
assert isinstance(ROW.small, ImageResNet)
DIGITS = ROW.small.replace(crop_padding=0)
SMALL = ROW.small.replace(data="shapes:train=128,test=48", flip=True)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def alive(model: ImageResNet) -> Any:
    """Random parameters in every leaf (output and some gains start at zero, which would hide what is in them)."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(model.init, KEY)
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape).astype(np.float32)), shapes)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


@pytest.fixture(scope="module")
def batch(data: dict[str, Any]) -> Any:
    return quick_jit(SMALL.batch)(data, DATA_KEY, 0)


# --- convolution


def plain(x: Any, kernel: Any, stride: int) -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize(("side", "size", "stride"), [(8, 3, 1), (8, 3, 2), (7, 3, 2), (5, 1, 1), (6, 1, 2), (4, 5, 1)])
def test_convolution_and_its_gradients_are_those_of_lax(side: int, size: int, stride: int) -> None:
    x, kernel = normal(0, 2, side, side, 3), normal(1, size, size, 3, 4)
    weight = normal(2, *plain(x, kernel, stride).shape)

    def both(function: Any) -> Any:
        return quick_jit(
            jax.value_and_grad(lambda x, w: jnp.sum(weight * jnp.tanh(function(x, w, stride))), argnums=(0, 1))
        )(x, kernel)

    expected = both(plain)
    for product in ({}, {"product": jnp.matmul}):
        found = both(functools.partial(convolution, **product))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
    assert convolution_products(2, side, stride, size, 3, 4) == 2 * weight.size * size**2 * 3


# --- batch normalisation


def test_norm_and_ghost_norm() -> None:
    """Of 6 images by twos: every two alone, by NumPy."""
    x, leaf = 3 + 2 * normal(0, 6, 4, 4, 5), {"gain": normal(1, 5), "bias": normal(2, 5)}
    for ghost, groups in ((None, 1), (2, 3), (6, 1)):
        run = Pass(ghost=ghost)
        found = run.norm("x", jnp.asarray(x), leaf)
        parts = x.astype(np.float64).reshape(groups, -1, 5)
        mean, variance = parts.mean(axis=1, keepdims=True), parts.var(axis=1, keepdims=True)
        expected = ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * leaf["gain"] + leaf["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        # equally many in every group: together they have the moments of the whole batch
        np.testing.assert_allclose(run.found["x"], [x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))], rtol=1e-4)
    given = Pass(given={"x": (jnp.full(5, 1.0), jnp.full(5, 4.0))}, ghost=2)
    expected = (x - 1) / np.sqrt(4 + 1e-5) * leaf["gain"] + leaf["bias"]
    np.testing.assert_allclose(given.norm("x", jnp.asarray(x), leaf), expected, rtol=1e-5, atol=1e-5)
    assert not given.found


def test_average_moments_are_those_of_the_union() -> None:
    parts = normal(0, 4, 10, 3) + np.arange(4)[:, None, None]
    found = average_moments(parts.mean(axis=1), parts.var(axis=1))
    whole = parts.reshape(-1, 3)
    np.testing.assert_allclose(found, [whole.mean(axis=0), whole.var(axis=0)], rtol=1e-5)


def test_a_ghost_batch_does_not_see_the_others(batch: Any) -> None:
    params, images = alive(SMALL), np.asarray(batch["images"])
    changed = images.copy()
    changed[:4] += normal(0, *changed[:4].shape)
    for ghost, apart in ((4, True), (8, False), (None, False)):
        logits = quick_jit(SMALL.replace(ghost_batch=ghost).logits)
        before, after = (np.asarray(logits(params, x)) for x in (images, changed))
        assert np.any(before[:4] != after[:4])
        assert np.array_equal(before[4:], after[4:]) == apart


# --- model


def textbook(model: ImageResNet, p: Any, images: Any) -> Any:
    """Logits at training, block by block as He et al. draw them."""
    act = {"relu": jax.nn.relu, "silu": jax.nn.silu, "gelu": jax.nn.gelu}[model.activation]

    def norm(x: Any, leaf: Any) -> Any:
        mean, variance = x.mean(axis=(0, 1, 2), keepdims=True), x.var(axis=(0, 1, 2), keepdims=True)
        gain, bias = (leaf[name].reshape(1, 1, 1, -1) for name in ("gain", "bias"))
        return (x - mean) / jnp.sqrt(variance + 1e-5) * gain + bias

    x = plain(images, p["stem"], model.stem_stride)
    x = x if model.pre_activation else act(norm(x, p["stem_norm"]))
    for stage in range(3):
        for index in range(model.depth):
            leaf, stride = p[f"stage_{stage}_block_{index}"], 2 if stage and index == 0 else 1
            if model.pre_activation:
                ready = act(norm(x, leaf["norm_0"]))
                shortcut = plain(ready, leaf["shortcut"], stride) if "shortcut" in leaf else x
                branch = plain(act(norm(plain(ready, leaf["conv_0"], stride), leaf["norm_1"])), leaf["conv_1"], 1)
                x = shortcut + model.residual_scale * branch
            else:
                shortcut = norm(plain(x, leaf["shortcut"], stride), leaf["shortcut_norm"]) if "shortcut" in leaf else x
                branch = plain(act(norm(plain(x, leaf["conv_0"], stride), leaf["norm_0"])), leaf["conv_1"], 1)
                x = act(shortcut + model.residual_scale * norm(branch, leaf["norm_1"]))
    x = act(norm(x, p["final_norm"])) if model.pre_activation else x
    return model.output_scale * (x.mean(axis=(1, 2)) @ p["output"] + p["output_bias"][None, :])


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 2},
        {"activation": "silu"},
        {"activation": "gelu", "stem_stride": 1},
        {"pre_activation": True, "depth": 2},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_the_model_is_the_textbook_network(batch: Any, changes: dict[str, Any]) -> None:
    model = SMALL.replace(residual_scale=0.6, output_scale=1.3, **changes)
    params = alive(model)
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        expected = quick_jit(functools.partial(textbook, model))(doubled, np.asarray(batch["images"], np.float64))
    np.testing.assert_allclose(quick_jit(model.logits)(params, batch["images"]), expected, rtol=1e-3, atol=1e-3)


def test_last_norms_start_at_their_scale() -> None:
    for name, scale in (("large_bn_init", 8.0), ("silu", 0.0)):
        model = ImageResNet(depth=2, **ImageResNet.variants[name])
        params = jax.eval_shape(model.init, KEY)
        assert set(params) >= {"stem_norm", "stage_2_block_1"}
        gains = quick_jit(
            lambda model=model: [model.init(KEY)["stage_1_block_0"][f"norm_{i}"]["gain"] for i in (0, 1)]
        )()
        assert gains[0].tolist() == [1.0] * 16
        assert gains[1].tolist() == [scale] * 16


@pytest.mark.parametrize("variant", ImageResNet.variants)
def test_every_variant_trains(variant: str) -> None:
    model = DIGITS.replace(**ImageResNet.variants[variant])
    model.validate()
    data = {name: jnp.asarray(array) for name, array in model.load().arrays.items()}
    rate = 0.03 if variant == "large_bn_init" else 0.1  # branches of scale 8 diverge at the others' rate

    @quick_jit
    def train(params: Any) -> Any:
        def step(params: Any, t: Any) -> Any:
            loss, gradient = jax.value_and_grad(lambda p: model.loss(p, model.batch(data, DATA_KEY, t), KEY)[0])(params)
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient), loss

        return jax.lax.scan(step, params, jnp.arange(30))[1]

    losses = train(quick_jit(model.init)(KEY))
    assert losses[0] == pytest.approx(np.log(10), rel=1e-5)  # the output starts at zero
    assert np.mean(losses[-5:]) < 0.95 * losses[0]


# --- evaluation


@pytest.mark.parametrize("ghost", [None, 4])
def test_evaluation_normalises_with_population_statistics(data: dict[str, Any], ghost: int | None) -> None:
    """Layer by layer as of one large batch if batches are alike: 16 batches of 16 over 128 training images."""
    model = SMALL.replace(ghost_batch=ghost)
    params = alive(model)
    moments = quick_jit(model.population_moments)(params, data)
    assert set(moments) == {
        "stem", *(f"stage_{s}_block_0_{i}" for s in range(3) for i in (0, 1)), *(f"stage_{s}_block_0_shortcut" for s in (1, 2))
    }  # fmt: skip
    stem = plain(SMALL.normalised(data, "train", jnp.arange(128)), params["stem"], 2)
    mean, variance = stem.mean(axis=(0, 1, 2)), stem.var(axis=(0, 1, 2))
    spread = np.sqrt(variance)
    assert np.abs((moments["stem"][0] - mean) / spread).max() < 0.02  # a batch statistic would be off by 0.05 and more
    np.testing.assert_allclose(moments["stem"][1], variance, rtol=0.02)
    images = SMALL.normalised(data, "validation", jnp.arange(40))
    forward = quick_jit(lambda images: model.predictor(params, data)(images))
    together, alone = forward(images), forward(images[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-4)  # no image sees the others
    at_training = quick_jit(model.replace(ghost_batch=None).logits)(params, images)
    assert np.abs(at_training[0] - together[0]).max() > 1e-3


def test_population_statistics_need_no_more_images_than_there_are(data: dict[str, Any]) -> None:
    few = {**data, "train_images": data["train_images"][:3], "train_labels": data["train_labels"][:3]}
    found = quick_jit(SMALL.population_moments)(alive(SMALL), few)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# --- muP


def test_mup_passes_the_coordinate_check_and_sp_fails() -> None:
    mup, sp = (slopes(DIGITS.replace(label_smoothing=0.0), name, (8, 16, 64), seeds=4) for name in ("mup", "sp"))
    assert uneven(mup) == {}
    assert {"stage_1_block_0/conv_0 alone", "output alone", "logits"} <= uneven(sp).keys()
    assert min(sp["stage_1_block_0_conv_0"], sp["stage_2_block_0_conv_1"], sp["logits"]) > 0.4


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"activation": "swish"}, "unknown workload.activation 'swish'. Valid names: relu, silu, gelu"),
        ({"ghost_batch": 5}, "batch_size=16 is not divisible by workload.ghost_batch=5"),
        ({"ghost_batch": 0}, "ghost_batch=0"),
        ({"stem_stride": 0}, "stem_stride=0"),
        ({"pre_activation": True, "bn_init_scale": 0.0}, "set workload.bn_init_scale=1"),
    ],
)
def test_impossible_fields_name_the_fix(changes: dict[str, Any], fix: str) -> None:
    with pytest.raises(BadInput, match=fix):
        SMALL.replace(**changes).validate()
