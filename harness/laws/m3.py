"""A power law that ends in a plateau."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive
from harness.laws.power_law import log_log_line


@LAWS.register("m3")
@dataclass(frozen=True)
class M3(Law):
    """L(N) = b (1/N + g)^c.  Alabdulmohsin et al. 2022 (arXiv:2209.06640), estimator M3, c, g >= 0.

    A power law b N^-c up to the size 1/g, where it bends to the plateau b g^c; M1, our `power_law`, is its limit g = 0.
    N any size (examples, params), g in 1/N; c has no unit, and b that of L N^c.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    parameters: ClassVar[Mapping[str, Kind]] = {"b": Positive, "g": Positive, "c": Positive}
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)
    bends: ClassVar[tuple[float, ...]] = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return p.log_b + p.c * jnp.logaddexp(-jnp.log(inputs["N"]), p.log_g)

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """The bend 1/g at each of `bends` (0 the smallest size, 1 the largest, in log N), with the line through the rest."""
        log_size = np.log(inputs["N"])
        low, high = log_size.min(), log_size.max()
        rows = []
        for bend in self.bends:
            log_g = -(low + bend * (high - low))
            log_b, minus_c = log_log_line(np.logaddexp(-log_size, log_g), np.log(loss))
            rows.append((log_b, log_g, np.log(max(-minus_c, 1e-4))))
        return np.array(rows)
