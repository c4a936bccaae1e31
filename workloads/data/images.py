"""Labelled images by name or path. `load_images` is the entry point; a data set is written as

shapes[:train=2048,label_noise=0.1]   generated textured shapes (textured_shapes.py)
digits                                the handwritten digits that scikit-learn bundles, enlarged
path:FOLDER_OR_NPZ                    the user's own images (image_files.py)
"""

from __future__ import annotations

import difflib
import functools

import numpy as np

from workloads.base import BadInput
from workloads.data import image_files, textured_shapes
from workloads.data.corpus import identity
from workloads.data.image_set import SPLITS, ImageSet, Split, build, held_out, spread

NAMES = ("shapes", "digits")
_DIGITS_HELD_OUT = 1 / 6  # in validation, and again in test: 30 images of every class


@functools.lru_cache(maxsize=4)
def load_images(data: str, size: int, validation: int) -> ImageSet:
    """The images written as `data` (see the module's docstring), read once per process.

    size: pixels along a side: shapes are drawn at, digits and folders of images scaled to this size; arrays must have it.
    validation: images in the validation split, fewer where there are not so many.
    Raises BadInput if the data set is unknown, missing, unreadable, malformed or of another size.
    """
    kind, _, rest = data.partition(":")
    if kind == "shapes":
        return textured_shapes.load(rest, size, validation)
    if data == "digits":
        return _digits(size, validation)
    if kind == "path":
        return image_files.load(rest.strip(), size, validation)
    close = difflib.get_close_matches(kind, NAMES, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    raise BadInput(f"unknown workload.data '{data}'. {hint}Valid names: {', '.join(NAMES)}, or path:FOLDER_OR_NPZ.")


def _digits(size: int, validation: int) -> ImageSet:
    from sklearn.datasets import load_digits  # a second to import

    digits = load_digits()
    labels = digits.target.astype(np.int32)
    images = _enlarged(digits.images.astype(np.float32) * (255 / 16), size)
    test = held_out(labels, _DIGITS_HELD_OUT)
    rest = np.flatnonzero(~test)
    chosen = held_out(labels[rest], _DIGITS_HELD_OUT / (1 - _DIGITS_HELD_OUT))
    rows = {"train": rest[~chosen], "validation": spread(rest[chosen], validation), "test": np.flatnonzero(test)}
    splits: dict[str, Split] = {split: (images[rows[split]], labels[rows[split]]) for split in SPLITS}
    info = {
        "data": "digits",
        "source": "scikit-learn load_digits, enlarged by linear interpolation",
        "sha256": identity("digits", 1, size=size, validation=validation),
        "split": "a sixth of every class in validation and in test, by a fixed shuffle",
    }
    return build(splits, 10, info, mirrors=False)


def _enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """(N, P, P) -> (N, size, size, 1) uint8, linear between the centres of the pixels."""
    pixels = images.shape[1]
    centres = np.clip((np.arange(size) + 0.5) * pixels / size - 0.5, 0, pixels - 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(pixels)[None, :])).astype(np.float32)
    return np.rint(weights @ images @ weights.T).astype(np.uint8)[..., None]
