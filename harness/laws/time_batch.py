"""Loss from size, steps and batch: whole training trajectories at any batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive
from harness.laws.fitting.fit import Fit, Prediction
from harness.laws.min_steps import two_terms

NEWTON = 6  # steps of the search: over exponents from 0.05 to 4.5 it is then within 2e-8 of the root
MIDDLES = 5  # starts of B_crit at the middle loss, from a tenth of the smallest to ten times the largest batch
BATCH_EXPONENTS = (0.1, 0.2, 0.5)  # starts of a_B
KEEP = 3  # best size and step exponents for each of them


@LAWS.register("time_batch")
@dataclass(frozen=True)
class TimeBatch(Law):
    """L(N, S, B) = (N_c / N)^a_N + (S_c / S_min)^a_S, S_min = S / (1 + B_crit(L) / B), B_crit(L) = B_star / L^(1 / a_B).

    Kaplan et al. 2020 (arXiv:2001.08361), eqs. 1.4, 1.6, 5.5; Su et al. 2024 (arXiv:2403.06563). N parameters
    without embeddings, S steps at a constant batch B (tokens, or any unit: B_star has it), L nats per token after warmup.
    L is implicit. N_c, S_c, B_star are in the units of N, S, B. Curves of one batch size do not identify all of them: far
    below B_crit only the product S_c B_star matters, far above it neither B_star nor a_B.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "S", "B")
    parameters: ClassVar[Mapping[str, Kind]] = {
        "N_c": Positive,
        "a_N": Positive,
        "S_c": Positive,
        "a_S": Positive,
        "B_star": Positive,
        "a_B": Positive,
    }
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        """The root x = log L of F(x) = x - log((N_c/N)^a_N + (S_c/S_min(x))^a_S).

        F increases (slope 1 to 1 + a_S/a_B) and is concave, so Newton's steps from a point below the root rise to it and
        never pass it: from the loss at an infinite batch, or, if larger, from where only the waste of a small batch counts.
        They are not differentiated: two more steps at the root carry the first and second derivatives (each makes one more
        order exact; F vanishes there with its first derivative along the root, so those of the slope do not count).
        """
        size = p.a_N * (p.log_N_c - jnp.log(inputs["N"]))
        time = p.a_S * (p.log_S_c - jnp.log(inputs["S"]))
        known = (size, time, p.log_B_star - jnp.log(inputs["B"]), 1.0 / p.a_B, p.a_S)
        fixed = jax.lax.stop_gradient(known)
        low = jnp.maximum(jnp.logaddexp(*fixed[:2]), (fixed[1] + fixed[4] * fixed[2]) / (1.0 + fixed[4] * fixed[3]))
        root = jax.lax.fori_loop(0, NEWTON, lambda _, x: x - _miss(x, *fixed) / _slope(x, *fixed), low)
        slope = _slope(root, *fixed)
        for _ in range(2):
            root = root - _miss(root, *known) / slope
        return root

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """B_crit at the middle loss and a_B on a grid; with B_crit(observed loss) the rest is `min_steps`."""
        batch, log_loss = inputs["B"], np.log(loss)
        middle = float(np.median(log_loss))
        starts = []
        for log_crit in np.linspace(np.log(batch.min() / 10), np.log(batch.max() * 10), MIDDLES):
            for a_b in BATCH_EXPONENTS:
                log_star = log_crit + middle / a_b
                least = inputs["S"] / (1 + np.exp(log_star - log_loss / a_b) / batch)
                rows = two_terms(inputs["N"], least, loss, KEEP)[0]
                starts.append(np.column_stack([rows, np.full((KEEP, 2), [log_star, np.log(a_b)])]))
        return np.concatenate(starts)


def _miss(x: Array, size: Array, time: Array, log_batch: Array, inverse: Array, a_s: Array) -> Array:
    """F(x), (n,): size and time are the logs of both terms at an infinite batch, log_batch is log(B_star / B)."""
    return x - jnp.logaddexp(size, time + a_s * jnp.logaddexp(0.0, log_batch - x * inverse))


def _slope(x: Array, size: Array, time: Array, log_batch: Array, inverse: Array, a_s: Array) -> Array:
    waste = log_batch - x * inverse
    share = jax.nn.sigmoid(time + a_s * jnp.logaddexp(0.0, waste) - size)
    return 1.0 + share * a_s * inverse * jax.nn.sigmoid(waste)


def critical_batch_at(params: Mapping[str, float], loss: Any) -> np.ndarray:
    """B_crit(L) = B_star / L^(1/a_B), in the unit of B, at losses of any shape.  Kaplan et al. 2020, eq. 1.4."""
    return params["B_star"] * np.asarray(loss, np.float64) ** (-1.0 / params["a_B"])


def least_steps(params: Mapping[str, float], steps: Any, batch: Any, loss: Any) -> np.ndarray:
    """S_min = S / (1 + B_crit(L) / B): the steps that a batch far above B_crit would need.  Kaplan et al. 2020, eq. 5.4."""
    return np.asarray(steps, np.float64) / (1.0 + critical_batch_at(params, loss) / np.asarray(batch, np.float64))


def least_compute(params: Mapping[str, float], compute: Any, batch: Any, loss: Any) -> np.ndarray:
    """C_min = C / (1 + B / B_crit(L)): the compute that a batch far below B_crit would need.  Kaplan et al. 2020, eq. 5.5."""
    return np.asarray(compute, np.float64) / (1.0 + np.asarray(batch, np.float64) / critical_batch_at(params, loss))


def trajectory(fitted: Fit, size: float, batch: float, steps: Any) -> Prediction:
    """The whole loss curve, with intervals, of a run of `size` parameters at `batch`, after `steps` (m,)."""
    steps = np.asarray(steps, np.float64)
    return fitted.predict({"N": np.full_like(steps, size), "S": steps, "B": np.full_like(steps, batch)})
