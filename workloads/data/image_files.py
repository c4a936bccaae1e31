"""The user's own labelled images, in one of three layouts. No pickle is ever read.

FOLDER/train/CLASS/*.png|jpg, and val/CLASS/*, test/CLASS/* or both     ImageNet's; what is missing is held out of the other
FILE.npz      train_images, train_labels, test_images, test_labels, optionally val_images and val_labels: (N, S, S) or
              (N, S, S, C) uint8, and (N,) or (N, 1) integers
FOLDER/data_batch_*.bin, FOLDER/test_batch.bin     CIFAR-10's binary version

Image files become RGB of 8 bits: 16-bit values are divided by 257, and what is transparent is composited over white.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workloads.base import BadInput
from workloads.data.image_set import SPLITS, ImageSet, Split, build, held_out, spread

if TYPE_CHECKING:
    from PIL import Image

LAYOUTS = (
    "a folder with train/CLASS/*.png and val/CLASS/*.png or test/CLASS/*.png (or .jpg), an .npz file with train_images, "
    "train_labels, test_images and test_labels, or a folder with CIFAR-10's data_batch_*.bin and test_batch.bin"
)
SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_BYTES = 2**31  # of pixels: all splits lie in memory
_CIFAR_SIDE, _CIFAR_CLASSES = 32, 10
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2
_MOST_CHANNELS = 4
_MOST_16_BIT = 2**16 - 1
_MOST_HELD_OUT = 0.1  # of the training images, where no file is for validation
_DAMAGED = (  # what NumPy raises for files that are no .npz, or broken ones
    OSError,
    ValueError,
    AttributeError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
_Listing = tuple[np.ndarray, np.ndarray]  # paths, which are objects, and labels


def load(written: str, size: int, validation: int) -> ImageSet:
    """The images below the path `written`. Arguments as in workloads.data.images.load_images.

    Raises BadInput naming the fix for missing, unreadable, malformed or unequal files.
    """
    path = Path(written).expanduser()
    if not written or not path.exists():
        raise BadInput(f"workload.data=path:{written} does not exist. Give {LAYOUTS}")
    if path.is_file():
        return _load_npz(path, size, validation)
    if (path / "train.bin").is_file() and (path / "test.bin").is_file():
        raise BadInput(
            f"workload.data=path:{written} looks like CIFAR-100's binary version, which is not read: store its images and "
            f"either its fine or its coarse labels in an .npz file with train_images, train_labels, test_images and test_labels"
        )
    if any(path.glob("*.bin")):
        return _load_cifar(path, size, validation)
    if (path / "train").is_dir():
        return _load_folder(path, size, validation)
    if any(path.glob("data_batch_*")):
        raise BadInput(
            f"workload.data=path:{written} holds CIFAR-10's Python version, whose pickles are never read: download the "
            f"binary version (data_batch_1.bin ... test_batch.bin)"
        )
    raise BadInput(f"workload.data=path:{written} has no layout known here. Give {LAYOUTS}")


# --- image files


def _load_folder(root: Path, size: int, validation: int) -> ImageSet:
    names = sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(names) < 2:
        raise BadInput(f"'{root / 'train'}' has {len(names)} class folders; at least 2 are needed: train/CLASS/*.png")
    given = {name: _listing(root / name, names) for name in ("train", "val", "test") if (root / name).is_dir()}
    _check_labels({split: labels for split, (_, labels) in given.items()}, root, names)
    rule = "by folder"
    if "val" not in given and "test" in given:
        train, held, rule = _hold_out(given["train"], validation)
        listed = {"train": train, "validation": held, "test": given["test"]}
    else:
        files, labels = given["val"] if "val" in given else _listing(root / "val", names)
        listed = {"train": given["train"], "validation": (files, labels), "test": given.get("test", (files, labels))}
        if "test" not in given:
            listed |= {"validation": (files[::2], labels[::2]), "test": (files[1::2], labels[1::2])}
            rule = "by folder; test is every second image of val (there is no folder test)"
    files, labels = listed["validation"]
    kept = spread(np.arange(len(files)), validation)
    listed["validation"] = files[kept], labels[kept]
    _check_bytes(sum(len(files) for files, _ in listed.values()) * 3 * size * size, root)
    splits = {split: (_read_all(listed[split][0], size), listed[split][1]) for split in SPLITS}
    info = {"data": "image folder", "class_names": names, "split": rule}
    return _built(splits, len(names), info, root)


def _listing(folder: Path, names: Sequence[str]) -> _Listing:
    """The image files of every class folder, at any depth (Tiny ImageNet's are in CLASS/images), in order, and their labels."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder '{folder}'. Give {LAYOUTS}")
    entries = [entry for entry in folder.iterdir() if entry.name[0] != "."]
    strange = {entry.name for entry in entries if entry.is_dir()} - set(names)
    if strange == {"images"} or any(entry.suffix.lower() in SUFFIXES for entry in entries):
        raise BadInput(
            f"the images in '{folder}' lie in no class folder: sort them into {folder.name}/CLASS/, as those of train, by the "
            f"data set's list of labels (Tiny ImageNet's is val_annotations.txt, ILSVRC 2012's in its development kit); a test "
            f"folder without labels must go elsewhere"
        )
    if strange:
        raise BadInput(f"'{folder}' has class folders that train/ lacks: {', '.join(sorted(strange)[:5])}; rename them")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = [
            file
            for file in sorted((folder / name).rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.name[0] != "."
        ]
        files += found
        labels += [label] * len(found)
    return np.array(files, dtype=object), np.array(labels, np.int32)


def _read_all(files: np.ndarray, size: int) -> np.ndarray:
    """Paths (N,) -> (N, size, size, 3) uint8: scaled so that the shorter side fits, and cropped at the centre; see _rgb."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise BadInput("folders of images are read with the package Pillow: pip install pillow") from None
    pixels = np.empty((len(files), size, size, 3), np.uint8)
    for row, file in enumerate(files):
        try:
            with Image.open(file) as image:
                pixels[row] = np.asarray(ImageOps.fit(_rgb(image), (size, size), Image.Resampling.BILINEAR))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BadInput(f"image '{file}' cannot be read ({error}): write it again as PNG or JPEG") from None
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit values divided by 257, so that 65535 is white, and transparency composited over white.

    Raises ValueError where the values have no known range: floats, and integers outside 16 bits.
    """
    from PIL import Image

    if image.mode.startswith("F"):
        raise ValueError("it has floating-point values, of no known range")
    if image.mode.startswith("I"):  # one channel; some versions of Pillow open 16-bit PNG as I, of 32 bits
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > _MOST_16_BIT:
            raise ValueError(f"it has values from {values.min()} to {values.max()}, outside 0 to {_MOST_16_BIT}")
        gray = (values + 128) // 257  # 257 is odd: there are no halves to round
        if "transparency" in image.info:
            gray[values == image.info["transparency"]] = 255
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.getbands()[-1] in ("A", "a") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


# --- arrays


def _load_npz(path: Path, size: int, validation: int) -> ImageSet:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _DAMAGED as error:
        raise BadInput(f"'{path}' is no .npz of plain arrays ({error}). Give {LAYOUTS}") from None
    given = ("train", "test", "val") if "val_images" in arrays else ("train", "test")
    splits = {split: _arrays(arrays, split, path) for split in given}
    _check_labels({split: labels for split, (_, labels) in splits.items()}, path)
    _check_numbering(splits["train"][1], path)
    rule = "by array name"
    if "val" in splits:
        images, labels = splits.pop("val")
        kept = spread(np.arange(len(labels)), validation)
        splits["validation"] = images[kept], labels[kept]
    else:
        splits["train"], splits["validation"], rule = _hold_out(splits["train"], validation)
    for images, _ in splits.values():
        _check_side(images.shape[1:3], size, path)
    if len({images.shape[3] for images, _ in splits.values()}) > 1:
        raise BadInput(f"the splits of '{path}' have different numbers of channels: store all in one way")
    classes = 1 + max(int(labels.max(initial=0)) for _, labels in splits.values())
    return _built(splits, classes, {"data": "npz", "split": rule}, path)


def _arrays(arrays: dict[str, np.ndarray], split: str, path: Path) -> Split:
    names = f"{split}_images", f"{split}_labels"
    missing = [name for name in names if name not in arrays]
    if missing:
        raise BadInput(f"'{path}' has no array {missing[0]}; it holds {', '.join(sorted(arrays))}. Give {LAYOUTS}")
    images, labels = (arrays[name] for name in names)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise BadInput(
            f"{names[0]} in '{path}' is {images.dtype} of shape {images.shape}: store uint8 of shape (N, S, S) or (N, S, S, C)"
        )
    if images.ndim == 4 and images.shape[1] <= _MOST_CHANNELS < images.shape[3]:
        raise BadInput(
            f"{names[0]} in '{path}' has shape {images.shape}, channels first: store channels last, "
            f"images.transpose(0, 2, 3, 1)"
        )
    if labels.shape not in ((len(images),), (len(images), 1)) or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(
            f"{names[1]} in '{path}' is {labels.dtype} of shape {labels.shape}: store one integer for each of the "
            f"{len(images)} images"
        )
    for label in (labels.min(initial=0), labels.max(initial=0)):
        if not 0 <= label <= np.iinfo(np.int32).max:
            raise BadInput(f"{names[1]} in '{path}' holds {label}: number the classes from 0")
    if not images.size:
        raise BadInput(f"{names[0]} in '{path}' has shape {images.shape}, no pixel: store at least one image")
    return images.reshape(*images.shape[:3], -1), labels.reshape(-1).astype(np.int32)


def _check_numbering(labels: np.ndarray, path: Path) -> None:
    """Refuse a label beyond the number of training images: it would make a model of mostly empty classes."""
    if labels.max() > len(labels):
        classes = len(np.unique(labels))
        raise BadInput(
            f"train_labels in '{path}' holds {labels.max()}, but only {len(labels)} images of {classes} classes: number the "
            f"classes from 0 to {classes - 1}"
        )


# --- CIFAR-10's binary version


def _load_cifar(root: Path, size: int, validation: int) -> ImageSet:
    """Records of a label byte and 3 x 32 x 32 bytes, colour by colour (Krizhevsky 2009)."""
    batches, test = sorted(root.glob("data_batch_*.bin")), root / "test_batch.bin"
    if not batches or not test.is_file():
        raise BadInput(f"'{root}' lacks {'test_batch.bin' if batches else 'data_batch_*.bin'}. Give {LAYOUTS}")
    _check_side((_CIFAR_SIDE, _CIFAR_SIDE), size, root)
    parts = [_cifar_batch(file) for file in batches]
    whole = np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])
    tested = _cifar_batch(test)
    _check_labels({"train": whole[1], "test": tested[1]}, root)
    train, held, rule = _hold_out(whole, validation)
    splits = {"train": train, "validation": held, "test": tested}
    return _built(splits, _CIFAR_CLASSES, {"data": "CIFAR-10, binary version", "split": rule}, root)


def _cifar_batch(file: Path) -> Split:
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise BadInput(f"'{file}' cannot be read ({error.strerror}): make it readable") from None
    if not len(content) or len(content) % _CIFAR_RECORD:
        raise BadInput(
            f"'{file}' has {len(content)} bytes, not a multiple of {_CIFAR_RECORD}: it is truncated or no CIFAR-10 batch, "
            f"download the binary version again"
        )
    records = content.reshape(-1, _CIFAR_RECORD)
    labels = records[:, 0].astype(np.int32)
    if labels.max() >= _CIFAR_CLASSES:
        raise BadInput(
            f"'{file}' has label {labels.max()}, but CIFAR-10 has 10 classes: download the binary version again"
        )
    images = records[:, 1:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


# --- what all layouts share


def _check_labels(labels: Mapping[str, np.ndarray], path: Path, names: Sequence[str] = ()) -> None:
    """Refuse fewer than two classes, and classes of other splits that are never trained.

    labels: (N,) of every split as the user gave them. names: of the classes, where they have any.
    """
    trained = np.unique(labels["train"])
    if len(trained) < 2:
        raise BadInput(
            f"the training images of '{path}' are of {len(trained)} class{'' if len(trained) == 1 else 'es'}; at least 2 are "
            f"needed: add images of others"
        )
    for split, found in labels.items():
        untrained = np.setdiff1d(found, trained)
        if len(untrained):
            label = f"class '{names[untrained[0]]}'" if names else f"label {untrained[0]}"
            raise BadInput(
                f"'{path}' has {split} images of {label}, but no training image of it: add some, or leave it out of {split}"
            )


def _hold_out(train: Split, validation: int) -> tuple[Split, Split, str]:
    """Training and validation images, as many of every class as there are, and the rule in words."""
    images, labels = train
    chosen = held_out(labels, min(validation / max(len(labels), 1), _MOST_HELD_OUT))
    rule = f"validation is {int(chosen.sum())} of the training images, by class and a fixed shuffle"
    return (images[~chosen], labels[~chosen]), (images[chosen], labels[chosen]), rule


def _built(splits: dict[str, Split], classes: int, info: Mapping[str, object], path: Path) -> ImageSet:
    for split in SPLITS:
        if not len(splits[split][1]):
            raise BadInput(f"'{path}' leaves no image for the {split} split: add some. Give {LAYOUTS}")
    _check_bytes(sum(images.nbytes for images, _ in splits.values()), path)
    return build(splits, classes, info)


def _check_side(found: tuple[int, ...], size: int, path: Path) -> None:
    if found == (size, size):
        return
    if found[0] != found[1]:
        raise BadInput(f"the images in '{path}' have {found[0]} x {found[1]} pixels: store square ones")
    raise BadInput(
        f"the images in '{path}' have {found[0]} x {found[1]} pixels, not {size} x {size}: set "
        f"workload.image_size={found[0]}"
    )


def _check_bytes(pixels: int, path: Path) -> None:
    if pixels > MOST_BYTES:
        raise BadInput(
            f"the images in '{path}' take {pixels / 2**30:.1f} GiB, more than {MOST_BYTES / 2**30:g}, and all must lie in "
            f"memory: lower workload.image_size or give fewer"
        )
