"""The Vision Transformer against the textbook; and what all image families share: batches, loss, evaluation, data errors."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn.metrics import zero_one_loss

from tests.workloads.coordinates import slopes, uneven
from tests.workloads.rows.image_vit import ROW
from workloads.base import BadInput
from workloads.image_classification import shifted
from workloads.image_vit import ImageViT, sincos_positions

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY, DATA_KEY = jax.random.key(0), jax.random.key(1)
assert isinstance(ROW.small, ImageViT)
SMALL = ROW.small.replace(data="shapes:train=128,test=48", flip=True, crop_padding=1)


def alive(model: ImageViT) -> Any:
    """Random parameters in every leaf (branches and output start at zero, which would hide what is in them)."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(model.init, KEY)
    return jax.tree.map(lambda p: jnp.asarray(0.4 * rng.normal(size=p.shape).astype(np.float32)), shapes)


def double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


@pytest.fixture(scope="module")
def batch(data: dict[str, Any]) -> Any:
    return quick_jit(SMALL.batch)(data, DATA_KEY, 0)


# --- model


def norm(x: Any, leaf: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-6) * leaf["gain"] + leaf["bias"]


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mlp(leaf: Any, x: Any) -> Any:
    hidden = gelu(x @ leaf["in"] + leaf["in_bias"])
    return (hidden * (x @ leaf["gate"]) if "gate" in leaf else hidden) @ leaf["out"] + leaf["out_bias"]


def attended(model: ImageViT, q: Any, k: Any, v: Any) -> Any:
    """(queries, W), (keys, W) and (keys, W) -> (queries, W), one head at a time."""
    size, heads = model.head_size, []
    for head in range(model.heads):
        part = slice(head * size, (head + 1) * size)
        weights = special.softmax(model.attention_scale * q[:, part] @ k[:, part].T / np.sqrt(size), axis=1)
        heads.append(weights @ v[:, part])
    return np.concatenate(heads, axis=1)


def textbook(model: ImageViT, p: Any, image: Any) -> Any:
    """Logits of one image in float64, patch by patch."""
    size, side = model.patch_size, model.image_size // model.patch_size
    cut = [image[r * size : (r + 1) * size, c * size : (c + 1) * size] for r in range(side) for c in range(side)]
    x = np.stack([np.einsum("ijc,ijcw->w", patch, p["patches"]) for patch in cut]) + p["patches_bias"]
    x = x + (p["positions"] if model.positions == "learned" else sincos_positions(side, model.width))
    scale = model.residual_scale

    def attention(leaf: Any, x: Any) -> Any:
        q, k, v = np.split(x @ leaf["query_key_value"], 3, axis=1)
        return attended(model, q, k, v) @ leaf["attention_out"] + leaf["attention_out_bias"]

    for layer in range(model.depth):
        leaf = p[f"layer_{layer}"]
        if model.post_layernorm:
            x = norm(x + scale * attention(leaf, x), leaf["attention_norm"])
            x = norm(x + scale * mlp(leaf["mlp"], x), leaf["mlp_norm"])
        else:
            x = x + scale * attention(leaf, norm(x, leaf["attention_norm"]))
            x = x + scale * mlp(leaf["mlp"], norm(x, leaf["mlp_norm"]))
    x = x if model.post_layernorm else norm(x, p["final_norm"])
    if model.pooling == "map":
        pool = p["pool"]
        k, v = np.split(x @ pool["key_value"], 2, axis=1)
        x = attended(model, pool["probe"] @ pool["query"], k, v) @ pool["out"] + pool["out_bias"]
        pooled = (x + mlp(pool["mlp"], norm(x, pool["mlp_norm"])))[0]
    else:
        pooled = x.mean(axis=0)
    hidden = np.tanh(pooled @ p["pre_logits"] + p["pre_logits_bias"])
    return model.output_scale * (hidden @ p["output"] + p["output_bias"])


@pytest.mark.parametrize(
    "changes",
    [{}, {"post_layernorm": True}, {"glu": True}, {"pooling": "map"}, {"positions": "learned", "patch_size": 2}],
    ids=lambda changes: " ".join(changes) or "default",
)
def test_the_model_is_the_textbook_transformer(batch: Any, changes: dict[str, Any]) -> None:
    model = SMALL.replace(attention_scale=0.7, residual_scale=0.6, output_scale=1.3, **changes)
    params, images = alive(model), np.asarray(batch["images"])[:3]
    expected = [textbook(model, double(params), image) for image in images.astype(np.float64)]
    np.testing.assert_allclose(quick_jit(model.logits)(params, images), expected, rtol=1e-3, atol=1e-4)


def test_the_probe_is_told_the_attention_logits(batch: Any) -> None:
    params = alive(SMALL)
    found = quick_jit(SMALL.instabilities)(params, batch)
    assert set(found) == {"attention_logit_0", "attention_logit_1", "log_z"}
    half = quick_jit(SMALL.replace(attention_scale=0.5).instabilities)(params, batch)
    assert float(half["attention_logit_0"]) == pytest.approx(0.5 * float(found["attention_logit_0"]), rel=1e-5)
    logits = np.asarray(quick_jit(SMALL.logits)(params, batch["images"]), np.float64)
    assert float(found["log_z"]) == pytest.approx(special.logsumexp(logits, axis=1).mean(), rel=1e-5)


def test_positions_are_waves_along_both_axes() -> None:
    table = sincos_positions(4, 16).reshape(4, 4, 16)
    assert (table[:, 1, :8] == table[:1, 1, :8]).all()
    assert (table[1, :, 8:] == table[1, :1, 8:]).all()
    np.testing.assert_allclose(table[2, 3, [0, 4, 8, 12]], [np.sin(3), np.cos(3), np.sin(2), np.cos(2)], rtol=1e-6)
    np.testing.assert_allclose(table[2, 3, [3, 11]], np.sin([3e-4, 2e-4]), rtol=1e-5)
    assert len(np.unique(table.reshape(16, -1), axis=0)) == 16


def test_patches_attend_in_both_directions(batch: Any) -> None:
    """Where the average hides nothing, each patch moves what every other becomes; attention is the only way there."""
    params, images = alive(SMALL), np.asarray(batch["images"])[:1]
    changed = images.copy()
    changed[0, 4:, 4:] += 1.0  # the last patch
    taps = [quick_jit(SMALL.activations)(params, {"images": x})["attention_1"] for x in (images, changed)]
    assert (np.abs(taps[0] - taps[1]).max(axis=1) > 1e-4).all()


def test_dropout_is_of_training_only_and_keeps_the_mean(batch: Any) -> None:
    params = alive(SMALL)
    model = SMALL.replace(dropout=0.3)

    @quick_jit
    def losses(rate: Any, keys: Any) -> Any:
        return jax.vmap(lambda key: replace(model, dropout=rate).loss(params, batch, key)[0])(keys)

    plain = quick_jit(SMALL.loss)(params, batch, KEY)[0]
    np.testing.assert_allclose(losses(0.0, jax.random.split(KEY, 4)), np.full(4, plain), rtol=1e-6)
    assert len(set(losses(0.3, jax.random.split(KEY, 4)).tolist())) == 4
    np.testing.assert_array_equal(
        quick_jit(model.logits)(params, batch["images"]), quick_jit(SMALL.logits)(params, batch["images"])
    )


def test_the_loss_starts_at_the_uniform_guess(batch: Any) -> None:
    for changes in ({}, *SMALL.variants.values()):
        model = SMALL.replace(label_smoothing=0.0, **changes)
        assert float(quick_jit(model.loss)(quick_jit(model.init)(KEY), batch, KEY)[0]) == pytest.approx(np.log(16))


@pytest.mark.parametrize(
    ("changes", "widths"),
    [({"heads": 4}, (32, 64, 256)), ({"heads": 1, "pooling": "map", "glu": True}, (16, 64, 256))],
    ids=["heads", "map of glu"],
)
def test_mup_passes_the_coordinate_check_and_sp_fails(changes: dict[str, Any], widths: tuple[int, ...]) -> None:
    """Matrices alone from step 2 on: before, branches and output that start at zero keep others from moving."""
    workload = ROW.small.replace(depth=1, batch_size=16, **changes)
    mup, sp = (slopes(workload, name, widths, seeds=4, together=2) for name in ("mup", "sp"))
    assert uneven(mup) == {}
    assert {"layer_0/query_key_value alone", "layer_0/mlp/in alone"} <= uneven(sp).keys()
    assert min(sp[name] for name in ("attention_0", "mlp_0", "pre_logits", "logits")) > 0.4


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"heads": 3}, "width=16 is not divisible by workload.heads=3"),
        ({"patch_size": 3}, "image_size=8 is not divisible by workload.patch_size=3"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"pooling": "max"}, "unknown workload.pooling 'max'. Valid names: average, map"),
        ({"positions": "rotary"}, "Valid names: sincos, learned"),
        ({"width": 18}, "multiple of 4, and at least 8, for workload.positions=sincos"),
        ({"width": 4}, "multiple of 4, and at least 8"),
        ({"dropout": 1.0}, "workload.dropout=1.0"),
        ({"label_smoothing": 1.0}, "workload.label_smoothing"),
        ({"crop_padding": 8}, "workload.crop_padding=8"),
        ({"crop_padding": -1}, "workload.crop_padding=-1"),
        ({"validation_images": 0}, "workload.validation_images=0"),
        ({"image_size": 0}, "workload.image_size=0"),
    ],
)
def test_impossible_fields_name_the_fix(changes: dict[str, Any], fix: str) -> None:
    with pytest.raises(BadInput, match=fix):
        SMALL.replace(**changes).validate()


# --- what image families share


def pixels(data: dict[str, Any], normalised: Any) -> np.ndarray:
    """Back to 0 to 255."""
    return np.asarray(normalised) / np.asarray(data["inverse_deviation"]) + np.asarray(data["mean"])


def test_images_are_centred_and_scaled_by_the_training_images(data: dict[str, Any]) -> None:
    train = np.asarray(data["train_images"], np.float64)
    np.testing.assert_allclose(data["mean"][0, 0, 0], train.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data["inverse_deviation"][0, 0, 0], 1 / train.std(axis=(0, 1, 2)), rtol=1e-5)


def test_batches_are_training_images_with_their_labels(data: dict[str, Any]) -> None:
    model = SMALL.replace(crop_padding=0, flip=False)
    found = quick_jit(model.batch)(data, DATA_KEY, 3)
    train = {bytes(image): int(label) for image, label in zip(data["train_images"], data["train_labels"], strict=True)}
    back = np.rint(pixels(data, found["images"])).astype(np.uint8)
    assert [train[bytes(image)] for image in back] == found["labels"].tolist()
    assert len({bytes(image) for image in back}) > 20


def test_augmentation_shifts_and_mirrors(data: dict[str, Any]) -> None:
    """Every training image of 200 batches is one of its 9 shifts in either direction; all 18 occur, all equally often."""
    single = {**data, "train_images": data["train_images"][:1], "train_labels": data["train_labels"][:1]}
    batches = quick_jit(lambda steps: jax.lax.map(lambda t: SMALL.batch(single, DATA_KEY, t)["images"], steps))(
        jnp.arange(30)
    )
    original = (np.asarray(data["train_images"][0]) - np.asarray(data["mean"])) * np.asarray(data["inverse_deviation"])
    framed = np.pad(original[0], ((1, 1), (1, 1), (0, 0)))
    cuts = [framed[r : r + 8, c : c + 8] for r in range(3) for c in range(3)]
    known = np.stack([*cuts, *(cut[:, ::-1] for cut in cuts)]).reshape(18, -1)
    found = np.asarray(batches).reshape(-1, 8 * 8 * 3)
    distance = np.abs(found[:, None, :] - known[None]).max(axis=2)
    assert distance.min(axis=1).max() < 1e-5
    counts = np.bincount(distance.argmin(axis=1), minlength=18)
    assert len(found) == 960
    assert counts.min() > 25  # 53 expected, standard deviation 7
    assert counts.max() < 90


def test_crops_are_cut_from_the_frame() -> None:
    images = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 1) + 1
    found = np.asarray(shifted(images, np.array([[0, 2], [1, 1]]), 1))
    np.testing.assert_array_equal(found[1], images[1])
    assert (found[0, 0] == 0).all()
    assert (found[0, :, -1] == 0).all()
    np.testing.assert_array_equal(found[0, 1:, :-1], images[0, :-1, 1:])


def test_the_loss_is_cross_entropy_with_smoothed_labels(batch: Any) -> None:
    params = alive(SMALL)
    logits = np.asarray(quick_jit(SMALL.logits)(params, batch["images"]), np.float64)
    log_p = special.log_softmax(logits, axis=1)
    right = log_p[np.arange(32), np.asarray(batch["labels"])]
    expected = -np.mean(0.9 * right + 0.1 * log_p.mean(axis=1))
    assert float(quick_jit(SMALL.loss)(params, batch, KEY)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [7, 32, 64])
def test_evaluation_scores_every_image_once(data: dict[str, Any], batch_size: int) -> None:
    """40 validation and 48 test images, in batches that do not divide them; the reference is scikit-learn's."""
    params = alive(SMALL)
    model = SMALL.replace(batch_size=batch_size)
    for split, count in (("validation", 40), ("test", 48)):
        found = quick_jit(model.evaluate, static_argnums=2)(params, data, split)
        labels = np.asarray(data[f"{split}_labels"])
        images = SMALL.normalised(data, split, jnp.arange(count))
        logits = np.asarray(quick_jit(SMALL.logits)(params, images), np.float64)
        wrong = logits.argmax(axis=1) != labels
        assert float(found["error_rate"]) == pytest.approx(zero_one_loss(labels, logits.argmax(axis=1)), abs=1e-6)
        assert float(found["error_rate_stderr"]) == pytest.approx(wrong.std(ddof=1) / np.sqrt(count), rel=1e-5)
        expected = -special.log_softmax(logits, axis=1)[np.arange(count), labels].mean()
        assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)


def test_trivial_and_oracle_metrics() -> None:
    labels = SMALL.load().arrays["validation_labels"]
    constant = min(np.mean(labels != guess) for guess in range(16))
    assert SMALL.trivial_metric() == pytest.approx(constant)
    assert SMALL.oracle_metric() == 0.0
    digits = SMALL.replace(data="digits", flip=False, validation_images=512)
    assert digits.oracle_metric() is None
    assert digits.trivial_metric() == pytest.approx(0.9, abs=0.01)
    assert (digits.classes, digits.channels) == (10, 1)


def test_mirrored_digits_are_refused() -> None:
    with pytest.raises(BadInput, match=r"set workload\.flip=false"):
        SMALL.replace(data="digits").load()
    assert SMALL.replace(data="digits", flip=False).load().examples == 1199


def test_unknown_splits_are_told_the_valid_ones(data: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="Valid names: train, validation, test"):
        SMALL.evaluate(alive(SMALL), data, "valid")


def test_both_families_hold_the_same_data_once() -> None:
    from workloads.image_resnet import ImageResNet

    assert ImageViT().data_key() != SMALL.data_key()
    assert ImageResNet(data=ImageViT().data).data_key() == ImageViT(glu=True, heads=2).data_key()
