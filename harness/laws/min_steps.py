"""Loss from size and the least number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive

EXPONENTS = np.geomspace(0.03, 1.5, 8)
LEAST_SHARE = 1e-3  # of the loss that a term has at a start, where least squares would make it negative


@LAWS.register("min_steps")
@dataclass(frozen=True)
class MinSteps(Law):
    """L(N, S_min) = (N_c / N)^a_N + (S_c / S_min)^a_S.  Kaplan et al. 2020 (arXiv:2001.08361), eq. 1.6.

    N parameters without embeddings, S_min steps at a batch far above the critical one, L nats per token; N_c and S_c are in
    the units of N and S_min. At any batch: `time_batch`.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "S_min")
    parameters: ClassVar[Mapping[str, Kind]] = {"N_c": Positive, "a_N": Positive, "S_c": Positive, "a_S": Positive}
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        size = p.a_N * (p.log_N_c - jnp.log(inputs["N"]))
        time = p.a_S * (p.log_S_c - jnp.log(inputs["S_min"]))
        return jnp.logaddexp(size, time)

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """The 12 best of a grid of exponents, with the scales that are linear given them."""
        return two_terms(inputs["N"], inputs["S_min"], loss, 12)[0]


def two_terms(size: np.ndarray, steps: np.ndarray, loss: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts (keep, 4) of `min_steps` in internal coordinates, best first, and their squared relative errors (keep,).

    For each pair of EXPONENTS, A N^-a_N + B S^-a_S is fitted by linear least squares of the relative error; a negative
    coefficient becomes LEAST_SHARE of the loss.
    """
    a, b = (v.ravel() for v in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    log_size, log_steps = (np.log(v) - np.log(v).mean() for v in (size, steps))
    columns = np.stack([np.exp(-np.outer(a, log_size)), np.exp(-np.outer(b, log_steps))], axis=2) / loss[:, None]
    scale = np.sqrt(np.sum(columns**2, axis=1))
    unit = columns / scale[:, None, :]
    gram = np.einsum("gnp,gnq->gpq", unit, unit) + 1e-10 * np.eye(2)
    coef = np.linalg.solve(gram, unit.sum(axis=1)[..., None])[..., 0] / scale
    coef = np.maximum(coef, LEAST_SHARE / columns.mean(axis=1))
    error = np.sum((np.einsum("gnp,gp->gn", columns, coef) - 1.0) ** 2, axis=1)
    best = np.argsort(error, kind="stable")[:keep]
    a, b, coef = a[best], b[best], coef[best]
    scales = [np.log(coef[:, 0]) / a + np.log(size).mean(), np.log(coef[:, 1]) / b + np.log(steps).mean()]
    return np.stack([scales[0], np.log(a), scales[1], np.log(b)], axis=1), error[best]
