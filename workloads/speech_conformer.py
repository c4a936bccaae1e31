"""Speech recognition with a Conformer (Gulati et al. 2020), in the form of AlgoPerf's LibriSpeech workload."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.attention import attention, merge_heads, padding_mask, split_heads
from workloads.base import Array, BadInput, Batch, Params, ignore
from workloads.ctc import ctc_matmul_flops
from workloads.layers import matmul
from workloads.speech import SpeechRecognition
from workloads.speech_layers import (
    SUBSAMPLING,
    Pass,
    batch_norm,
    gaussian,
    layer_norm,
    linear,
    norm_parameters,
    subsampling_matmul_flops,
    subsampling_parameters,
)

_FEED_FORWARD_RATIO = 4
_LONGEST_WAVE = 10_000.0
_NORMS = ("batch", "layer")
_ACTIVATIONS = {"swish": jax.nn.swish, "gelu": jax.nn.gelu}


@dataclass(frozen=True)
class SpeechConformer(SpeechRecognition):
    """Convolutional subsampling, `depth` Conformer blocks, a linear readout.

    heads: attention heads; the head size is width / heads. kernel_size: frames that the depthwise convolution sees, odd.
    attention_temperature: factor on the attention logits. post_layer_norm: normalise the output of every block.
    convolution_norm: "batch" or "layer", inside the convolution module. activation: "swish" or "gelu".
    See SpeechRecognition for the other fields and for batch normalisation at evaluation.
    """

    name: ClassVar[str] = "speech_conformer"
    default_steps: ClassVar[int] = 400
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "attention_temperature": {"attention_temperature": 1.6},
        "layernorm": {"post_layer_norm": False},
        "gelu": {"activation": "gelu"},
        "convolution_layernorm": {"convolution_norm": "layer"},
    }

    heads: int = 4
    kernel_size: int = 5
    attention_temperature: float = 1.0
    post_layer_norm: bool = True
    convolution_norm: str = "batch"
    activation: str = "swish"

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def validate(self) -> None:
        super().validate()
        if self.heads < 1 or self.width % self.heads:
            raise BadInput(
                f"workload.width={self.width} is not divisible by workload.heads={self.heads}; choose a width that is a "
                f"multiple of the heads"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise BadInput(f"workload.kernel_size={self.kernel_size} must be odd and at least 1")
        if self.convolution_norm not in _NORMS:
            raise BadInput(f"unknown workload.convolution_norm='{self.convolution_norm}'. Valid: {', '.join(_NORMS)}")
        if self.activation not in _ACTIVATIONS:
            raise BadInput(f"unknown workload.activation='{self.activation}'. Valid: {', '.join(_ACTIVATIONS)}")

    def init(self, key: Array) -> Params:
        """Normal with variance 1 / fan-in (2 / fan-in before a ReLU); biases 0."""
        width = self.width
        subsampling, head, blocks = jax.random.split(key, 3)
        params: dict[str, Params] = {
            "subsample": subsampling_parameters(subsampling, self.bands, width),
            "final_norm": norm_parameters(width),
            "head": {"kernel": gaussian(head, width, self.letters), "bias": jnp.zeros(self.letters)},
        }
        stacked = jax.vmap(self._block_parameters)(jax.random.split(blocks, self.depth))
        for layer in range(self.depth):
            params[f"block_{layer}"] = jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked)
        return params

    def _block_parameters(self, key: Array) -> Params:
        width = self.width
        keys = iter(jax.random.split(key, 9))

        def feed_forward() -> Params:
            hidden = _FEED_FORWARD_RATIO * width
            return {
                "norm": norm_parameters(width),
                "in": {"kernel": gaussian(next(keys), width, hidden), "bias": jnp.zeros(hidden)},
                "out": {"kernel": gaussian(next(keys), hidden, width), "bias": jnp.zeros(width)},
            }

        block = {
            "feed_forward_0": feed_forward(),
            "attention": {
                "norm": norm_parameters(width),
                "query_key_value": gaussian(next(keys), width, 3 * width),
                "query_gain": jnp.ones(self.head_size),
                "out": gaussian(next(keys), width, width),
            },
            "convolution": {
                "norm": norm_parameters(width),
                "in": {"kernel": gaussian(next(keys), width, 2 * width), "bias": jnp.zeros(2 * width)},
                "depthwise": gaussian(next(keys), self.kernel_size, width),
                "inner_norm": norm_parameters(width),
                "out": {"kernel": gaussian(next(keys), width, width), "bias": jnp.zeros(width)},
            },
            "feed_forward_1": feed_forward(),
        }
        return block | ({"norm": norm_parameters(width)} if self.post_layer_norm else {})

    def encode(self, params: Params, x: Array, run: Pass) -> Array:
        positions = jnp.asarray(_positions(run.time, self.width), x.dtype)
        x = run.drop((x.reshape(-1, *positions.shape) + positions[None]).reshape(x.shape))
        for layer in range(self.depth):
            x = self._block(params[f"block_{layer}"], x, layer, run)
        return linear(layer_norm(x, params["final_norm"]), params["head"])

    def _block(self, block: Params, x: Array, layer: int, run: Pass) -> Array:
        """x + FF(x) / 2, + attention, + convolution, + FF / 2, then layer norm (Gulati et al. 2020, eq. 1)."""

        def add(x: Array, name: str, share: float, branch: Array) -> Array:
            run.tap(f"{name}_{layer}", branch)
            return x + jnp.asarray(share * self.residual_scale, x.dtype) * run.drop(branch)

        x = add(x, "feed_forward", 0.5, self._feed_forward(block["feed_forward_0"], x))
        x = add(x, "attention", 1.0, self._attention(block["attention"], x, layer, run))
        x = add(x, "convolution", 1.0, self._convolution(block["convolution"], x, layer, run))
        x = add(x, "second_feed_forward", 0.5, self._feed_forward(block["feed_forward_1"], x))
        return layer_norm(x, block["norm"]) if self.post_layer_norm else x

    def _feed_forward(self, module: Params, x: Array) -> Array:
        hidden = self._activate(linear(layer_norm(x, module["norm"]), module["in"]))
        return linear(hidden, module["out"])

    def _attention(self, module: Params, x: Array, layer: int, run: Pass) -> Array:
        """Multi-head self-attention over the utterance's own frames; every query component has a learned gain."""
        qkv = split_heads(matmul(layer_norm(x, module["norm"]), module["query_key_value"]), 3 * self.heads, run.time)
        query, key, value = jnp.split(qkv, 3, axis=1)
        scale = self.attention_scale * self.attention_temperature * self.head_size**-0.5
        query = query * (jnp.asarray(scale, x.dtype) * module["query_gain"])[None, None, :, None]
        if run.scores is not ignore:
            run.scores(f"attention_logit_{layer}", jnp.einsum("bhkq,bhks->bhqs", query, key))
        return matmul(merge_heads(attention(query, key, value, padding_mask(run.present > 0))), module["out"])

    def _convolution(self, module: Params, x: Array, layer: int, run: Pass) -> Array:
        """Gated linear unit, depthwise convolution over frames, norm, activation, projection."""
        gated = jax.nn.glu(linear(layer_norm(x, module["norm"]), module["in"])) * run.real
        convolved = _depthwise(gated.reshape(-1, run.time, self.width), module["depthwise"]).reshape(x.shape)
        norm = module["inner_norm"]
        if self.convolution_norm == "batch":
            normed = batch_norm(f"convolution_{layer}", convolved, norm, run)
        else:
            normed = layer_norm(convolved, norm)
        return linear(self._activate(normed), module["out"])

    def _activate(self, x: Array) -> Array:
        return _ACTIVATIONS[self.activation](x)

    def instabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        """The largest attention logit of each layer, and the mean of log Z over frames."""
        found: dict[str, Array] = {}

        def largest(name: str, scores: Array) -> None:
            found[name] = jnp.max(jnp.abs(scores))

        logits, _, _ = self.transcribe(params, batch["features"], batch["frames"], scores=largest)
        return found | {"log_z": jnp.mean(jax.nn.logsumexp(logits, axis=-1))}

    def matmul_flops(self) -> float:
        """Forward: 2 FLOPs per weight and frame, and 2 x 2 T W per frame and layer for attention. Backward: twice."""
        time = self.tokens_per_example
        rows = self.batch_size * time
        weights = self.depth * (4 * _FEED_FORWARD_RATIO + 4 + 3) * self.width**2 + self.width * self.letters
        blocks = 3.0 * 2.0 * rows * (weights + self.depth * 2 * time * self.width)
        before = subsampling_matmul_flops(self.batch_size, SUBSAMPLING * time, self.bands, self.width)
        return before + blocks + ctc_matmul_flops(self.batch_size, time, self._labels, self.letters)


@functools.cache
def _positions(time: int, width: int) -> np.ndarray:
    """(T, W) sinusoids (Vaswani et al. 2017, sec. 3.5), sines before cosines."""
    frequency = _LONGEST_WAVE ** (-np.arange(width // 2) / (width // 2))
    angle = np.arange(time)[:, None] * frequency[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def _depthwise(x: Array, kernel: Array) -> Array:
    """(B, T, W), zero padded, every channel with its own column of the kernel (k, W)."""
    size, time = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (0, 0)))
    return sum(padded[:, i : i + time] * kernel[i][None, None, :] for i in range(size))
