"""Effective learning rates: how much of the schedule is undone by the growth of parameter norms.

"Normalization and effective learning rates in reinforcement learning" (Lyle et al. 2024), sec. 3: where a matrix is
followed by a normalisation its scale does not matter, and the step that does is eta / |w|^2 for SGD (the gradient
itself falls as 1 / |w|: van Laarhoven 2017) and eta / |w| for updates whose size does not depend on the gradient's,
as Adam's.  Verdict: own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from harness.optimizers.base import Family
from harness.registry import nearest
from harness.transfer.exponent import Claim, all_of
from harness.transfer.plain import plain
from workloads.base import Array, BadInput, Params

POWER: Mapping[Family, int] = {"sgd": 2, "adam": 1, "matrix": 1}
BOUND = float(np.log2(1.1))  # an effective rate within 10% of the schedule follows it


def matrix_norms(params: Params) -> dict[str, Array]:
    """Path -> Frobenius norm of every leaf with two axes or more (one matrix each); pure, may be jitted and vmapped."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32))))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim >= 2
    }


def norm_trajectories(trajectories: Sequence[Sequence[Params]]) -> dict[str, np.ndarray]:
    """Path -> norms (S, T), from each of S seeds' parameters at T times."""
    norms = [[jax.device_get(matrix_norms(params)) for params in seed] for seed in trajectories]
    return {path: np.array([[at[path] for at in seed] for seed in norms], np.float64) for path in norms[0][0]}


def effective_learning_rate(learning_rate: Any, norm: Any, family: Family) -> Any:
    """eta / |w|^2 (SGD) or eta / |w| (Adam, Muon); broadcasts. Raises BadInput on other families."""
    if family not in POWER:
        raise BadInput(f"no effective learning rate is known for family '{family}'. {nearest(str(family), POWER)}")
    return learning_rate / norm ** POWER[family]


@dataclass(frozen=True)
class MatrixRate:
    """One matrix over training: norm and effective learning rate (S, T), and what the norm did to the latter.

    drift (S, T): log2 of the effective rate relative to its start, over that of the schedule; -1 at a time means that
    norm growth has halved the effective rate by then.
    """

    norm: np.ndarray
    effective: np.ndarray
    drift: np.ndarray

    @property
    def growth(self) -> float:
        """Norm at the end over norm at the start, geometric mean over seeds."""
        return float(np.exp(np.mean(np.log(self.norm[:, -1] / self.norm[:, 0]))))

    def interval(self, level: float) -> np.ndarray:
        """(2, T): t interval over seeds of the mean drift, NaN with one seed."""
        seeds = self.drift.shape[0]
        mean = self.drift.mean(0)
        if seeds < 2:
            return np.full((2, mean.size), np.nan)
        half = stats.t.ppf(0.5 + level / 2, seeds - 1) * self.drift.std(0, ddof=1) / np.sqrt(seeds)
        return np.stack([mean - half, mean + half])


@dataclass(frozen=True)
class EffectiveRates:
    """Does every matrix's effective learning rate follow the schedule?  steps (T,), learning_rate (T,)."""

    family: Family
    steps: np.ndarray
    learning_rate: np.ndarray
    matrices: dict[str, MatrixRate]
    verdict: Claim
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Means over seeds of every matrix, with the final drift's 95% interval (log2)."""
        return {
            "family": self.family,
            "steps": plain(self.steps),
            "learning_rate": plain(self.learning_rate),
            "verdict": self.verdict,
            "reason": self.reason,
            "matrices": {
                name: {
                    "norm": plain(one.norm.mean(0)),
                    "growth": one.growth,
                    "effective_lr": plain(one.effective.mean(0)),
                    "final_drift": float(one.drift[:, -1].mean()),
                    "final_drift_ci95": plain(one.interval(0.95)[:, -1]),
                }
                for name, one in self.matrices.items()
            },
        }


def effective_rates(
    steps: Any, learning_rate: Any, norms: Mapping[str, Any], family: Family, since: float = 0.0
) -> EffectiveRates:
    """Norm growth and effective learning rates from norms recorded at `steps` (T,), name -> (S seeds, T) each.

    learning_rate (T,): the schedule's, positive. since: first step of the claim (later than 0 where a matrix begins at
    zero or in warmup). *supported* (every effective rate follows the schedule): for every matrix and time the 90%
    interval of the drift lies within 10%. *refuted*: for some matrix the Bonferroni-corrected 95% interval of the final
    drift excludes 0 and exceeds 10%. Else *undecided*, so with one seed.
    Raises BadInput on shapes that do not match, non-positive norms or rates, unknown families.
    """
    times, rates = (np.asarray(column, np.float64) for column in (steps, learning_rate))
    arrays = {name: np.asarray(values, np.float64) for name, values in norms.items()}
    kept = times >= since
    _check(times, rates, arrays, kept)
    matrices = {name: _matrix(values[:, kept], rates[kept], family) for name, values in arrays.items()}
    verdicts = {name: _follows(one, len(matrices)) for name, one in matrices.items()}
    return EffectiveRates(family, times[kept], rates[kept], matrices, *all_of(verdicts))


def _check(times: np.ndarray, rates: np.ndarray, norms: Mapping[str, np.ndarray], kept: np.ndarray) -> None:
    if times.ndim != 1 or rates.shape != times.shape or kept.sum() < 2 or not norms:
        raise BadInput(
            f"steps {times.shape} and learning_rate {rates.shape} must be of one length with at least 2 steps from `since` on, "
            f"and norms must name a matrix"
        )
    for name, values in {"learning_rate": rates[None], **norms}.items():
        if values.ndim != 2 or values.shape[1] != times.size:
            raise BadInput(f"norms of {name} have shape {values.shape}; give (seeds, {times.size})")
        if not np.all(np.isfinite(values[:, kept]) & (values[:, kept] > 0)):
            raise BadInput(f"{name} is not positive and finite throughout; choose `since` after it has left zero")


def _matrix(norm: np.ndarray, rates: np.ndarray, family: Family) -> MatrixRate:
    effective = effective_learning_rate(rates[None], norm, family)
    relative = np.log2(effective / effective[:, :1]) - np.log2(rates / rates[0])[None]
    return MatrixRate(norm, effective, relative)


def _follows(one: MatrixRate, tests: int) -> tuple[Claim, str]:
    final = float(one.drift[:, -1].mean())
    shown = f"norm x{one.growth:.3g}, effective rate x{2**final:.3g} of the schedule's at the end"
    if one.drift.shape[0] < 2:
        return "undecided", f"One seed has no interval; run more: {shown}."
    low90, high90 = one.interval(0.90)
    low, high = one.interval(1 - 0.05 / tests)[:, -1]
    if low90.min() > -BOUND and high90.max() < BOUND:
        return "supported", f"Within 10% of the schedule at every time: {shown}."
    if (low > 0 or high < 0) and abs(final) > BOUND:
        return "refuted", f"The norm moved the effective rate by more than 10%: {shown}."
    return "undecided", f"Neither within 10% throughout nor clearly off at the end; run more seeds: {shown}."
