"""Layers that the speech recognisers share. Activations are two-dimensional, (B T, W): see workloads.layers.

B utterances, T frames, F mel bands, C channels, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, Params, Tap, ignore
from workloads.layers import matmul

SUBSAMPLING = 4  # frames that become one
_EPS = 1e-5

Moments = Mapping[str, tuple[Array, Array]]


@dataclass
class Pass:
    """One forward pass: what layers need to know and what they tell.

    present: (B, T), 1 in frames of an utterance and 0 after its last. key, dropout: of training, None in evaluation. given:
    mean and variance (W,) of every batch normalisation by name, used unless `own` is true; None where the batch's own are.
    found: those that were used. tap, scores: are told activations and attention logits.
    """

    present: Array
    key: Array | None = None
    dropout: float | None = None
    given: Moments | None = None
    own: Array | bool = True
    found: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    tap: Tap = ignore
    scores: Tap = ignore

    @property
    def time(self) -> int:
        """T."""
        return int(self.present.shape[1])

    @property
    def real(self) -> Array:
        """(B T, 1): `present` beside two-dimensional activations."""
        return self.present.reshape(-1, 1)

    def drop(self, x: Array) -> Array:
        """Dropout (Srivastava et al. 2014), with a fresh key at every call."""
        if self.dropout is None or self.key is None:
            return x
        self.key, key = jax.random.split(self.key)
        keep = jax.random.uniform(key, x.shape) >= self.dropout
        return jnp.where(keep, x / (1.0 - self.dropout), 0.0).astype(x.dtype)


def gaussian(key: Array, *shape: int, gain: float = 1.0) -> Array:
    """Kernel (..., fan_in, fan_out) of variance gain / fan-in, where every axis but the last counts."""
    fan_in = int(np.prod(shape[:-1]))
    return jax.random.normal(key, shape) * (gain / fan_in) ** 0.5


def norm_parameters(width: int) -> Params:
    return {"gain": jnp.ones(width), "bias": jnp.zeros(width)}


def linear(x: Array, layer: Params) -> Array:
    """(N, fan_in) -> (N, fan_out), with a bias if the layer has one."""
    product = matmul(x, layer["kernel"])
    return product + layer["bias"][None, :] if "bias" in layer else product


def layer_norm(x: Array, norm: Params) -> Array:
    """Ba et al. 2016, over the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + _EPS) * norm["gain"][None, :] + norm["bias"][None, :]


def batch_norm(name: str, x: Array, norm: Params, run: Pass) -> Array:
    """Ioffe & Szegedy 2015, over the frames of utterances only; frames after them come out 0."""
    mean, variance = _moments(x.astype(jnp.float32), run.real.astype(jnp.float32))
    if run.given is not None:
        given_mean, given_variance = run.given[name]
        mean, variance = jnp.where(run.own, mean, given_mean), jnp.where(run.own, variance, given_variance)
    run.found[name] = (mean, variance)
    scale = (jax.lax.rsqrt(variance + _EPS) * norm["gain"])[None, :]
    return (((x - mean[None, :]) * scale + norm["bias"][None, :]) * run.real).astype(x.dtype)


def _moments(x: Array, real: Array) -> tuple[Array, Array]:
    """Mean and variance (W,) of the rows of (N, W) where `real` (N, 1) is 1."""
    count = jnp.maximum(jnp.sum(real), 1.0)
    mean = jnp.sum(x * real, axis=0) / count
    return mean, jnp.sum(jnp.square(x - mean[None, :]) * real, axis=0) / count


def subsampling_parameters(key: Array, bands: int, width: int) -> Params:
    """Two 3 x 3 convolutions to W / 4 channels (gain 2, for ReLU) and a projection of the bands that are left to W."""
    first, second, third = jax.random.split(key, 3)
    channels = width // 4
    return {
        "conv_0": {"kernel": gaussian(first, 3, 3, 1, channels, gain=2.0), "bias": jnp.zeros(channels)},
        "conv_1": {"kernel": gaussian(second, 3, 3, channels, channels, gain=2.0), "bias": jnp.zeros(channels)},
        "project": {"kernel": gaussian(third, bands // SUBSAMPLING * channels, width), "bias": jnp.zeros(width)},
    }


def subsample(features: Array, frames: Array, params: Params) -> tuple[Array, Array]:
    """(B, T, F) -> (B T / 4, W), and the frames (B,) that are left. T and F are multiples of 4; the batch's own frames (B,)."""
    x = features[:, :, :, None]
    for layer, product in (("conv_0", jnp.matmul), ("conv_1", matmul)):  # the first one's inputs need no gradient
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        patches = _patches(x)
        outputs = product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, kernel.shape[-1]))
        x = jax.nn.relu(outputs + bias[None, :]).reshape(*patches.shape[:-1], -1)
        frames = (frames + 1) >> 1
        x = x * real_frames(frames, x.shape[1], x.dtype)[:, :, None, None]
    return linear(x.reshape(x.shape[0] * x.shape[1], -1), params["project"]), frames


def real_frames(frames: Array, time: int, dtype: jnp.dtype) -> Array:
    """(B, T): 1 before `frames` (B,), 0 from there on."""
    return (jnp.arange(time)[None, :] < frames[:, None]).astype(dtype)


def subsampling_matmul_flops(batch: int, time: int, bands: int, width: int) -> float:
    """Forward and backward; the features need no gradient."""
    channels, cells = width // 4, batch * time * bands
    first = 2 * (cells / 4) * 9 * channels
    second = 3 * (cells / 16) * 9 * channels**2
    project = 3 * (batch * time / 4) * (bands / 4) * channels * width
    return 2.0 * (first + second + project)


def _patches(x: Array) -> Array:
    """(B, T, F, C) -> (B, T / 2, F / 2, 9 C): what each output of a 3 x 3 convolution with stride 2 reads, zero padded.

    XLA's own convolutions take several times as long on CPU, backward above all.
    """
    time, bands = x.shape[1], x.shape[2]
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    parts = [padded[:, i : i + time : 2, j : j + bands : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, axis=3)
