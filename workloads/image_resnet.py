"""Image classification with a residual network with batch normalisation (He et al. 2016), AlgoPerf's ResNet at proxy size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, BadInput, Batch, Params, Tap, ignore
from workloads.convolution import Moments, Pass, average_moments, convolution, convolution_products
from workloads.image_classification import Forward, ImageClassification
from workloads.layers import matmul

STAGES = 3
_STATISTICS_IMAGES = 256  # training images that population statistics are taken from, at least a batch
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}


@dataclass(frozen=True)
class ImageResNet(ImageClassification):
    """A residual network of basic blocks.

    A 3 x 3 convolution of `width` channels, then three stages of `depth` blocks of two 3 x 3 convolutions each; the later
    stages begin with stride 2 and double the channels (He et al. 2016, sec. 4.2). The mean over the image and the output matrix
    follow. Convolutions have no biases, as batch normalisation would undo them.
    pre_activation: norm and activation in front of the convolutions (He et al. 2016b, "Identity mappings"). activation: relu,
    silu or gelu. bn_init_scale: initial gain of the last batch norm of every block (Goyal et al. 2017, sec. 5.1: 0).
    ghost_batch: batch statistics over every so many images (Hoffer et al. 2017); None for the whole batch.
    stem_stride: of the first convolution. attention_scale has no meaning here.

    There are no running averages. `evaluate` normalises with population statistics that it takes from a fixed set of training
    images, without augmentation, batch by batch at training's batch size ("precise batch norm", Wu & Johnson 2021, sec. 3), so
    that averaged weights are evaluated with statistics of their own.
    """

    name: ClassVar[str] = "image_resnet"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "silu": {"activation": "silu"},
        "gelu": {"activation": "gelu"},
        "large_bn_init": {"bn_init_scale": 8.0},
        "pre_activation": {"pre_activation": True, "bn_init_scale": 1.0},
    }
    default_steps: ClassVar[int] = 600

    width: int = 8
    depth: int = 1
    batch_size: int = 32
    data: str = "shapes:turn=180,clutter=4,noise=0.2"
    pre_activation: bool = False
    activation: str = "relu"
    bn_init_scale: float = 0.0
    ghost_batch: int | None = None
    stem_stride: int = 2

    def validate(self) -> None:
        super().validate()
        if self.activation not in ACTIVATIONS:
            raise BadInput(f"unknown workload.activation '{self.activation}'. Valid names: {', '.join(ACTIVATIONS)}.")
        if self.ghost_batch is not None and (self.ghost_batch < 1 or self.batch_size % self.ghost_batch):
            raise BadInput(
                f"workload.batch_size={self.batch_size} is not divisible by workload.ghost_batch={self.ghost_batch}; choose a "
                f"ghost batch that divides it"
            )
        if self.stem_stride < 1:
            raise BadInput(f"workload.stem_stride={self.stem_stride} must be at least 1")
        if self.pre_activation and self.activation == "relu" and self.bn_init_scale == 0.0:
            raise BadInput(
                "workload.bn_init_scale=0 leaves the blocks of workload.pre_activation=true without a gradient, as their "
                "last norm feeds a relu; set workload.bn_init_scale=1"
            )

    def init(self, key: Array) -> Params:
        """Normal with variance 2 / fan-in (He et al. 2015), 1 / fan-in for shortcuts; biases and the output begin at zero."""
        keys = iter(jax.random.split(key, 1 + 3 * STAGES * self.depth))

        def kernel(size: int, inputs: int, outputs: int, gain: float = 2.0) -> Array:
            return jax.random.normal(next(keys), (size, size, inputs, outputs)) * (gain / (size**2 * inputs)) ** 0.5

        def norm(channels: int, gain: float = 1.0) -> Params:
            return {"gain": jnp.full(channels, gain, jnp.float32), "bias": jnp.zeros(channels)}

        last = self._channels(STAGES - 1)
        params: dict[str, Params] = {
            "stem": kernel(3, self.channels, self.width),
            "output": jnp.zeros((last, self.classes)),
            "output_bias": jnp.zeros(self.classes),
        }
        params["final_norm" if self.pre_activation else "stem_norm"] = norm(last if self.pre_activation else self.width)
        for stage, block, inputs, outputs, stride in self._blocks():
            entry = {
                "conv_0": kernel(3, inputs, outputs),
                "norm_0": norm(inputs if self.pre_activation else outputs),
                "conv_1": kernel(3, outputs, outputs),
                "norm_1": norm(outputs, self.bn_init_scale),
            }
            if inputs != outputs or stride > 1:
                entry["shortcut"] = kernel(1, inputs, outputs, 1.0)
                if not self.pre_activation:
                    entry["shortcut_norm"] = norm(outputs)
            params[f"stage_{stage}_block_{block}"] = entry
        return params

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        return self.cross_entropy(self.logits(params, batch["images"]), batch["labels"]), {}

    def predictor(self, params: Params, data: Mapping[str, Array]) -> Forward:
        """The network with population statistics instead of a batch's own."""
        moments = self.population_moments(params, data)
        return lambda images: self._forward(params, images, Pass(given=moments))

    def population_moments(self, params: Params, data: Mapping[str, Array]) -> Moments:
        """Mean and variance of what every batch norm sees, by name; of batches spread evenly over the training images."""
        count = -(-_STATISTICS_IMAGES // self.batch_size) * self.batch_size
        rows = np.linspace(0, data["train_labels"].shape[0] - 1, count).round().astype(np.int32)

        def one_batch(rows: Array) -> Moments:
            run = Pass(ghost=self.ghost_batch)
            self._forward(params, self.normalised(data, "train", rows), run)
            return run.found

        shuffled = np.ascontiguousarray(rows.reshape(self.batch_size, -1).T)  # every batch spans the training images
        found = jax.lax.map(one_batch, jnp.asarray(shuffled))
        return {name: average_moments(*moments) for name, moments in found.items()}

    def logits(self, params: Params, images: Array, tap: Tap = ignore) -> Array:
        return self._forward(params, images, Pass(ghost=self.ghost_batch, tap=_flattened(tap)))

    def _forward(self, params: Params, images: Array, run: Pass) -> Array:
        """(B, S, S, C) -> logits (B, classes) in float32. Taps: what convolutions put out, before norms."""
        activate = ACTIVATIONS[self.activation]
        x = convolution(images, params["stem"], self.stem_stride, product=jnp.matmul)
        run.tap("stem", x)
        if not self.pre_activation:
            x = activate(run.norm("stem", x, params["stem_norm"]))
        block = self._pre_activated if self.pre_activation else self._post_activated
        for stage, index, _, _, stride in self._blocks():
            name = f"stage_{stage}_block_{index}"
            x = block(name, params[name], x, stride, run)
        if self.pre_activation:
            x = activate(run.norm("final", x, params["final_norm"]))
        pooled = jnp.mean(x, axis=(1, 2))
        logits = matmul(pooled, params["output"]) + params["output_bias"][None, :]
        return self.output_scale * logits.astype(jnp.float32)

    def _post_activated(self, name: str, block: Params, x: Array, stride: int, run: Pass) -> Array:
        activate = ACTIVATIONS[self.activation]
        inner = _tapped(run, f"{name}_conv_0", convolution(x, block["conv_0"], stride))
        inner = activate(run.norm(f"{name}_0", inner, block["norm_0"]))
        outer = _tapped(run, f"{name}_conv_1", convolution(inner, block["conv_1"]))
        branch = run.norm(f"{name}_1", outer, block["norm_1"])
        if "shortcut" in block:
            x = _tapped(run, f"{name}_shortcut", convolution(x, block["shortcut"], stride))
            x = run.norm(f"{name}_shortcut", x, block["shortcut_norm"])
        return activate(x + self._branch_scale(x) * branch)

    def _pre_activated(self, name: str, block: Params, x: Array, stride: int, run: Pass) -> Array:
        activate = ACTIVATIONS[self.activation]
        ready = activate(run.norm(f"{name}_0", x, block["norm_0"]))
        inner = _tapped(run, f"{name}_conv_0", convolution(ready, block["conv_0"], stride))
        inner = activate(run.norm(f"{name}_1", inner, block["norm_1"]))
        branch = _tapped(run, f"{name}_conv_1", convolution(inner, block["conv_1"]))
        if "shortcut" in block:
            x = _tapped(run, f"{name}_shortcut", convolution(ready, block["shortcut"], stride))
        return x + self._branch_scale(x) * branch

    def _branch_scale(self, x: Array) -> Array:
        return jnp.asarray(self.residual_scale, x.dtype)

    def _channels(self, stage: int) -> int:
        return self.width * 2**stage

    def _blocks(self) -> list[tuple[int, int, int, int, int]]:
        """Stage, block, channels in, channels out and stride of every block, in order."""
        found, inputs = [], self.width
        for stage in range(STAGES):
            for block in range(self.depth):
                outputs, stride = self._channels(stage), 2 if stage and not block else 1
                found.append((stage, block, inputs, outputs, stride))
                inputs = outputs
        return found

    def matmul_flops(self) -> float:
        """A convolution is 2 FLOPs per output and kernel entry; backward twice that, but no gradient of the images."""
        batch, side = self.batch_size, self.image_size
        total = 2.0 * convolution_products(batch, side, self.stem_stride, 3, self.channels, self.width)
        side = -(-side // self.stem_stride)
        for _, _, inputs, outputs, stride in self._blocks():
            after = -(-side // stride)
            total += 3.0 * convolution_products(batch, side, stride, 3, inputs, outputs)
            total += 3.0 * convolution_products(batch, after, 1, 3, outputs, outputs)
            if inputs != outputs or stride > 1:
                total += 3.0 * convolution_products(batch, side, stride, 1, inputs, outputs)
            side = after
        return total + 3.0 * 2.0 * batch * self._channels(STAGES - 1) * self.classes


def _tapped(run: Pass, name: str, x: Array) -> Array:
    run.tap(name, x)
    return x


def _flattened(tap: Tap) -> Tap:
    """Activations of images told as (examples, features)."""
    return lambda name, x: tap(name, x.reshape(-1, x.shape[-1]))
