"""The reconstruction workload, beside the matrix of test_families.py."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.coordinates import slopes, uneven
from workloads import mri as module
from workloads.base import BadInput
from workloads.data import phantoms
from workloads.data.kspace import Scans, ScanSet
from workloads.mri import MRI

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
SMALL = MRI(width=4, depth=2, batch_size=4, image_size=16, train_images=64, validation_images=10, test_images=40)
DATA = {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


def scattered(workload):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(workload.init, KEY)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape).astype(np.float32)), shapes)


def reference(workload, params, inputs):
    """The U-Net from lax's own convolutions, pooling and means."""
    layout = ("NHWC", "HWIO", "NHWC")
    activation = {"leaky_relu": lambda x: jnp.where(x > 0, x, 0.2 * x), "tanh": jnp.tanh}[workload.activation]

    def normed(own, x):
        axes = (1, 2) if workload.norm == "instance" else (1, 2, 3)
        x = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)
        return activation(x * own["gain"][None, None, None] + own["bias"][None, None, None] if "gain" in own else x)

    def block(own, x):
        for which in ("first", "second"):
            kernel = own[which]["kernel"]
            x = normed(own[which], jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout))
        return x

    x = block(params["down_0"], inputs[..., None])
    skips = []
    for level in range(1, workload.depth + 1):
        skips.append(x)
        pooled = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        x = block(params[f"down_{level}"], pooled)
    for level in reversed(range(workload.depth)):
        own = params[f"up_{level}"]
        kernel = own["transposed"]["kernel"][::-1, ::-1]  # lax correlates
        x = jax.lax.conv_transpose(x, kernel, (2, 2), "VALID", dimension_numbers=layout, transpose_kernel=False)
        x = block(own, jnp.concatenate([normed(own["transposed"], x), skips.pop()], axis=3))
    return (x @ params["output"]["kernel"][0, 0] + params["output"]["bias"][None, None, None])[..., 0]


@pytest.mark.parametrize("changes", [{}, *MRI.variants.values()], ids=["default", *MRI.variants])
def test_equal_to_laxs_convolutions(changes):
    workload = SMALL.replace(**changes)
    params, inputs = scattered(workload), DATA["validation_inputs"][:3]
    with jax.numpy_rank_promotion("allow"):
        wanted = quick_jit(functools.partial(reference, workload))(params, inputs)
    np.testing.assert_allclose(quick_jit(workload.images)(params, inputs), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("changes", MRI.variants.values(), ids=MRI.variants)
def test_every_variant_trains(changes):
    workload = SMALL.replace(**changes)

    @quick_jit
    def run(params):
        def step(index, params):
            gradient = jax.grad(lambda p: workload.loss(p, workload.batch(DATA, KEY, index), KEY)[0])(params)
            return jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), params, gradient)

        end = jax.lax.fori_loop(0, 20, step, params)
        return [workload.evaluate(p, DATA, "validation")["loss"] for p in (params, end)]

    before, after = run(workload.init(KEY))
    assert after < 0.9 * before


def test_similarity_is_that_of_the_images_in_their_own_units(monkeypatch):
    """And does not depend on how many images are evaluated at once."""
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is in the dev extra")
    monkeypatch.setattr(module, "_CHUNK", 4)
    params = SMALL.init(KEY)
    scores = quick_jit(lambda params: SMALL.evaluate(params, DATA, "validation"))(params)
    found = np.asarray(quick_jit(SMALL.images)(params, DATA["validation_inputs"]))
    mean, std, peak, targets = (np.asarray(DATA[f"validation_{name}"]) for name in ("mean", "std", "peak", "targets"))
    wanted = [
        metrics.structural_similarity(f * s + m, t * s + m, win_size=7, data_range=float(p))
        for f, t, m, s, p in zip(found, targets, mean, std, peak, strict=True)
    ]
    np.testing.assert_allclose(scores["ssim"], np.mean(wanted), atol=1e-5)
    np.testing.assert_allclose(scores["ssim_stderr"], np.std(wanted, ddof=1) / 10**0.5, rtol=1e-3)
    np.testing.assert_allclose(scores["loss"], np.abs(found - targets).mean(), rtol=1e-5)


def test_trivial_and_oracle():
    assert 0.3 < SMALL.trivial_metric() < 0.9
    assert SMALL.trivial_metric("test") != SMALL.trivial_metric()
    full = SMALL.replace(acceleration=1)
    arrays = full.load().arrays
    np.testing.assert_allclose(arrays["test_inputs"], arrays["test_targets"], atol=1e-3)
    assert full.trivial_metric() == pytest.approx(SMALL.oracle_metric(), abs=1e-4)


def test_masks_depend_on_the_seed_only():
    again = SMALL.replace(width=8).load().arrays["train_inputs"]
    assert again is SMALL.load().arrays["train_inputs"]
    other = SMALL.replace(acceleration=2).load().arrays
    np.testing.assert_array_equal(other["train_peak"], DATA["train_peak"])
    assert np.any(other["train_inputs"] != DATA["train_inputs"])


def test_the_largest_generated_images_load():
    large = SMALL.replace(image_size=96)
    large.validate()
    assert large.load().arrays["validation_inputs"].shape == (10, 96, 96)
    SMALL.replace(image_size=100, data="path:anywhere").validate()


def test_normalisation_does_not_depend_on_the_unit():
    """And a black image, of a volume that is not, stays black."""
    scans = phantoms.generate(5, 16, (8, 4, 4))
    shades = {name: one.images.copy() for name, one in scans.splits.items()}
    shades["train"][0] = 0.0

    def measured(unit):
        splits = {name: Scans(shades[name] * unit, one.peak * unit) for name, one in scans.splits.items()}
        return module._arrays(ScanSet(splits), 0, 4).arrays

    wanted, found = (measured(np.float32(unit)) for unit in (1.0, 2.0**-40))  # a power of two rounds nothing
    for name in ("inputs", "targets"):
        assert not found[f"train_{name}"][0].any()
        for split in scans.splits:
            np.testing.assert_array_equal(found[f"{split}_{name}"], wanted[f"{split}_{name}"])
    assert np.all(found["train_inputs"][1:].std(axis=(1, 2)) > 0.9)


def test_coordinate_check():
    workload = SMALL.replace(depth=1, image_size=8)
    mup, sp = (slopes(workload, name, (8, 16, 64), seeds=4) for name in ("mup", "sp"))
    assert uneven(mup) == {}
    for name in ("down_0_second", "down_1_second", "up_0_first", "up_0_second", "output/kernel alone"):
        assert sp[name] > 0.25, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relu"}, "unknown workload.activation 'relu'. Valid names: leaky_relu, tanh"),
        ({"norm": "batch"}, "unknown workload.norm 'batch'. Valid names: instance, layer"),
        ({"image_size": 18}, "divisible by"),
        ({"image_size": 4}, "at least 7"),
        ({"image_size": 16, "depth": 4}, "leaves one pixel"),
        ({"image_size": 100}, "at most 96 with generated data.*workload.data=path:FOLDER"),
        ({"acceleration": 0}, "acceleration=0"),
        ({"acceleration": 17}, "acceleration=17"),
        ({"data_seed": -1}, "data_seed=-1"),
        ({"test_images": 1}, "test_images=1"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(BadInput, match=message):
        SMALL.replace(**changes).validate()
