"""Image data: what the generator claims, digits, and the user's files in their real formats."""

from __future__ import annotations

import pickle
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workloads.base import BadInput
from workloads.data.image_set import ImageSet, held_out, spread
from workloads.data.images import load_images
from workloads.data.textured_shapes import CLASSES, SHAPES, TEXTURES, TexturedShapes, parse

STILL = TexturedShapes(noise=0.0, turn=0.0)


def drawn(source: TexturedShapes, count: int = 96, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Images as floats from 0 to 1, and labels."""
    images, labels = source.draw(count, size, 0)
    return images / 255.0, labels


def of(images: np.ndarray, labels: np.ndarray, shape: str, texture: str) -> np.ndarray:
    return images[labels == CLASSES.index(f"{shape} {texture}")]


# --- generated shapes


def test_every_combination_is_a_class_and_all_are_equally_frequent() -> None:
    assert len(CLASSES) == len(SHAPES) * len(TEXTURES) == 16
    counts = np.bincount(drawn(STILL, 100, 8)[1], minlength=16)
    assert counts.min() == 6
    assert counts.max() == 7


def test_images_are_those_of_their_seed_and_stream() -> None:
    first, again, other = (TexturedShapes(seed=seed).draw(32, 16, 0) for seed in (1, 1, 2))
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.any(first[0] != other[0])
    assert np.any(first[0] != TexturedShapes(seed=1).draw(32, 16, 1)[0])
    assert first[0].shape == (32, 16, 16, 3)
    assert first[0].dtype == np.uint8


def test_noise_has_the_stated_deviation() -> None:
    clean, noisy = drawn(STILL)[0], drawn(TexturedShapes(noise=0.1, turn=0.0))[0]
    inside = (clean > 0.4) & (clean < 0.6)  # nothing is cut off there
    difference = (noisy - clean)[inside]
    assert difference.std() == pytest.approx(0.1, rel=0.02)
    assert abs(difference.mean()) < 0.002


def test_the_object_is_lighter_than_the_ground_and_covers_what_its_shape_says() -> None:
    """Share of light pixels on the plain ground against the shapes' areas in units of scale^2."""
    images, labels = drawn(STILL, 1600)
    areas = {"disc": np.pi * 0.85**2, "ring": np.pi * (0.95**2 - 0.45**2), "cross": 2.0 - 0.25, "bar": 4 * 1.05 * 0.4}
    squares = np.mean(np.linspace(0.62, 0.8, 1001) ** 2)
    for shape, area in areas.items():
        light = of(images, labels, shape, "plain").mean(axis=3) > 0.66
        assert light.mean() == pytest.approx(area * squares / 4, rel=0.12), shape


def test_textures_darken_the_share_of_the_ground_that_their_formulas_say() -> None:
    """In the corners, where no object reaches."""
    images, labels = drawn(STILL, 3200)
    phases = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    a, b = (phase.astype(np.float32) for phase in np.meshgrid(phases, phases))
    corner = images[:, :4, :4].mean(axis=3)
    for number, (name, texture) in enumerate(TEXTURES.items()):
        dark = corner[labels % len(TEXTURES) == number] < 0.33
        assert dark.mean() == pytest.approx((texture(a, b) > 0).mean(), abs=0.06), name


@pytest.mark.parametrize("turn", [0.0, 90.0])
def test_the_object_turns_as_far_as_it_is_told(turn: float) -> None:
    """Bars lie flat where nothing turns: their light pixels spread along rows, not columns."""
    source = TexturedShapes(noise=0.0, turn=turn)
    light = of(*drawn(source, 640), "bar", "plain").mean(axis=3) > 0.66
    wide, tall = light.any(axis=1).sum(axis=1), light.any(axis=2).sum(axis=1)
    assert (wide > 1.5 * tall).all() == (turn == 0.0)


def test_bands_cross_the_ground_where_clutter_is_asked_for() -> None:
    plain, cluttered = (
        of(*drawn(TexturedShapes(noise=0.0, clutter=clutter), 640), "disc", "plain") for clutter in (0, 4)
    )
    edges = [np.abs(np.diff(images[:, :3], axis=2)).max(axis=(1, 2, 3)) for images in (plain, cluttered)]
    assert np.median(edges[0]) < 0.02
    assert np.median(edges[1]) > 0.1


def test_planted_wrong_labels_are_exactly_as_many_and_the_oracle_counts_them() -> None:
    source = TexturedShapes(label_noise=0.25)
    truth = np.arange(16_000) % 16
    spoiled = source.spoil(truth, 0)
    wrong = spoiled != truth
    assert wrong.sum() == 4000
    shifts = np.bincount((spoiled - truth)[wrong] % 16, minlength=16)
    assert shifts[0] == 0
    assert shifts[1:].min() > 200  # 267 expected of each
    loaded = load_images("shapes:train=32,test=32,label_noise=0.25", 8, 40)
    assert loaded.oracle == 0.25
    assert load_images("shapes:train=32,test=32", 8, 40).oracle == 0.0
    np.testing.assert_array_equal(source.draw(64, 8, 1)[1], TexturedShapes().draw(64, 8, 1)[1])


def test_the_default_set_is_small_and_says_what_it_is() -> None:
    loaded = load_images("shapes:train=48,test=32,seed=3", 8, 20)
    assert {split: labels.shape for split, (_, labels) in loaded.splits.items()} == {
        "train": (48,),
        "validation": (20,),
        "test": (32,),
    }
    assert loaded.info["seed"] == 3
    assert loaded.info["images"] == {"train": 48, "validation": 20, "test": 32}
    assert not loaded.splits["train"][0].flags.writeable
    assert load_images("shapes:train=48,test=32,seed=3", 8, 20) is loaded
    others = [load_images(f"shapes:train=48,test=32,seed={seed}", size, 20) for seed, size in ((4, 8), (3, 9))]
    assert len({image_set.info["sha256"] for image_set in (loaded, *others)}) == 3
    default = parse("")
    assert (default.train + default.test + 512) * 32 * 32 * 3 < 60e6
    assert default.test >= 10_000


# --- digits


def test_digits_keep_their_pixels_and_are_enlarged_between_them() -> None:
    from sklearn.datasets import load_digits

    pixels = load_digits().images
    small = load_images("digits", 8, 512)
    assert small.info["images"] == {"train": 1199, "validation": 299, "test": 299}
    assert small.channels == 1
    assert not small.mirrors
    everything = np.concatenate([small.splits[split][0] for split in small.splits])[..., 0]
    expected = np.rint(pixels * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, everything)) == sorted(map(bytes, expected))
    large = load_images("digits", 16, 512).splits["test"][0][..., 0].astype(float)
    coarse = small.splits["test"][0][..., 0].astype(float)
    middle = (large[:, 1:-1:2, 1:-1:2] + large[:, 2::2, 1:-1:2] + large[:, 1:-1:2, 2::2] + large[:, 2::2, 2::2]) / 4
    around = (coarse[:, 1:, 1:] + coarse[:, :-1, 1:] + coarse[:, 1:, :-1] + coarse[:, :-1, :-1]) / 4
    np.testing.assert_allclose(middle, around, atol=1.01)  # linear between centres: 1/4 and 3/4 of the way, twice


def test_held_out_images_are_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 2])
    chosen = held_out(labels, 0.1)
    assert [int(chosen[labels == label].sum()) for label in range(3)] == [10, 5, 1]
    np.testing.assert_array_equal(chosen, held_out(labels, 0.1))
    assert spread(np.arange(100, 200), 3).tolist() == [100, 150, 199]
    assert spread(np.arange(4), 9).tolist() == [0, 1, 2, 3]


# --- the user's files


def write_folder(root: Path, splits: dict[str, dict[str, int]], size: tuple[int, int] = (6, 6)) -> None:
    """PNG and JPEG files whose red is 40 x class and whose green counts the files."""
    from PIL import Image

    names = sorted({name for classes in splits.values() for name in classes})
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.zeros((*size, 3), np.uint8)
                pixels[..., 0], pixels[..., 1] = 40 * names.index(name), 10 * i
                Image.fromarray(pixels).save(root / split / name / f"{i}.{'png' if i % 2 else 'JPEG'}", quality=100)


def loaded(path: Path, size: int = 6, validation: int = 512) -> ImageSet:
    return load_images(f"path:{path}", size, validation)


def test_image_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": {"cat": 3, "dog": 4}, "val": {"cat": 4, "dog": 4}})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    found = loaded(tmp_path)
    assert found.info["class_names"] == ["cat", "dog"]
    assert found.info["images"] == {"train": 7, "validation": 4, "test": 4}
    assert "every second image" in found.info["split"]
    images, labels = found.splits["train"]
    assert images.shape == (7, 6, 6, 3)
    np.testing.assert_allclose(images[:, 3, 3, 0], 40 * labels, atol=4)
    greens = [found.splits[split][0][:, 3, 3, 1] for split in ("validation", "test")]
    np.testing.assert_allclose(greens, [[0, 20, 0, 20], [10, 30, 10, 30]], atol=6)
    assert loaded(tmp_path, validation=2).info["images"]["validation"] == 2
    write_folder(tmp_path, {"test": {"dog": 5}})
    load_images.cache_clear()
    again = loaded(tmp_path)
    assert again.info["images"] == {"train": 7, "validation": 8, "test": 5}
    assert again.splits["test"][1].tolist() == [1] * 5
    assert again.info["sha256"] != found.info["sha256"]


def test_validation_is_held_out_of_training_where_there_is_a_test_folder_only(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": {"cat": 20, "dog": 10}, "test": {"cat": 3, "dog": 2}})
    found = loaded(tmp_path)
    assert found.info["images"] == {"train": 27, "validation": 3, "test": 5}
    assert sorted(found.splits["validation"][1].tolist()) == [0, 0, 1]
    assert "validation is 3 of the training images" in found.info["split"]


@pytest.mark.parametrize("layout", ["ILSVRC", "Tiny ImageNet", "unlabelled test"])
def test_images_without_class_folders_are_told_to_be_sorted(tmp_path: Path, layout: str) -> None:
    (tmp_path / "train").mkdir()
    write_folder(tmp_path / "train", {"cat": {"images": 2}, "dog": {"images": 3}})  # CLASS/images, as in Tiny ImageNet
    place = {"ILSVRC": "val", "Tiny ImageNet": "val/images", "unlabelled test": "test/images"}[layout]
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "train" / "cat" / "images" / "0.JPEG").rename(tmp_path / place / "val_0.JPEG")
    with pytest.raises(BadInput, match=rf"sort them into {place[:3]}\w*/CLASS/"):
        loaded(tmp_path)


def test_images_of_other_sizes_are_scaled_and_cropped_at_the_centre(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((8, 32, 3), np.uint8)
    pixels[:, 10:22] = 200
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
            Image.fromarray(pixels[..., 0]).save(tmp_path / split / name / "1.png")
    images = loaded(tmp_path, size=4).splits["train"][0]
    assert images.shape == (4, 4, 4, 3)
    assert (images == 200).all()


def write_images(root: Path, train: Any, **options: Any) -> Path:
    """Two classes, of one image `train` in training and two plain ones in validation; returns the first of training."""
    from PIL import Image

    for name in ("a", "b"):
        for split in ("train", "val"):
            (root / split / name).mkdir(parents=True)
        train.save(root / "train" / name / "0.png", **options)
        for i in range(2):
            Image.new("RGB", (6, 6)).save(root / "val" / name / f"{i}.png")
    return root / "train" / "a" / "0.png"


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_images_of_16_bits_are_scaled_to_8(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    values = np.array([0, 128, 129, 257, 1000, 32767, 32768, 65406, 65407, 65535] + [514] * 26).reshape(6, 6)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (6, 6), values.astype(dtype).tobytes())
    file = write_images(tmp_path, image, format="PNG" if mode == "I;16" else "TIFF")  # Pillow goes by the content
    with Image.open(file) as written:
        assert written.mode == mode
    images = loaded(tmp_path).splits["train"][0]
    expected = [0, 0, 1, 1, 4, 127, 128, 254, 255, 255] + [2] * 26
    np.testing.assert_array_equal(images, np.tile(np.reshape(expected, (6, 6, 1)), (2, 1, 1, 3)))


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("F", 0.5, r"a/0\.png' cannot be read \(it has floating-point values"),
        ("I", 65536, r"a/0\.png' cannot be read \(it has values from 65536 to 65536, outside 0 to 65535"),
        ("I", -1, "from -1 to -1"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str, value: float, message: str) -> None:
    from PIL import Image

    write_images(tmp_path, Image.new(mode, (6, 6), value), format="TIFF")
    with pytest.raises(BadInput, match=message):
        loaded(tmp_path)


TRANSPARENT = {  # a pixel of a mode, options of the file, what is expected of it
    "opaque": ("RGBA", (10, 20, 30, 255), {}, (10, 20, 30)),
    "clear": ("RGBA", (10, 20, 30, 0), {}, (255, 255, 255)),
    "half": ("RGBA", (0, 100, 255, 51), {}, (204, 224, 255)),  # an alpha of 0.2
    "gray": ("LA", (100, 51), {}, (224, 224, 224)),
    "palette": ("P", 0, {"transparency": 0}, (255, 255, 255)),
    "key": ("RGB", (1, 2, 3), {"transparency": (1, 2, 3)}, (255, 255, 255)),
    "another key": ("RGB", (1, 2, 3), {"transparency": (1, 2, 4)}, (1, 2, 3)),
    "16 bits": ("I;16", 1000, {"transparency": 1000}, (255, 255, 255)),
}


@pytest.mark.parametrize("case", TRANSPARENT)
def test_transparency_is_composited_over_white(tmp_path: Path, case: str) -> None:
    from PIL import Image

    mode, pixel, options, expected = TRANSPARENT[case]
    write_images(tmp_path, Image.new(mode, (6, 6), pixel), **options)
    np.testing.assert_array_equal(loaded(tmp_path).splits["train"][0], np.broadcast_to(expected, (2, 6, 6, 3)))


def test_a_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, {"train": {"a": 1, "b": 1}, "val": {"a": 2, "b": 2}})
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BadInput, match="pip install pillow"):
        loaded(tmp_path)


def arrays(count: int = 40, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        "train_images": rng.integers(0, 256, (count, 6, 6, 3), np.uint8),
        "train_labels": np.arange(count) % 4,
        "test_images": rng.integers(0, 256, (10, 6, 6, 3), np.uint8),
        "test_labels": np.arange(10) % 4,
    }
    return {name: array for name, array in (found | changes).items() if array is not None}


def test_arrays(tmp_path: Path) -> None:
    given = arrays()
    np.savez(tmp_path / "a.npz", **given)
    found = loaded(tmp_path / "a.npz")
    assert found.classes == 4
    assert found.info["images"] == {"train": 36, "validation": 4, "test": 10}
    both = [found.splits[split] for split in ("train", "validation")]
    assert sorted(bytes(image) for images, _ in both for image in images) == sorted(map(bytes, given["train_images"]))
    np.testing.assert_array_equal(found.splits["test"][0], given["test_images"])
    with_validation = arrays(
        train_images=given["train_images"][..., 0],
        test_images=given["test_images"][..., 0],
        train_labels=given["train_labels"][:, None],
        val_images=given["test_images"][:6, ..., 0],
        val_labels=given["test_labels"][:6],
    )
    np.savez_compressed(tmp_path / "b.npz", **with_validation)
    gray = loaded(tmp_path / "b.npz", validation=3)
    assert gray.channels == 1
    assert gray.info["images"] == {"train": 40, "validation": 3, "test": 10}
    assert gray.splits["validation"][1].tolist() == [0, 2, 1]


def write_cifar(root: Path, batches: int = 2, count: int = 20) -> np.ndarray:
    """Batches in the binary version; returns the images of the first."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batches + 1, count, 32, 32, 3), np.uint8)
    for number, batch in enumerate(images):
        records = np.concatenate([(np.arange(count) % 10)[:, None], batch.transpose(0, 3, 1, 2).reshape(count, -1)], 1)
        name = f"data_batch_{number + 1}.bin" if number < batches else "test_batch.bin"
        records.astype(np.uint8).tofile(root / name)
    return images[0]


def test_cifar_binary(tmp_path: Path) -> None:
    first = write_cifar(tmp_path)
    found = loaded(tmp_path, size=32)
    assert found.classes == 10
    assert found.info["images"] == {"train": 30, "validation": 10, "test": 20}
    known = {bytes(image) for split in ("train", "validation") for image in found.splits[split][0]}
    assert {bytes(image) for image in first} <= known
    assert found.splits["test"][1].tolist() == list(range(10)) * 2


def write_pickles(root: Path) -> None:
    (root / "data_batch_1").write_bytes(pickle.dumps({"data": [1]}))


def write_npz(root: Path, **changes: Any) -> None:
    np.savez(root / "x.npz", **arrays(**changes))


def write_damaged(root: Path) -> None:
    """A compressed archive with a wrong byte in the first array's stream."""
    np.savez_compressed(root / "x.npz", **arrays())
    content = bytearray((root / "x.npz").read_bytes())
    content[80] ^= 0xFF
    (root / "x.npz").write_bytes(content)
    with np.load(root / "x.npz") as archive, pytest.raises(zlib.error):
        archive["train_images"]


def black(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "nothing there": (lambda root: None, "missing", "does not exist. Give a folder with train/CLASS"),
    "empty folder": (lambda root: None, "", "no layout known here"),
    "pickles": (write_pickles, "", "pickles are never read: download the binary version"),
    "truncated batch": (lambda root: [write_cifar(root), _cut(root / "data_batch_1.bin")], "", "truncated"),
    "no test batch": (lambda root: [write_cifar(root), (root / "test_batch.bin").unlink()], "", "test_batch.bin"),
    "impossible label": (
        lambda root: [write_cifar(root), _poke(root / "test_batch.bin", 77)],
        "",
        "label 77, but CIFAR-10 has 10 classes",
    ),
    "other size": (write_npz, "x.npz", "set workload.image_size=6"),
    "no labels": (lambda root: write_npz(root, train_labels=None), "x.npz", "no array train_labels; it holds"),
    "floats": (lambda root: write_npz(root, test_images=np.zeros((10, 6, 6))), "x.npz", "store uint8"),
    "labels of other images": (lambda root: write_npz(root, test_labels=np.zeros(3, int)), "x.npz", "one integer for"),
    "negative labels": (
        lambda root: write_npz(root, test_labels=-np.ones(10, int)),
        "x.npz",
        "number the classes from 0",
    ),
    "objects": (lambda root: write_npz(root, odd=np.array([{}], object)), "x.npz", "no .npz of plain arrays"),
    "no archive": (lambda root: (root / "x.npz").write_text("text"), "x.npz", "no .npz of plain arrays"),
    "damaged": (write_damaged, "x.npz", "no .npz of plain arrays"),
    "no image": (
        lambda root: write_npz(root, train_images=black(0, 6, 6, 3), train_labels=np.zeros(0, int)),
        "x.npz",
        r"train_images .* has shape \(0, 6, 6, 3\), no pixel: store at least one",
    ),
    "no pixel": (
        lambda root: write_npz(root, test_images=black(10, 0, 0)),
        "x.npz",
        r"test_images .* \(10, 0, 0\), no",
    ),
    "one training label": (
        lambda root: write_npz(root, train_labels=np.zeros(40, int)),
        "x.npz",
        "of 1 class; at least 2 are needed",
    ),
    "absurd label": (
        lambda root: write_npz(root, train_labels=np.where(np.arange(40) < 4, np.arange(40) % 4, 41)),
        "x.npz",
        "train_labels .* holds 41, but only 40 images of 5 classes: number the classes from 0 to 4",
    ),
    "label beyond int32": (
        lambda root: write_npz(root, train_labels=np.arange(40) % 4 + 2**32),
        "x.npz",
        r"train_labels .* holds 4294967299: number the classes from 0",
    ),
    "untrained test label": (
        lambda root: write_npz(root, test_labels=np.arange(10)),
        "x.npz",
        "test images of label 4, but no training image of it",
    ),
    "untrained validation label": (
        lambda root: write_npz(root, val_images=black(2, 6, 6, 3), val_labels=np.array([1, 9])),
        "x.npz",
        "val images of label 9, but no training image of it",
    ),
    "untrained label in a batch": (
        lambda root: [write_cifar(root, count=10), *(_poke(root / f"data_batch_{i}.bin", 1) for i in (1, 2))],
        "",
        "test images of label 0, but no training image of it",
    ),
    "untrained class": (
        lambda root: write_folder(root, {"train": {"a": 2, "b": 2, "c": 0}, "val": {"a": 2, "b": 2, "c": 1}}),
        "",
        "val images of class 'c', but no training image of it: add some, or leave it out",
    ),
    "untrained class of test": (
        lambda root: write_folder(root, {"train": {"a": 1, "b": 1, "c": 0}, "val": {"a": 2}, "test": {"c": 1}}),
        "",
        "test images of class 'c'",
    ),
    "one class with images": (
        lambda root: write_folder(root, {"train": {"a": 2, "b": 0}, "val": {"a": 2}}),
        "",
        "of 1 class; at least 2 are needed",
    ),
    "oblong": (
        lambda root: write_npz(root, train_images=np.zeros((40, 6, 8), np.uint8)),
        "x.npz",
        "6 x 8 pixels: store square ones",
    ),
    "channels first": (
        lambda root: write_npz(root, train_images=black(40, 3, 6, 6)),
        "x.npz",
        r"channels first: store channels last, images\.transpose\(0, 2, 3, 1\)",
    ),
    "CIFAR-100": (
        lambda root: [(root / name).write_bytes(bytes(3074)) for name in ("train.bin", "test.bin")],
        "",
        "CIFAR-100's binary version, which is not read: store .* in an .npz",
    ),
    "one class": (lambda root: write_folder(root, {"train": {"a": 1}}), "", "at least 2 are needed"),
    "no val": (lambda root: write_folder(root, {"train": {"a": 1, "b": 1}}), "", "there is no folder"),
    "strange class": (
        lambda root: write_folder(root, {"train": {"a": 1, "b": 1}, "val": {"a": 1, "c": 1}}),
        "",
        "train/ lacks: c",
    ),
    "too few": (
        lambda root: write_folder(root, {"train": {"a": 1, "b": 1}, "val": {"a": 1}}),
        "",
        "no image for the test split",
    ),
    "broken image": (
        lambda root: [
            write_folder(root, {"train": {"a": 2, "b": 2}, "val": {"a": 2, "b": 2}}),
            _cut(root / "train" / "b" / "1.png"),
        ],
        "",
        r"b/1\.png' cannot be read",
    ),
}


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 - 1])


def _poke(file: Path, value: int) -> None:
    file.write_bytes(bytes([value]) + file.read_bytes()[1:])


@pytest.mark.parametrize("case", BAD)
def test_malformed_files_name_the_fix(tmp_path: Path, case: str) -> None:
    write, name, message = BAD[case]
    write(tmp_path)
    with pytest.raises(BadInput, match=message):
        loaded(tmp_path / name if name else tmp_path, size=32)


def test_classes_without_images_and_numbers_with_gaps_are_kept(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": {"a": 2, "b": 2, "c": 0}, "val": {"a": 2, "b": 2}})
    assert loaded(tmp_path).classes == 3
    write_npz(tmp_path, train_labels=np.arange(40) % 4 * 10, test_labels=np.arange(10) % 4 * 10)
    assert loaded(tmp_path / "x.npz").classes == 31


def test_what_does_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workloads.data import image_files

    write_npz(tmp_path)
    monkeypatch.setattr(image_files, "MOST_BYTES", 4000)
    with pytest.raises(BadInput, match=r"lower workload\.image_size"):
        loaded(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("shape", "Did you mean 'shapes'"),
        ("mnist", "Valid names: shapes, digits, or path:"),
        ("shapes:colour=1", "shapes has no setting 'colour=1'. Write shapes:NAME=VALUE with train, test, turn"),
        ("shapes:seed=x", "needs a number"),
        ("shapes:label_noise=0.95", "0 <= label_noise < 0.9375"),
        ("shapes:turn=200", "0 <= turn <= 180"),
        ("shapes:noise=nan", "0 <= noise <= 1"),
    ],
)
def test_unknown_data_name_the_fix(data: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_images(data, 8, 16)
