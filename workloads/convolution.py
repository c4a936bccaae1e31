"""Convolution and batch normalisation of (B, S, S, C) images, written so that XLA's CPU backend runs them fast in a loop.

A training step runs inside a compiled loop, where XLA's CPU backend has no fast convolution. Measured there on one core, batch
32, 3 x 3 kernels, forward and both gradients, ms (lax.conv_general_dilated, NHWC / patches and one matrix product):
16 x 16 images of 8 channels 10.6 / 0.8, of 16 channels 44.9 / 1.5, of 64 channels 785 / 18; 4 x 4 images of 128
channels 91 / 2.4. Outside a loop they are even: 0.8 / 0.7, 1.2 / 1.7, 14 / 18 and 2.7 / 2.7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from workloads.base import Array, Params, Tap, ignore
from workloads.layers import matmul

_NORM_EPS = 1e-5

Moments = Mapping[str, tuple[Array, Array]]
"""Mean and variance (C,) of batch normalisations, by name."""


def patches(x: Array, size: int, stride: int) -> Array:
    """(B, S, S, C) -> (B, ceil(S / stride), ceil(S / stride), size^2 C): what a kernel sees, row by row, zeros outside
    (lax's "SAME")."""
    batch, side, _, channels = x.shape
    out = -(-side // stride)
    padding = max((out - 1) * stride + size - side, 0)
    around = (padding // 2, padding - padding // 2)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    reach = (out - 1) * stride + 1

    def seen(row: int, column: int) -> Array:
        end = (batch, row + reach, column + reach, channels)
        return jax.lax.slice(padded, (0, row, column, 0), end, (1, stride, stride, 1))

    return jnp.concatenate([seen(row, column) for row in range(size) for column in range(size)], axis=3)


def convolution(x: Array, kernel: Array, stride: int = 1, product: Callable[[Array, Array], Array] = matmul) -> Array:
    """(B, S, S, in) by (size, size, in, out) -> (B, ceil(S / stride), ceil(S / stride), out), zeros outside.

    product: of (N, fan_in) and (fan_in, out). jnp.matmul spares the gradient of inputs that need none, such as images.
    """
    seen = patches(x, kernel.shape[0], stride)
    out = product(seen.reshape(-1, seen.shape[3]), kernel.reshape(-1, kernel.shape[3]))
    return out.reshape(*seen.shape[:3], kernel.shape[3])


def convolution_products(batch: int, side: int, stride: int, kernel: int, inputs: int, outputs: int) -> float:
    """FLOPs of one `convolution` forward, zeros outside included."""
    return 2.0 * batch * (-(-side // stride)) ** 2 * kernel**2 * inputs * outputs


@dataclass
class Pass:
    """One forward pass through a network with batch normalisation (Ioffe & Szegedy 2015).

    given: the moments to normalise with, None where the batch's own are used. found: those that were used. ghost: statistics
    over every so many images alone (Hoffer et al. 2017, algorithm 1), None for the whole batch. tap: is told activations.
    """

    given: Moments | None = None
    found: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    ghost: int | None = None
    tap: Tap = ignore

    def norm(self, name: str, x: Array, norm: Params) -> Array:
        """Normalise (B, S, S, C) over all but channels, times gain plus bias, (C,) each; statistics in float32.

        `found` gets the moments of a batch; of ghost batches, mean and variance that their average moments make.
        """
        groups = 1 if self.ghost is None or self.given is not None else x.shape[0] // self.ghost
        wide = x.astype(jnp.float32).reshape(groups, -1, x.shape[3])
        if self.given is None:
            mean = jnp.mean(wide, axis=1, keepdims=True)
            variance = jnp.mean(jnp.square(wide - mean), axis=1, keepdims=True)
            self.found[name] = average_moments(mean[:, 0], variance[:, 0])
        else:
            mean, variance = (moment[None, None, :] for moment in self.given[name])
        scale = jax.lax.rsqrt(variance + _NORM_EPS) * norm["gain"][None, None, :]
        return ((wide - mean) * scale + norm["bias"][None, None, :]).astype(x.dtype).reshape(x.shape)


def average_moments(means: Array, variances: Array) -> tuple[Array, Array]:
    """Mean and variance (C,) of the union of equally many images with these means and variances, (groups, C) each."""
    mean = jnp.mean(means, axis=0)
    return mean, jnp.mean(variances + jnp.square(means), axis=0) - jnp.square(mean)
