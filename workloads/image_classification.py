"""What the image families share: data, augmentation, loss and evaluation. A family adds its network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.data.image_set import SPLITS, ImageSet
from workloads.data.images import load_images
from workloads.metrics.classification import error_rate

_PART = 256  # images whose pixels are summed at a time

Forward = Callable[[Array], Array]
"""Normalised images (B, S, S, C) -> logits (B, classes)."""


@dataclass(frozen=True)
class ImageClassification(Workload):
    """Images of S x S pixels and C channels, one class each.

    data: "shapes" (generated; 16 classes), "digits", or path: and the user's own (see workloads.data.images).
    image_size: S. crop_padding, flip: training images are shifted by up to so many pixels, the colour mean moving in, and
    mirrored every second time, as in AlgoPerf's CIFAR-10 and ImageNet workloads (He et al. 2016, sec. 4.2);
    mirroring must keep the label. label_smoothing: share of the target that is spread evenly over the classes, in training only
    (Szegedy et al. 2016, sec. 7). validation_images: size of the validation split, at most.
    Images are centred and scaled per channel by the training images' mean and standard deviation.
    """

    metric: ClassVar[Metric] = Metric("error_rate", "minimize", "fraction of images")

    data: str = "shapes"
    image_size: int = 32
    crop_padding: int = 4
    flip: bool = True
    label_smoothing: float = 0.0
    validation_images: int = 512

    @property
    def classes(self) -> int:
        return self._images().classes

    @property
    def channels(self) -> int:
        return self._images().channels

    def validate(self) -> None:
        super().validate()
        for field in ("image_size", "validation_images"):
            if getattr(self, field) < 1:
                raise BadInput(f"workload.{field}={getattr(self, field)} must be at least 1")
        if self.crop_padding < 0 or self.crop_padding >= self.image_size:
            raise BadInput(
                f"workload.crop_padding={self.crop_padding} must be at least 0 and below workload.image_size"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise BadInput(f"workload.label_smoothing={self.label_smoothing} must be at least 0 and below 1")

    def load(self) -> Data:
        images = self._images()
        if self.flip and not images.mirrors:
            raise BadInput(f"workload.data={self.data}: a mirror image has another label here; set workload.flip=false")
        return _data(images)

    def data_key(self) -> Hashable:
        return "images", self.data, self.image_size, self.validation_images

    def trivial_metric(self) -> float:
        """Error rate of the one answer that is right most often."""
        counts = np.bincount(self._images().splits["validation"][1])
        return 1.0 - float(counts.max() / counts.sum())

    def oracle_metric(self) -> float | None:
        """Generated shapes: the share of planted wrong labels, 0 by default. Else unknown."""
        return self._images().oracle

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`images` (B, S, S, C) float32, normalised and augmented, and `labels` (B,); drawn with replacement."""
        rows, shifts, mirrored = self._drawn(jax.random.fold_in(key, step), data["train_labels"].shape[0])
        images = self.normalised(data, "train", rows)
        if self.crop_padding:
            images = shifted(images, shifts, self.crop_padding)
        if self.flip:
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        return {"images": images, "labels": data["train_labels"][rows]}

    def _drawn(self, key: Array, count: int) -> tuple[Array, Array, Array]:
        """Rows below `count` (B,), shifts (B, 2) and whether to mirror (B, 1, 1, 1).

        A loop, whose results are written to memory: XLA would draw the same few numbers again for every pixel, which takes
        48 ms a batch on a CPU core and not 0.2. An optimization barrier does not keep it from that.
        """
        limits = jnp.array([count, 2 * self.crop_padding + 1, 2])

        def draw(one: tuple[Array, Array]) -> Array:
            return jax.random.randint(one[0], (self.batch_size, 2), 0, one[1])

        rows, shifts, mirrored = jax.lax.map(draw, (jax.random.split(key, 3), limits))
        return rows[:, 0], shifts, (mirrored[:, :1] == 1)[..., None, None]

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`loss`: cross-entropy in nats, never smoothed. `error_rate`: fraction of wrong classes, and its standard error."""
        if split not in SPLITS:
            raise BadInput(f"{self.name} has no split '{split}'. Valid names: {', '.join(SPLITS)}.")
        labels = data[f"{split}_labels"]
        logits = self._over(data, np.arange(len(labels)), self.predictor(params, data), split)
        return error_rate(logits, labels)

    def predictor(self, params: Params, data: Mapping[str, Array]) -> Forward:
        """The network as it is evaluated. data: the arrays of `load`, of which statistics may be taken."""
        return lambda images: self.logits(params, images)

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """What the family taps, (examples, features), and logits, (B, classes)."""
        found: dict[str, Array] = {}
        logits = self.logits(params, batch["images"], found.__setitem__)
        return found | {"logits": logits}

    def logits(self, params: Params, images: Array, tap: Tap = ignore) -> Array:
        """(B, S, S, C) normalised images -> (B, classes) logits in float32, as at training."""
        raise NotImplementedError

    def cross_entropy(self, logits: Array, labels: Array) -> Array:
        """Mean training loss in nats, against the smoothed labels."""
        targets = optax.smooth_labels(jax.nn.one_hot(labels, self.classes), self.label_smoothing)
        return jnp.mean(optax.softmax_cross_entropy(logits, targets))

    def normalised(self, data: Mapping[str, Array], split: str, rows: Array) -> Array:
        """The images at `rows` (N,) of a split, (N, S, S, C) float32."""
        return (data[f"{split}_images"][rows].astype(jnp.float32) - data["mean"]) * data["inverse_deviation"]

    def _over(self, data: Mapping[str, Array], rows: np.ndarray, function: Forward, split: str) -> Array:
        """`function` of the images at `rows` of a split, a batch at a time, as one array."""
        chunks = -(-len(rows) // self.batch_size)
        padded = np.concatenate([rows, np.repeat(rows[-1:], chunks * self.batch_size - len(rows))])

        def one(rows: Array) -> Array:
            return function(self.normalised(data, split, rows))

        found = jax.lax.map(one, jnp.asarray(padded.reshape(chunks, self.batch_size)))
        return found.reshape(-1, *found.shape[2:])[: len(rows)]

    def _images(self) -> ImageSet:
        return load_images(self.data, self.image_size, self.validation_images)


def shifted(images: Array, shifts: Array, padding: int) -> Array:
    """Random crops: `images` (B, S, S, C) in a frame of `padding` zeros, cut to S x S from row and column `shifts` (B, 2)."""
    frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))

    def cut(image: Array, shift: Array) -> Array:
        return jax.lax.dynamic_slice(image, (shift[0], shift[1], 0), images.shape[1:])

    return jax.vmap(cut)(jnp.pad(images, frame), shifts)


@functools.lru_cache(maxsize=4)
def _data(images: ImageSet) -> Data:
    arrays: dict[str, np.ndarray] = {}
    for split, (pixels, labels) in images.splits.items():
        arrays |= {f"{split}_images": pixels, f"{split}_labels": labels}
    return Data(arrays | _moments(arrays["train_images"]), images.info, examples=len(arrays["train_labels"]))


def _moments(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and 1 / standard deviation of every channel, (1, 1, 1, C) float32; one level is the least deviation."""
    count, total, squares = 0, 0.0, 0.0
    for part in np.array_split(pixels, -(-len(pixels) // _PART)):
        levels = part.reshape(-1, part.shape[-1]).astype(np.float64)
        count, total, squares = count + len(levels), total + levels.sum(axis=0), squares + np.square(levels).sum(axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 1.0))
    moments = {"mean": mean, "inverse_deviation": 1.0 / deviation}
    return {name: value.astype(np.float32).reshape(1, 1, 1, -1) for name, value in moments.items()}
