"""Click-through rate prediction with a deep learning recommendation model (DLRM, Naumov et al. 2019; AlgoPerf's criteo1tb)."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.data import clicks
from workloads.data.clicks import Clicks, load_clicks
from workloads.layers import matmul
from workloads.metrics.finite import where_finite
from workloads.metrics.parts import in_parts
from workloads.metrics.ranking import area_under_roc, with_standard_error

_EVALUATED_TOGETHER = 4096  # rows
_NORM_EPS = 1e-6
COLUMNS = ("categories", "counts", "labels")


@dataclass(frozen=True)
class CTR(Workload):
    """Click or no click, from F categories and D counts (by default generated ones, whose best cross-entropy is known).

    width: W, of every embedding; the units of the MLPs are multiples of it. depth: hidden layers of either MLP. They narrow
    as AlgoPerf's do: the bottom one (on the counts) by 4 W, 2 W, W, the top one by 8 W, 8 W, 4 W, 2 W, of which a shallower
    one has the last. Dot products of all pairs of the bottom MLP's output and the embeddings, each with itself too,
    enter the top MLP beside that output.
    data: "generated", or path: a file, folder or glob of Criteo's TSV or Parquet. generator_seed: of the generated model.
    hash_buckets: rows in a file's table for each of its 26 fields.
    layer_norm: normalise embeddings and hidden layers (after the ReLU). resnet: layers of 2 W with skip connections, on the
    counts and then on their output beside all embeddings; no dot products. embedding_init: entries begin uniform between 0
    and this, None for (number of rows)^-1/2.
    attention_scale multiplies the dot products, beside W^-1/2; residual_scale the branches of resnet. Biases begin at 0.
    Shapes below: B batch, V rows of the embedding table.
    """

    name: ClassVar[str] = "ctr"
    metric: ClassVar[Metric] = Metric("cross_entropy", "minimize", "nats/example")
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "layernorm": {"layer_norm": True},
        "resnet": {"resnet": True},
        "embed_init": {"embedding_init": 1.0},
    }
    default_steps: ClassVar[int] = 2000

    width: int = 32
    depth: int = 3
    batch_size: int = 256
    data: str = "generated"
    generator_seed: int = 0
    hash_buckets: int = 1000
    layer_norm: bool = False
    resnet: bool = False
    embedding_init: float | None = None

    @property
    def head_size(self) -> int:
        """Of the vectors whose dot products are taken."""
        return self.width

    def validate(self) -> None:
        super().validate()
        if self.embedding_init is not None and not 0.0 < self.embedding_init < float("inf"):
            raise BadInput(f"workload.embedding_init={self.embedding_init} must be positive and finite, or null")

    def load(self) -> Data:
        """`SPLIT_categories` (N, F) rows of the embedding table, `SPLIT_counts` (N, D) logarithms, `SPLIT_labels` (N,)."""
        log = self._log()
        columns = {"categories": log.categories, "counts": log.counts, "labels": log.labels}
        arrays = {f"{split}_{name}": columns[name][split] for split in clicks.SPLITS for name in COLUMNS}
        return Data(arrays, log.info, examples=len(log.labels["train"]))

    def data_key(self) -> Hashable:
        return type(self), self.data, self.generator_seed, self.hash_buckets

    def trivial_metric(self, split: str = "validation") -> float:
        """Of the training split's click rate as everyone's probability."""
        log = self._log()
        return clicks.cross_entropy(float(log.labels["train"].mean()), log.labels[split])

    def oracle_metric(self, split: str = "validation") -> float | None:
        """Of the true probabilities on the same labels; its expectation is info["bayes_cross_entropy"]. None for files."""
        log = self._log()
        return None if log.probabilities is None else clicks.cross_entropy(log.probabilities[split], log.labels[split])

    def init(self, key: Array) -> Params:
        """Normal of variance 2 / fan-in before a ReLU (He et al. 2015), 1 / fan-in for skipped layers and the output."""
        log = self._log()
        rows, fields = sum(log.vocabularies), len(log.vocabularies)
        keys = iter(jax.random.split(key, 3 + 2 * self.depth))
        scale = rows**-0.5 if self.embedding_init is None else self.embedding_init
        bottom, top = self._sizes()
        params: dict[str, Params] = {
            "embedding": {"table": jax.random.uniform(next(keys), (rows, self.width)) * scale},
            "output": {"kernel": _gaussian(next(keys), 1.0, top[-1], 1), "bias": jnp.zeros(1)},
        }
        for layer in range(self.depth):
            fan_in = bottom[layer - 1] if layer else log.dense_features
            kernel = _gaussian(next(keys), self._gain(layer), fan_in, bottom[layer])
            params[f"bottom_{layer}"] = {"kernel": kernel, **self._vectors(bottom[layer])}
        for layer in range(self.depth):
            fan_in = top[layer - 1] if layer else bottom[-1] + self.resnet * fields * self.width
            gain = 1.0 if layer == 0 and not self.resnet else self._gain(layer)  # the interactions bring the other half
            kernel = _gaussian(next(keys), gain, fan_in, top[layer])
            params[f"top_{layer}"] = {"kernel": kernel, **self._vectors(top[layer])}
        if not self.resnet:
            params["interaction"] = {"kernel": _gaussian(next(keys), 1.0, _pairs(fields), top[0])}
        if self.layer_norm:
            params["embedding"] |= {"gain": jnp.ones(self.width), "shift": jnp.zeros(self.width)}
        return params

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`categories` (B, F), `counts` (B, D) and `labels` (B,), rows drawn with replacement."""
        rows = jax.random.randint(
            jax.random.fold_in(key, step), (self.batch_size,), 0, data["train_labels"].shape[0], jnp.int32
        )
        return {name: data[f"train_{name}"][rows] for name in COLUMNS}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy in nats."""
        logits = self.logits(params, batch["categories"], batch["counts"])
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, batch["labels"].astype(jnp.float32))), {}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`cross_entropy` in nats (also as `loss`), `auc` (area under the ROC curve), and the standard errors of both."""
        categories, counts, labels = (data[f"{split}_{name}"] for name in COLUMNS)
        logits = in_parts(lambda c, x: self.logits(params, c, x), (categories, counts), _EVALUATED_TOGETHER)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
        loss, examples = jnp.mean(losses), labels.shape[0]
        auc, auc_stderr = with_standard_error(lambda weights: area_under_roc(logits, labels, weights), examples)
        stderr = jnp.std(losses) / examples**0.5
        errors = {"cross_entropy_stderr": stderr, "auc_stderr": auc_stderr}
        return where_finite({"loss": loss, "cross_entropy": loss, "auc": auc, **errors})

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Preactivations of the layers, what the dot products add to those of top_0 (without resnet), logits (B, 1)."""
        found: dict[str, Array] = {}
        logits = self.logits(params, batch["categories"], batch["counts"], found.__setitem__)
        return found | {"logits": logits[:, None]}

    def logits(self, params: Params, categories: Array, counts: Array, tap: Tap = ignore) -> Array:
        """(B, F) rows of the table and (B, D) logarithms of counts -> (B,) float32 log odds of a click."""
        embedded = params["embedding"]["table"][categories]
        if self.layer_norm:
            embedded = _layer_norm(params["embedding"], embedded)
        forward = self._resnet if self.resnet else self._dlrm
        hidden = forward(params, embedded, counts, tap)
        output = matmul(hidden, params["output"]["kernel"]) + params["output"]["bias"][None]
        return self.output_scale * output[:, 0].astype(jnp.float32)

    def _dlrm(self, params: Params, embedded: Array, counts: Array, tap: Tap) -> Array:
        """(B, F, W) and (B, D) -> what the output reads."""
        dense = counts
        for layer in range(self.depth):
            product = dense @ params["bottom_0"]["kernel"] if layer == 0 else None
            dense = self._layer(params, f"bottom_{layer}", dense, tap, product)
        vectors = jnp.concatenate([dense[:, None], embedded], axis=1)
        scale = jnp.asarray(self.attention_scale * self.width**-0.5, vectors.dtype)
        first, second = np.triu_indices(vectors.shape[1])
        dots = (jnp.einsum("bik,bjk->bij", vectors, vectors) * scale)[:, first, second]
        interaction = matmul(dots, params["interaction"]["kernel"])
        tap("interaction", interaction)
        hidden = self._layer(params, "top_0", dense, tap, matmul(dense, params["top_0"]["kernel"]) + interaction)
        for layer in range(1, self.depth):
            hidden = self._layer(params, f"top_{layer}", hidden, tap)
        return hidden

    def _resnet(self, params: Params, embedded: Array, counts: Array, tap: Tap) -> Array:
        """(B, F, W) and (B, D) -> what the output reads."""
        hidden = self._layer(params, "bottom_0", counts, tap, counts @ params["bottom_0"]["kernel"])
        branch = jnp.asarray(self.residual_scale, hidden.dtype)
        for layer in range(1, self.depth):
            hidden = hidden + branch * self._layer(params, f"bottom_{layer}", hidden, tap)
        hidden = jnp.concatenate([hidden, embedded.reshape(embedded.shape[0], -1)], axis=1)
        hidden = self._layer(params, "top_0", hidden, tap)
        for layer in range(1, self.depth):
            hidden = hidden + branch * self._layer(params, f"top_{layer}", hidden, tap)
        return hidden

    def _layer(self, params: Params, name: str, inputs: Array, tap: Tap, product: Array | None = None) -> Array:
        """ReLU of an affine layer, normalised in the variant. product: the inputs' with the kernel, where that is known."""
        layer = params[name]
        product = matmul(inputs, layer["kernel"]) if product is None else product
        preactivation = product + layer["bias"][None]
        tap(name, preactivation)
        hidden = jax.nn.relu(preactivation)
        return _layer_norm(layer, hidden) if self.layer_norm else hidden

    def matmul_flops(self) -> float:
        """2 per weight and example forward, twice that backward, but the counts need no gradient; the dot products are taken
        of all (F + 1)^2 ordered pairs.
        """
        log = self._log()
        bottom, top = self._sizes()
        fields = len(log.vocabularies)
        into_top = bottom[-1] + (fields * self.width if self.resnet else _pairs(fields))
        inner = _weights(bottom) + into_top * top[0] + _weights(top) + top[-1]
        dots = 0 if self.resnet else (fields + 1) ** 2 * self.width
        return 2.0 * self.batch_size * (3 * (inner + dots) + 2 * log.dense_features * bottom[0])

    def _log(self) -> Clicks:
        return load_clicks(self.data, self.generator_seed, self.hash_buckets)

    def _sizes(self) -> tuple[list[int], list[int]]:
        """Units of the bottom and of the top MLP's layers."""
        if self.resnet:
            return [2 * self.width] * self.depth, [2 * self.width] * self.depth
        from_end = [2**i for i in reversed(range(self.depth))]
        return [self.width * min(m, 4) for m in from_end], [self.width * min(2 * m, 8) for m in from_end]

    def _gain(self, layer: int) -> float:
        return 1.0 if self.resnet and layer else 2.0

    def _vectors(self, size: int) -> dict[str, Array]:
        vectors = {"bias": jnp.zeros(size)}
        return vectors | {"gain": jnp.ones(size), "shift": jnp.zeros(size)} if self.layer_norm else vectors


def _gaussian(key: Array, gain: float, fan_in: int, fan_out: int) -> Array:
    return jax.random.normal(key, (fan_in, fan_out)) * (gain / fan_in) ** 0.5


def _layer_norm(layer: Params, x: Array) -> Array:
    """Layer normalisation over the last axis (Ba et al. 2016), with the layer's gain and shift."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _NORM_EPS)
    return normed * layer["gain"].reshape(shape) + layer["shift"].reshape(shape)


def _pairs(fields: int) -> int:
    """Dot products of F embeddings and the bottom MLP's output, a vector with itself included."""
    return (fields + 1) * (fields + 2) // 2


def _weights(sizes: list[int]) -> int:
    return sum(a * b for a, b in itertools.pairwise(sizes))
