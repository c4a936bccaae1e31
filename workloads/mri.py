"""A U-Net that repairs magnetic resonance images of which only some columns of k-space were measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.convolution import convolution, convolution_products
from workloads.data import kspace, phantoms
from workloads.data.corpus import SPLITS
from workloads.layers import matmul
from workloads.metrics.ssim import WINDOW, ssim

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "tanh": jnp.tanh,
}
NORMS = ("instance", "layer")
_NORM_EPS = 1e-5
_CLIP = 6.0  # standard deviations of the input
_ARRAYS = ("inputs", "targets", "mean", "std", "peak")
_CHUNK = 32  # images that are evaluated at once
_LEAST_SPREAD = 1e-6  # of an image, as a share of its peak: it may be all black


@dataclass(frozen=True)
class MRI(Workload):
    """Reconstruction with AlgoPerf's fastMRI model (Dahl et al. 2023; Zbontar et al. 2018): a U-Net (Ronneberger et al. 2015)
    of two 3 x 3 convolutions a level, each followed by instance norm and leaky ReLU (0.2), mean pooling on the way down,
    2 x 2 transposed convolutions on the way up, and a 1 x 1 convolution last. No dropout, as AlgoPerf's default.

    The input is the zero-filled magnitude image, normalised by its mean and standard deviation and clipped at 6 of these;
    the target is normalised alike. The loss is the mean absolute difference.
    data: "generated" (workloads/data/phantoms.py) or path:FOLDER of fastMRI files (workloads/data/kspace.py). data_seed: of
    generated images, and of the masks: every image has its own, which never changes. train_images, validation_images,
    test_images: how many, for files at most. image_size: S, pixels along a side, of generated images at most the columns
    of the photographs that a split has. acceleration: one in so many columns of k-space is measured.
    width: channels of the first level, doubled by each one below. depth: levels below the first. activation: leaky_relu or
    tanh. norm: instance, or layer (over pixels and channels, with gain and bias). residual_scale and attention_scale have no
    meaning here.
    """

    name: ClassVar[str] = "mri"
    metric: ClassVar[Metric] = Metric("ssim", "maximize", "structural similarity")
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tanh": {"activation": "tanh"},
        "layernorm": {"norm": "layer"},
        "model_size": {"width": 16, "depth": 1},  # as AlgoPerf's, twice as wide and a level less deep
    }
    default_steps: ClassVar[int] = 1000

    width: int = 8
    depth: int = 2
    batch_size: int = 8
    data: str = "generated"
    data_seed: int = 0
    train_images: int = 4096
    validation_images: int = 128
    test_images: int = 2048
    image_size: int = 32
    acceleration: int = 4
    activation: str = "leaky_relu"
    norm: str = "instance"

    def validate(self) -> None:
        super().validate()
        if self.activation not in ACTIVATIONS:
            raise BadInput(
                f"unknown workload.activation '{self.activation}'. Valid names: {', '.join(sorted(ACTIVATIONS))}"
            )
        if self.norm not in NORMS:
            raise BadInput(f"unknown workload.norm '{self.norm}'. Valid names: {', '.join(NORMS)}")
        if self.image_size < WINDOW or self.image_size % 2**self.depth:
            raise BadInput(
                f"workload.image_size={self.image_size} must be at least {WINDOW}, the window of SSIM, and divisible by "
                f"2**workload.depth={2**self.depth}, as every level halves it"
            )
        if self.image_size == 2**self.depth and self.norm == "instance":
            raise BadInput(
                f"workload.depth={self.depth} leaves one pixel of workload.image_size={self.image_size}, whose instance norm "
                f"is zero: use a smaller depth or larger images"
            )
        if self.data == "generated" and self.image_size > phantoms.largest_size():
            raise BadInput(
                f"workload.image_size={self.image_size} must be at most {phantoms.largest_size()} with generated data, of "
                f"which some are patches of photographs: use smaller images, or workload.data=path:FOLDER"
            )
        centre = kspace.centre_columns(self.image_size)
        most = self.image_size // (centre.stop - centre.start)
        if not 1 <= self.acceleration <= most:
            raise BadInput(
                f"workload.acceleration={self.acceleration} must be from 1 to {most}, where the centre alone is left"
            )
        for field, least in (("data_seed", 0), ("train_images", 2), ("validation_images", 2), ("test_images", 2)):
            if getattr(self, field) < least:
                raise BadInput(f"workload.{field}={getattr(self, field)} must be at least {least}")

    def load(self) -> Data:
        return _prepared(*self.data_key()[1:])

    def data_key(self) -> tuple[Any, ...]:
        counts = self.train_images, self.validation_images, self.test_images
        return type(self), self.data, self.data_seed, self.image_size, self.acceleration, counts

    def init(self, key: Array) -> Params:
        """Kernels (height, width, in, out), normal with standard deviation fan-in^-1/2."""
        keys = (jax.random.fold_in(key, number) for number in range(2**31))

        def kernel(size: int, inputs: int, outputs: int) -> Params:
            std = (inputs * (1 if size == 2 else size**2)) ** -0.5  # one entry of a 2 x 2 kernel reaches each output
            made = {"kernel": jax.random.normal(next(keys), (size, size, inputs, outputs)) * std}
            if self.norm == "layer" and size > 1:
                made |= {"gain": jnp.ones(outputs), "bias": jnp.zeros(outputs)}
            return made

        params: dict[str, Params] = {}
        for level, (inputs, channels) in enumerate(self._down()):
            params[f"down_{level}"] = {"first": kernel(3, inputs, channels), "second": kernel(3, channels, channels)}
        for level, channels in self._up():
            convolutions = {"first": kernel(3, 2 * channels, channels), "second": kernel(3, channels, channels)}
            params[f"up_{level}"] = {"transposed": kernel(2, 2 * channels, channels), **convolutions}
        params["output"] = {**kernel(1, self.width, 1), "bias": jnp.zeros(1)}
        return params

    def _down(self) -> list[tuple[int, int]]:
        """Channels in and out of each level, the lowest last."""
        channels = [self.width * 2**level for level in range(self.depth + 1)]
        return list(zip([1, *channels], channels, strict=False))

    def _up(self) -> list[tuple[int, int]]:
        """Level and its channels, the first level last."""
        return [(level, self.width * 2**level) for level in reversed(range(self.depth))]

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`inputs` and `targets` (B, S, S), drawn with replacement."""
        count = data["train_inputs"].shape[0]
        rows = jax.random.randint(jax.random.fold_in(key, step), (self.batch_size,), 0, count)
        return {name: data[f"train_{name}"][rows] for name in ("inputs", "targets")}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Mean absolute difference, in standard deviations of the input."""
        return jnp.mean(jnp.abs(self.images(params, batch["inputs"]) - batch["targets"])), {}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`loss`, and `ssim`, see workloads/metrics/ssim.py: mean over the images, measured in their own units with the peak of
        each (fastMRI: of its volume) as data range. `ssim_stderr`: its standard error as if images were independent, which
        slices of one volume are not: there it is too small.
        """
        examples = {name: data[f"{split}_{name}"] for name in _ARRAYS}
        count = examples["inputs"].shape[0]
        chunk = min(_CHUNK, count)

        def one_chunk(examples: Batch) -> tuple[Array, Array]:
            found = self.images(params, examples["inputs"])
            wide = {name: examples[name][:, None, None] for name in ("mean", "std")}
            own, true = (image * wide["std"] + wide["mean"] for image in (found, examples["targets"]))
            return jnp.mean(jnp.abs(found - examples["targets"]), axis=(1, 2)), ssim(own, true, examples["peak"])

        def chunks(x: Array) -> Array:
            padded = jnp.pad(x, [(0, -count % chunk)] + [(0, 0)] * (x.ndim - 1), mode="edge")
            return padded.reshape(-1, chunk, *x.shape[1:])

        losses, similarities = (x.reshape(-1)[:count] for x in jax.lax.map(one_chunk, jax.tree.map(chunks, examples)))
        stderr = jnp.std(similarities, ddof=1) / count**0.5
        return {"loss": jnp.mean(losses), "ssim": jnp.mean(similarities), "ssim_stderr": stderr}

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """What every convolution puts out, before its norm, (pixels, channels); the image last, (pixels, 1)."""
        found: dict[str, Array] = {}

        def tap(name: str, x: Array) -> None:
            found[name] = x.reshape(-1, x.shape[-1])

        images = self.images(params, batch["inputs"], tap)
        return found | {"images": images.reshape(-1, 1)}

    def images(self, params: Params, inputs: Array, tap: Tap = ignore) -> Array:
        """(B, S, S) -> (B, S, S), float32."""
        x = inputs[..., None]
        kept = []
        for level in range(self.depth + 1):
            if level:
                kept.append(x)
                x = _halved(x)
            x = self._block(params[f"down_{level}"], x, f"down_{level}", tap, spared=level == 0)
        for level, _ in self._up():
            block = params[f"up_{level}"]
            doubled = _doubled(x, block["transposed"]["kernel"])
            tap(f"up_{level}_transposed", doubled)
            x = jnp.concatenate([self._norm(block["transposed"], doubled), kept.pop()], axis=3)
            x = self._block(block, x, f"up_{level}", tap)
        images = convolution(x, params["output"]["kernel"]) + params["output"]["bias"][None, None, None]
        return (self.output_scale * images)[..., 0].astype(jnp.float32)

    def _block(self, block: Params, x: Array, name: str, tap: Tap, spared: bool = False) -> Array:
        """Two convolutions. spared: the inputs need no gradient."""
        for which in ("first", "second"):
            product = jnp.matmul if spared and which == "first" else matmul
            x = convolution(x, block[which]["kernel"], product=product)
            tap(f"{name}_{which}", x)
            x = self._norm(block[which], x)
        return x

    def _norm(self, own: Params, x: Array) -> Array:
        """Normalise each image over its pixels, or over pixels and channels, and apply the activation."""
        axes = (1, 2) if self.norm == "instance" else (1, 2, 3)
        wide = x.astype(jnp.float32)
        away = wide - jnp.mean(wide, axis=axes, keepdims=True)
        x = (away * jax.lax.rsqrt(jnp.mean(jnp.square(away), axis=axes, keepdims=True) + _NORM_EPS)).astype(x.dtype)
        if self.norm == "layer":
            x = x * own["gain"][None, None, None] + own["bias"][None, None, None]
        return ACTIVATIONS[self.activation](x)

    def matmul_flops(self) -> float:
        """Forward as `convolution_products` counts, backward twice; the images need no gradient."""
        total, batch = 0.0, self.batch_size
        for level, (inputs, channels) in enumerate(self._down()):
            count = functools.partial(convolution_products, batch, self.image_size // 2**level, 1)
            total += (2 if level == 0 else 3) * count(3, inputs, channels) + 3 * count(3, channels, channels)
        for level, channels in self._up():
            count = functools.partial(convolution_products, batch, self.image_size // 2**level, 1)
            total += 3 * (
                count(1, 2 * channels, channels) + count(3, 2 * channels, channels) + count(3, channels, channels)
            )
        return total + 3 * convolution_products(batch, self.image_size, 1, 1, self.width, 1)

    def trivial_metric(self, split: str = "validation") -> float:
        """SSIM of the zero-filled images, which is what is known before anything is learnt.

        A predictor that looks at no input says little here: its one image is like none of the others.
        """
        arrays = self.load().arrays
        inputs, targets, mean, std, peak = (arrays[f"{split}_{name}"] for name in _ARRAYS)
        zero_filled, true = (image * std[:, None, None] + mean[:, None, None] for image in (inputs, targets))
        return float(np.mean(jax.jit(ssim)(zero_filled, true, peak)))

    def oracle_metric(self) -> float:
        """1: fully sampled, an image is its target."""
        return 1.0


def _halved(x: Array) -> Array:
    """Means of 2 x 2 pixels: (B, S, S, C) -> (B, S / 2, S / 2, C)."""
    batch, side, _, channels = x.shape
    return jnp.mean(x.reshape(batch, side // 2, 2, side // 2, 2, channels), axis=(2, 4))


def _doubled(x: Array, kernel: Array) -> Array:
    """Transposed convolution of stride 2: (B, S, S, in) by (2, 2, in, out) -> (B, 2 S, 2 S, out)."""
    batch, side, _, inputs = x.shape
    outputs = kernel.shape[3]
    made = matmul(x.reshape(-1, inputs), jnp.transpose(kernel, (2, 0, 1, 3)).reshape(inputs, 4 * outputs))
    by_place = jnp.swapaxes(made.reshape(batch * side, side, 2, 2 * outputs), 1, 2)
    return by_place.reshape(batch, 2 * side, 2 * side, outputs)


def _prepared(data: str, seed: int, size: int, acceleration: int, counts: tuple[int, ...]) -> Data:
    if data == "generated":
        return _arrays_of_generated(seed, size, acceleration, counts)
    if not data.startswith("path:"):
        raise BadInput(f"unknown workload.data '{data}'. Valid: generated, or path:FOLDER of fastMRI files")
    folder = Path(data.removeprefix("path:").strip()).expanduser()
    return _arrays_of_files(kspace.stamps(folder), folder, seed, size, acceleration, counts)


@functools.lru_cache(maxsize=4)
def _arrays_of_generated(seed: int, size: int, acceleration: int, counts: tuple[int, ...]) -> Data:
    return _arrays(phantoms.generate(seed, size, counts), seed, acceleration)


@functools.lru_cache(maxsize=4)
def _arrays_of_files(
    stamps: tuple[kspace.Stamp, ...], folder: Path, seed: int, size: int, acceleration: int, counts: tuple[int, ...]
) -> Data:
    return _arrays(kspace.load_folder(folder, size, dict(zip(SPLITS, counts, strict=True))), seed, acceleration)


def _arrays(scans: kspace.ScanSet, seed: int, acceleration: int) -> Data:
    arrays: dict[str, np.ndarray] = {}
    for stream, split in enumerate(SPLITS):
        chosen = scans.splits[split]
        rng = np.random.default_rng([seed, stream, acceleration])
        mask = kspace.masks(rng, len(chosen.peak), chosen.images.shape[2], acceleration)
        inputs = kspace.zero_filled(chosen.images, mask)
        least = np.maximum(_LEAST_SPREAD * chosen.peak, np.finfo(np.float32).tiny)
        mean, std = inputs.mean(axis=(1, 2)), np.maximum(inputs.std(axis=(1, 2)), least)
        for name, image in (("inputs", inputs), ("targets", np.abs(chosen.images))):
            normed = (image - mean[:, None, None]) / std[:, None, None]
            arrays[f"{split}_{name}"] = np.clip(normed, -_CLIP, _CLIP).astype(np.float32)
        arrays |= {f"{split}_mean": mean, f"{split}_std": std, f"{split}_peak": chosen.peak}
    info = {**scans.info, "acceleration": acceleration, "mask_seed": seed}
    return Data(arrays, info, examples=len(scans.splits["train"].peak))
