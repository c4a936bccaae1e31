"""Handwritten digits with a multilayer perceptron: the cheapest real classification task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.metrics.classification import error_rate

PIXELS = 64  # 8 x 8, flattened
CLASSES = 10
HELD_OUT = ("validation", "test")
_NARROW = 64  # up to this width a step of many trials on CPU gains from transposing a layer's inputs; above it loses
_HELD_OUT_PER_CLASS = 30  # images of every class in validation, and again in test


def _gaussian(gain: float) -> nnx.Initializer:
    """Variance gain / fan_in."""
    return nnx.initializers.variance_scaling(gain, "fan_in", "normal")


@jax.custom_vjp
def _product(inputs: Array, kernel: Array) -> Array:
    """(batch, fan_in) @ (fan_in, fan_out), whose weight gradient is fast where many small ones are taken at once on CPU."""
    return inputs @ kernel


def _forward(inputs: Any, kernel: Any) -> tuple[Array, tuple[Array, Array | None]]:
    """What a gradient needs: the kernel only where the inputs have one, which images have not."""
    return inputs.value @ kernel.value, (inputs.value, kernel.value if inputs.perturbed else None)


def _backward(saved: tuple[Array, Array | None], gradient: Array) -> tuple[Array | None, Array]:
    inputs, kernel = saved
    transposed = inputs.T
    if jax.default_backend() == "cpu" and max(inputs.shape[-1], gradient.shape[-1]) <= _NARROW:
        # XLA hands a batch of products whose left side is read transposed to Eigen, one at a time; once the transpose is
        # written out, all go through a kernel of its own, in half the time.
        transposed = jax.lax.optimization_barrier(transposed)
    return None if kernel is None else gradient @ kernel.T, transposed @ gradient


_product.defvjp(_forward, _backward, symbolic_zeros=True)


def _dot_general(inputs: Array, kernel: Array, dimensions: Any, **_: Any) -> Array:
    """`_product` in the form that nnx.Linear asks for, which calls it with the dimensions of a matrix product."""
    return _product(inputs, kernel)


class MLP(nnx.Module):
    """`depth` hidden layers of `width` ReLU units (gain 2: He et al. 2015) and a linear output (gain 1)."""

    def __init__(self, width: int, depth: int, *, rngs: nnx.Rngs) -> None:
        self.depth = depth
        for layer in range(depth):
            fan_in = width if layer else PIXELS
            linear = nnx.Linear(fan_in, width, kernel_init=_gaussian(2.0), dot_general=_dot_general, rngs=rngs)
            setattr(self, f"hidden_{layer}", linear)
        self.output = nnx.Linear(width, CLASSES, kernel_init=_gaussian(1.0), dot_general=_dot_general, rngs=rngs)

    def __call__(self, images: Array, tap: Tap = ignore) -> Array:
        """(batch, 64) -> logits (batch, 10)."""
        hidden = images
        for layer in range(self.depth):
            preactivation = getattr(self, f"hidden_{layer}")(hidden)
            tap(f"hidden_{layer}", preactivation)
            hidden = nnx.relu(preactivation)
        return self.output(hidden)


@dataclass(frozen=True)
class ImageMLP(Workload):
    """Digits of 8 x 8 pixels in 10 classes (the UCI optical digits that scikit-learn bundles, 1797 images).

    width, depth: of the hidden layers. label_smoothing: share of the target that is spread evenly over the
    classes, in training only (Szegedy et al. 2016, sec. 7). Validation and test hold 30 images of every class
    each, training the other 1197. attention_scale and residual_scale have no meaning here.
    """

    name: ClassVar[str] = "image_mlp"
    metric: ClassVar[Metric] = Metric("error_rate", "minimize", "fraction of images")

    label_smoothing: float = 0.0

    def validate(self) -> None:
        super().validate()
        if not 0.0 <= self.label_smoothing < 1.0:
            raise BadInput(f"workload.label_smoothing={self.label_smoothing} must be at least 0 and below 1")

    def load(self) -> Data:
        return _load_digits()

    def init(self, key: Array) -> Params:
        model = MLP(self.width, self.depth, rngs=nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`images` (batch, 64) and `labels` (batch,), drawn with replacement.

        Shuffled epochs would need the epoch's permutation in every step, as no step may depend on the one
        before: 140 us on a CPU core against 2 us, several times the rest of the step.
        """
        count = data["train_labels"].shape[0]
        rows = jax.random.randint(jax.random.fold_in(key, step), (self.batch_size,), 0, count)
        return {"images": data["train_images"][rows], "labels": data["train_labels"][rows]}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy in nats against the smoothed labels."""
        targets = optax.smooth_labels(jax.nn.one_hot(batch["labels"], CLASSES), self.label_smoothing)
        return jnp.mean(optax.softmax_cross_entropy(self._logits(params, batch["images"]), targets)), {}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`loss`: cross-entropy in nats, never smoothed. `error_rate`: fraction of wrong classes, and its standard error."""
        if f"{split}_labels" not in data:
            raise BadInput(f"image_mlp has no split '{split}'. Valid names: train, {', '.join(HELD_OUT)}.")
        labels = data[f"{split}_labels"]
        return error_rate(self._logits(params, data[f"{split}_images"]), labels)

    def trivial_metric(self) -> float:
        """Of always naming one class; held-out splits have as many images of each."""
        return 1.0 - 1.0 / CLASSES

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Preactivations of the hidden layers, (batch, width), and logits, (batch, 10)."""
        found: dict[str, Array] = {}
        logits = self._logits(params, batch["images"], found.__setitem__)
        return found | {"logits": logits}

    def matmul_flops(self) -> float:
        """2 B fan_in fan_out per layer forward, twice that backward; the images need no gradient."""
        first, hidden = PIXELS * self.width, (self.depth - 1) * self.width**2
        return 2.0 * self.batch_size * (2 * first + 3 * hidden + 3 * self.width * CLASSES)

    def _logits(self, params: Params, images: Array, tap: Tap = ignore) -> Array:
        return self.output_scale * nnx.merge(_graphdef(self.width, self.depth), params)(images, tap)


@functools.lru_cache(maxsize=64)
def _graphdef(width: int, depth: int) -> Any:
    """The model without its arrays, made once per shape."""
    return nnx.graphdef(nnx.eval_shape(lambda: MLP(width, depth, rngs=nnx.Rngs(0))))


@functools.lru_cache(maxsize=1)
def _load_digits() -> Data:
    from sklearn.datasets import load_digits  # a second to import, and only this family needs it

    digits = load_digits()
    rows = _split(digits.target)
    train = digits.data[rows["train"]]
    arrays: dict[str, np.ndarray] = {}
    for split, chosen in rows.items():
        arrays[f"{split}_images"] = ((digits.data[chosen] - train.mean()) / train.std()).astype(np.float32)
        arrays[f"{split}_labels"] = digits.target[chosen].astype(np.int32)
    info = {
        "source": "scikit-learn load_digits",
        "images": {split: len(chosen) for split, chosen in rows.items()},
        "split": f"{_HELD_OUT_PER_CLASS} images of every class in validation and test, by a fixed shuffle",
    }
    return Data(arrays=arrays, info=info, examples=len(train))


def _split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each split, stratified by class, the same in every process."""
    shuffled = np.argsort(np.random.default_rng(0).random(len(labels)))
    by_class = [shuffled[labels[shuffled] == c] for c in range(CLASSES)]
    n = _HELD_OUT_PER_CLASS
    parts = {"train": slice(2 * n, None), "validation": slice(n), "test": slice(n, 2 * n)}
    return {split: np.sort(np.concatenate([rows[part] for rows in by_class])) for split, part in parts.items()}
