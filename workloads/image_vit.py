"""Image classification with a Vision Transformer (Dosovitskiy et al. 2021), AlgoPerf's ImageNet ViT at proxy size."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.attention import attention, merge_heads, split_heads
from workloads.base import Array, BadInput, Batch, Params, Tap, ignore
from workloads.image_classification import ImageClassification
from workloads.layers import matmul

_MLP_RATIO = 4
_POSITION_STD = 0.02
_NORM_EPS = 1e-6
_LONGEST_WAVE = 10_000.0
POSITIONS, POOLING = ("sincos", "learned"), ("average", "map")


@dataclass(frozen=True)
class ImageViT(ImageClassification):
    """A Transformer on the patches of an image.

    Patches are embedded linearly, positions added, and `depth` blocks of attention and MLP applied, each behind a layer
    norm (Xiong et al. 2020) and with biases, except at queries, keys and values: the softmax undoes a key's bias. The
    tokens are pooled, a tanh layer and the output matrix follow.
    heads: attention heads; the head size is width / heads. patch_size: pixels along a patch's side. positions: "sincos" (fixed
    waves along both axes, Beyer et al. 2022) or "learned". pooling: "average" over the tokens, or "map": one learned query
    attends to them (multihead attention pooling, Zhai et al. 2022), whose MLP branch takes no residual_scale, as depth
    adds none of its kind. post_layernorm: norms behind the sums (Vaswani et al. 2017). glu: gated MLP (Shazeer 2020).
    dropout: rate on the embedding, the MLP's hidden units and both branches, in training only; None leaves it out.
    Shapes below: B batch, T patches, W width.
    """

    name: ClassVar[str] = "image_vit"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "post_layernorm": {"post_layernorm": True},
        "glu": {"glu": True},
        "map": {"pooling": "map"},
    }
    default_steps: ClassVar[int] = 1000

    width: int = 32
    depth: int = 2
    batch_size: int = 32
    heads: int = 4
    patch_size: int = 4
    positions: str = "sincos"
    pooling: str = "average"
    post_layernorm: bool = False
    glu: bool = False
    dropout: float | None = None

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def patches(self) -> int:
        """T."""
        return (self.image_size // self.patch_size) ** 2

    def validate(self) -> None:
        super().validate()
        if self.heads < 1 or self.width % self.heads:
            raise BadInput(
                f"workload.width={self.width} is not divisible by workload.heads={self.heads}; choose a width that is a "
                f"multiple of the heads"
            )
        if self.patch_size < 1 or self.image_size % self.patch_size:
            raise BadInput(
                f"workload.image_size={self.image_size} is not divisible by workload.patch_size={self.patch_size}; choose a "
                f"patch size that divides it"
            )
        for field, valid in (("positions", POSITIONS), ("pooling", POOLING)):
            if getattr(self, field) not in valid:
                raise BadInput(f"unknown workload.{field} '{getattr(self, field)}'. Valid names: {', '.join(valid)}.")
        if self.positions == "sincos" and (self.width % 4 or self.width < 8):
            raise BadInput(
                f"workload.width={self.width} must be a multiple of 4, and at least 8, for workload.positions=sincos; choose "
                f"such a width or learned"
            )
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise BadInput(f"workload.dropout={self.dropout} must be at least 0 and below 1")

    def init(self, key: Array) -> Params:
        """Normal with standard deviation fan-in^-1/2; residual branches, biases and the output begin at zero.

        So does the pool's query, or its logits, products with keys it has yet to meet, would change less the wider the model
        (Yang et al. 2022, appendix D.2).
        """
        width, hidden = self.width, _MLP_RATIO * self.width
        keys = iter(jax.random.split(key, 8 + 3 * self.depth))

        def matrix(*shape: int) -> Array:
            return jax.random.normal(next(keys), shape) * np.prod(shape[:-1]) ** -0.5

        def norm() -> Params:
            return {"gain": jnp.ones(width), "bias": jnp.zeros(width)}

        def mlp() -> Params:
            gate = {"gate": matrix(width, hidden)} if self.glu else {}
            inside = {"in": matrix(width, hidden), "in_bias": jnp.zeros(hidden)}
            return inside | gate | {"out": jnp.zeros((hidden, width)), "out_bias": jnp.zeros(width)}

        params: dict[str, Params] = {
            "patches": matrix(self.patch_size, self.patch_size, self.channels, width),
            "patches_bias": jnp.zeros(width),
            "pre_logits": matrix(width, width),
            "pre_logits_bias": jnp.zeros(width),
            "output": jnp.zeros((width, self.classes)),
            "output_bias": jnp.zeros(self.classes),
        }
        if self.positions == "learned":
            params["positions"] = _POSITION_STD * jax.random.normal(next(keys), (self.patches, width))
        for layer in range(self.depth):
            params[f"layer_{layer}"] = {
                "attention_norm": norm(),
                "query_key_value": matrix(width, 3 * width),
                "attention_out": jnp.zeros((width, width)),
                "attention_out_bias": jnp.zeros(width),
                "mlp_norm": norm(),
                "mlp": mlp(),
            }
        if not self.post_layernorm:
            params["final_norm"] = norm()
        if self.pooling == "map":
            params["pool"] = {
                "probe": jax.random.normal(next(keys), (1, width)),
                "query": jnp.zeros((width, width)),
                "key_value": matrix(width, 2 * width),
                "out": matrix(width, width),
                "out_bias": jnp.zeros(width),
                "mlp_norm": norm(),
                "mlp": mlp(),
            }
        return params

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        logits = self.logits(params, batch["images"], noise=None if self.dropout is None else key)
        return self.cross_entropy(logits, batch["labels"]), {}

    def instabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def largest(name: str, scores: Array) -> None:
            found[name] = jnp.max(jnp.abs(scores))

        logits = self.logits(params, batch["images"], scores=largest)
        return found | {"log_z": jnp.mean(jax.nn.logsumexp(logits, axis=-1))}

    def logits(
        self, params: Params, images: Array, tap: Tap = ignore, noise: Array | None = None, scores: Tap = ignore
    ) -> Array:
        """(B, S, S, C) -> (B, classes) in float32. Activations stay two-dimensional, (B T, W).

        noise: the key of dropout, None for none. scores: is told the attention logits of each layer, (B, H, T, T).
        """
        drop = _dropout(self.dropout, noise)
        x = drop(self._embedded(params, images))
        tap("embedding", x)
        scale = jnp.asarray(self.residual_scale, x.dtype)

        def added(x: Array, norm: Params, branch: Callable[[Array], Array], name: str) -> Array:
            out = drop(branch(x if self.post_layernorm else layer_norm(x, norm)))
            tap(name, out)
            total = x + scale * out
            return layer_norm(total, norm) if self.post_layernorm else total

        for layer in range(self.depth):
            block = params[f"layer_{layer}"]
            told = functools.partial(scores, f"attention_logit_{layer}")
            attend = functools.partial(self._attended, block, told=None if scores is ignore else told)
            x = added(x, block["attention_norm"], attend, f"attention_{layer}")
            x = added(x, block["mlp_norm"], functools.partial(_mlp, block["mlp"], drop=drop), f"mlp_{layer}")
        x = x if self.post_layernorm else layer_norm(x, params["final_norm"])
        hidden = _affine(self._pooled(params, x, drop), params["pre_logits"], params["pre_logits_bias"])
        tap("pre_logits", hidden)
        logits = _affine(jnp.tanh(hidden), params["output"], params["output_bias"])
        return self.output_scale * logits.astype(jnp.float32)

    def _embedded(self, params: Params, images: Array) -> Array:
        """(B, S, S, C) -> (B T, W): patches times their matrix, and positions."""
        side, size = self.image_size // self.patch_size, self.patch_size
        cut = images.reshape(-1, side, size, side, size, self.channels).swapaxes(2, 3)
        kernel = params["patches"].reshape(-1, self.width)
        # plain, not layers.matmul, whose backward pass would ask for a gradient of the images
        x = cut.reshape(-1, kernel.shape[0]) @ kernel + params["patches_bias"][None, :]
        positions = params["positions"] if self.positions == "learned" else sincos_positions(side, self.width)
        tokens = x.reshape(-1, self.patches, self.width) + jnp.asarray(positions, x.dtype)[None]
        return tokens.reshape(-1, self.width)

    def _attended(self, block: Params, x: Array, told: Callable[[Array], None] | None = None) -> Array:
        """Multi-head attention of all patches to all, (B T, W) -> (B T, W). told: is told its logits."""
        parts = jnp.split(matmul(x, block["query_key_value"]), 3, axis=1)
        query, key, value = (split_heads(part, self.heads, self.patches) for part in parts)
        scaled = self._scaled(query)
        if told is not None:
            told(jnp.einsum("bhkt,bhks->bhts", scaled, key))
        mixed = merge_heads(attention(scaled, key, value))
        return _affine(mixed, block["attention_out"], block["attention_out_bias"])

    def _pooled(self, params: Params, x: Array, drop: Callable[[Array], Array]) -> Array:
        """(B T, W) -> (B, W)."""
        if self.pooling == "average":
            return jnp.mean(x.reshape(-1, self.patches, self.width), axis=1)
        pool = params["pool"]
        batch = x.shape[0] // self.patches
        key, value = (
            split_heads(part, self.heads, self.patches) for part in jnp.split(matmul(x, pool["key_value"]), 2, axis=1)
        )
        query = self._scaled(split_heads(matmul(pool["probe"], pool["query"]), self.heads, 1))
        mixed = merge_heads(attention(jnp.broadcast_to(query, (batch, *query.shape[1:])), key, value))
        pooled = _affine(mixed, pool["out"], pool["out_bias"])
        return pooled + _mlp(pool["mlp"], layer_norm(pooled, pool["mlp_norm"]), drop)

    def _scaled(self, query: Array) -> Array:
        return query * jnp.asarray(self.attention_scale * self.head_size**-0.5, query.dtype)

    def matmul_flops(self) -> float:
        """2 FLOPs per weight and token forward, twice that backward, but no gradient of the images; 2 x 2 T W per token and
        layer for scores and mixing, 2 x 2 W for those of the one query of a pool."""
        width, tokens = self.width, self.batch_size * self.patches
        mlp = (3 if self.glu else 2) * _MLP_RATIO * width**2
        embedding = self.patch_size**2 * self.channels * width
        blocks = tokens * self.depth * (4 * width**2 + mlp + 2 * self.patches * width)
        head = self.batch_size * width * (width + self.classes)
        if self.pooling == "map":
            head += width**2 + tokens * (2 * width**2 + 2 * width) + self.batch_size * (width**2 + mlp)
        return 2.0 * (2.0 * tokens * embedding + 3.0 * (blocks + head))


def _affine(x: Array, kernel: Array, bias: Array) -> Array:
    return matmul(x, kernel) + bias[None, :]


def _mlp(mlp: Params, x: Array, drop: Callable[[Array], Array]) -> Array:
    hidden = jax.nn.gelu(_affine(x, mlp["in"], mlp["in_bias"]))
    if "gate" in mlp:
        hidden = hidden * matmul(x, mlp["gate"])
    return _affine(drop(hidden), mlp["out"], mlp["out_bias"])


def layer_norm(x: Array, norm: Params) -> Array:
    """Ba et al. 2016, over the last axis of (N, W), times gain plus bias, (W,) each."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + _NORM_EPS)
    return centred * inverse * norm["gain"][None, :] + norm["bias"][None, :]


def _dropout(rate: float | None, noise: Array | None) -> Callable[[Array], Array]:
    """Dropout (Srivastava et al. 2014) of another mask at every call, what is kept divided by its share."""
    if rate is None or noise is None:
        return lambda x: x
    places = itertools.count()

    def drop(x: Array) -> Array:
        kept = jax.random.bernoulli(jax.random.fold_in(noise, next(places)), 1.0 - rate, x.shape)
        return jnp.where(kept, x / jnp.asarray(1.0 - rate, x.dtype), 0.0)

    return drop


@functools.cache
def sincos_positions(side: int, width: int) -> np.ndarray:
    """(side^2, W) float32: sines and cosines of the row, then of the column, W / 4 wavelengths each, in a geometric row."""
    waves = _LONGEST_WAVE ** -(np.arange(width // 4) / (width // 4 - 1))
    rows, columns = np.divmod(np.arange(side * side), side)
    angles = [place[:, None] * waves[None, :] for place in (columns, rows)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1).astype(np.float32)
