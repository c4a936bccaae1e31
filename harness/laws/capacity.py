"""Knowledge that a model stores, from its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive

SHARPNESS = (0.5, 1.0, 2.0, 4.0, 10.0)
SHARP = Positive.between(0.1, 200.0)


def _smooth_minimum(log_a: Array, log_b: Array, s: Array) -> Array:
    """log of (a^-s + b^-s)^(-1/s), which is min(a, b) as s grows."""
    return -jnp.logaddexp(-s * log_a, -s * log_b) / s


@LAWS.register("capacity")
@dataclass(frozen=True)
class Capacity(Law):
    """bits(N) = ((k N)^-s + B^-s)^(-1/s).

    k bits per parameter of a model too small for its data, B bits in the data (the ceiling), s how sharp the knee at
    N = B / k is. N parameters. The linear capacity is of Allen-Zhu & Li 2024 (arXiv:2404.05405), who find k near 2 after
    enough exposures; the knee is our own form.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    response: ClassVar[str] = "bits"
    parameters: ClassVar[Mapping[str, Kind]] = {"k": Positive, "B": Positive, "s": SHARP}
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return _smooth_minimum(p.log_k + jnp.log(inputs["N"]), p.log_B, p.s)

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """k the most bits per parameter seen, B the most bits seen and ten times that, s of `SHARPNESS`."""
        k, most = np.log(np.max(loss / inputs["N"])), np.log(np.max(loss))
        return np.array([(k, most + more, np.log(s)) for s in SHARPNESS for more in (0.02, 0.5, 2.3)])


@LAWS.register("capacity_of_data")
@dataclass(frozen=True)
class CapacityOfData(Law):
    """bits(N, data_bits) = ((k N)^-s + data_bits^-s)^(-1/s).

    As `capacity`, with known bits in the data of each run, so that several data sets share k (bits per parameter) and s
    (sharpness of the knee). Allen-Zhu & Li 2024 (arXiv:2404.05405) for the linear capacity; the knee is our own form.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "data_bits")
    response: ClassVar[str] = "bits"
    parameters: ClassVar[Mapping[str, Kind]] = {"k": Positive, "s": SHARP}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return _smooth_minimum(p.log_k + jnp.log(inputs["N"]), jnp.log(inputs["data_bits"]), p.s)

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """k the most bits per parameter seen, s of `SHARPNESS`."""
        k = np.log(np.max(loss / inputs["N"]))
        return np.array([(k + more, np.log(s)) for s in SHARPNESS for more in (0.0, 0.5)])
