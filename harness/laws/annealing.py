"""Loss curves under any learning-rate schedule, from two areas under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive
from harness.laws.curves import CurveLaw, LearningRates, grid_total, linear_start, log_difference, log_power_law
from workloads.base import BadInput

ALPHAS = np.geomspace(0.05, 2.0, 12)  # exponents from which fits start


@LAWS.register("annealing")
@dataclass(frozen=True)
class Annealing(CurveLaw):
    """L(s) = L0 + A S1^-alpha - C S2.  Tissue et al. 2024 (arXiv:2408.11029), eq. 1.

    S1 = sum_{i <= s} lr_i over the whole run, warmup included; S2 = sum_{i <= s} sum_{k <= i} (lr_{k-1} - lr_k)
    lambda^(i-k) without the warmup, whose differences are negative. L and L0 nats/token, step s counted from 0.
    lambda is one of `lambdas`, the one of lowest objective (profiled, not free). Without a fit it is the last of them.
    """

    parameters: ClassVar[Mapping[str, Kind]] = {"L0": Positive, "A": Positive, "C": Positive, "alpha": Positive}

    lambdas: tuple[float, ...] = (0.99, 0.995, 0.999)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "lambdas", tuple(self.lambdas))
        if not self.lambdas or not all(0 < each < 1 for each in self.lambdas):
            raise BadInput(f"options.lambdas={list(self.lambdas)} must be decay factors between 0 and 1, e.g. [0.999]")

    def variants(self) -> tuple[Law, ...]:
        return tuple(replace(self, lambdas=(each,)) for each in self.lambdas)

    @property
    def _feature(self) -> str:
        return _name(self.lambdas[-1])

    def at(self, rates: LearningRates, step: np.ndarray) -> dict[str, np.ndarray]:
        """S2 (m,) for each lambda: the running sum of the momentum m_i = lambda m_{i-1} + lr_{i-1} - lr_i."""
        from scipy.signal import lfilter  # half a second of every command's start, for this law alone

        drop = -rates.change
        return {_name(each): np.cumsum(lfilter([1.0], [1.0, -each], drop))[step] for each in self.lambdas}

    def on_grid(self, step: Array, lr: Array) -> dict[str, Array]:
        """As in the base; S2 in closed form, sum_k (lr_{k-1} - lr_k) (1 - lambda^(T-k+1)) / (1 - lambda)."""
        decay, length = self.lambdas[-1], jnp.diff(step)
        tail = decay ** (step[-1] - step[1:] + 1) * (1 - decay**length) / (1 - decay) / length
        area = jnp.sum(-jnp.diff(lr) * (1 - tail)) / (1 - decay)
        return {"S1": grid_total(step, lr)[-1:], self._feature: area[None]}

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        log_base = log_power_law(p, inputs["S1"])
        return log_difference(log_base, p.C * inputs[self._feature] * jnp.exp(-log_base))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """L0, A and C by least squares (none negative) at each of 12 exponents: scale-free in loss and learning rate."""
        log_s, area = np.log(inputs["S1"]), inputs[self._feature]
        return np.array([(*linear_start(-a * log_s, area, loss)[0], np.log(a)) for a in ALPHAS])


def _name(decay: float) -> str:
    return f"S2_{decay:g}"
