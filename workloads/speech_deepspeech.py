"""Speech recognition with DeepSpeech 2 (Amodei et al. 2016), in the form of AlgoPerf's LibriSpeech workload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from workloads.base import Array, BadInput, Params
from workloads.ctc import ctc_matmul_flops
from workloads.recurrent import bidirectional_lstm
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

_NORMS = ("batch", "layer")
_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh}


@dataclass(frozen=True)
class SpeechDeepSpeech(SpeechRecognition):
    """Convolutional subsampling, `depth` bidirectional LSTM layers, `feed_forward_layers` dense ones, a linear readout.

    Every layer normalises its input. norm: "batch" or "layer". activation: of the dense layers, "relu" or "tanh".
    residual: whether layers are added to their inputs. head_norm: layer norm before the readout. A
    direction has width / 2 units.
    See SpeechRecognition for the other fields and for batch normalisation at evaluation.
    """

    name: ClassVar[str] = "speech_deepspeech"
    default_steps: ClassVar[int] = 500
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tanh": {"activation": "tanh"},
        "no_resnet": {"residual": False},
        "norm_and_spec_aug": {"norm": "layer", "head_norm": False, "band_masks": 4, "time_masks": 3},
    }

    band_masks: int = 2
    time_masks: int = 2
    feed_forward_layers: int = 1
    norm: str = "batch"
    activation: str = "relu"
    residual: bool = True
    head_norm: bool = True

    def validate(self) -> None:
        super().validate()
        if self.feed_forward_layers < 0:
            raise BadInput(f"workload.feed_forward_layers={self.feed_forward_layers} must be at least 0")
        if self.norm not in _NORMS:
            raise BadInput(f"unknown workload.norm='{self.norm}'. Valid: {', '.join(_NORMS)}")
        if self.activation not in _ACTIVATIONS:
            raise BadInput(f"unknown workload.activation='{self.activation}'. Valid: {', '.join(_ACTIVATIONS)}")

    def init(self, key: Array) -> Params:
        """Normal with variance 1 / fan-in (2 / fan-in before a ReLU); biases 0."""
        width = self.width
        subsampling, head, recurrent, dense = jax.random.split(key, 4)
        params: dict[str, Params] = {
            "subsample": subsampling_parameters(subsampling, self.bands, width),
            "head": {"kernel": gaussian(head, width, self.letters), "bias": jnp.zeros(self.letters)},
        }
        if not self.residual and self.norm == "batch":
            del params["subsample"]["project"]["bias"]  # the first layer's batch norm would take it away
        if self.head_norm:
            params["head_norm"] = norm_parameters(width)
        for layer, layer_key in enumerate(jax.random.split(recurrent, self.depth)):
            inputs, states = jax.random.split(layer_key)
            params[f"lstm_{layer}"] = {
                "norm": norm_parameters(width),
                "input": {"kernel": gaussian(inputs, width, 4 * width), "bias": jnp.zeros(4 * width)},
                "recurrent": jax.random.normal(states, (2, width // 2, 2 * width)) * (width // 2) ** -0.5,
            }
        gain = 2.0 if self.activation == "relu" else 1.0
        for layer, layer_key in enumerate(jax.random.split(dense, self.feed_forward_layers)):
            kernel = gaussian(layer_key, width, width, gain=gain)
            params[f"dense_{layer}"] = {
                "norm": norm_parameters(width),
                "linear": {"kernel": kernel, "bias": jnp.zeros(width)},
            }
        return params

    def encode(self, params: Params, x: Array, run: Pass) -> Array:
        for layer in range(self.depth):
            module = params[f"lstm_{layer}"]
            states = self._recurrent(module, self._normed(x, f"lstm_{layer}", module, run), run)
            x = self._joined(x, f"lstm_{layer}", states, run)
        for layer in range(self.feed_forward_layers):
            module = params[f"dense_{layer}"]
            hidden = linear(self._normed(x, f"dense_{layer}", module, run), module["linear"])
            x = self._joined(x, f"dense_{layer}", _ACTIVATIONS[self.activation](hidden) * run.real, run)
        return linear(layer_norm(x, params["head_norm"]) if self.head_norm else x, params["head"])

    def _normed(self, x: Array, name: str, module: Params, run: Pass) -> Array:
        return batch_norm(name, x, module["norm"], run) if self.norm == "batch" else layer_norm(x, module["norm"])

    def _joined(self, x: Array, name: str, branch: Array, run: Pass) -> Array:
        run.tap(name, branch)
        branch = run.drop(branch)
        return x + jnp.asarray(self.residual_scale, x.dtype) * branch if self.residual else branch

    def _recurrent(self, module: Params, x: Array, run: Pass) -> Array:
        """What the inputs give to the gates needs no state: one product for all frames and both directions."""
        gates = linear(x, module["input"]).reshape(-1, run.time, 4 * self.width)
        return bidirectional_lstm(gates, module["recurrent"], run.present).reshape(x.shape)

    def matmul_flops(self) -> float:
        """Forward: 2 FLOPs per weight and frame. Backward: twice."""
        time = self.tokens_per_example
        rows = self.batch_size * time
        weights = (6 * self.depth + self.feed_forward_layers) * self.width**2 + self.width * self.letters
        before = subsampling_matmul_flops(self.batch_size, SUBSAMPLING * time, self.bands, self.width)
        return before + 3.0 * 2.0 * rows * weights + ctc_matmul_flops(self.batch_size, time, self._labels, self.letters)
