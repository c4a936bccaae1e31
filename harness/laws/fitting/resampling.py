"""Refits that say how uncertain a fit is: parametric, of points, of clusters, or leaving clusters out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.laws.base import Law
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict, solve
from harness.laws.fitting.uncertainty import Noise
from workloads.base import BadInput

KINDS = ("auto", "parametric", "points", "cluster")
FEW_POINTS = 30  # below, points are too few to stand for their population: simulate from the fitted law instead
FEW_CLUSTERS = 8  # below, a bootstrap of clusters undercovers (2/3/5 groups: a nominal 95% covers 50/74/83%)
_ROUGH = {"iterations": 60, "tolerance": 1e-4}


@dataclass(frozen=True)
class Refits:
    """Fits to other data that might have come: theta (B, P), and the noise factor (B,) of each.

    kind: parametric, points, cluster or jackknife. groups: what was resampled (points or clusters).
    """

    kind: str
    groups: int
    theta: np.ndarray
    inflation: np.ndarray
    converged: float

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "groups": self.groups,
            "draws": int(self.theta.shape[0]),
            "converged": self.converged,
        }


@dataclass(frozen=True)
class Fitted:
    """What refits start from. target, fitted, weight: (n,), in the objective's space; theta (P,)."""

    law: Law
    objective: Objective
    features: Mapping[str, np.ndarray]
    target: np.ndarray
    weight: np.ndarray
    theta: np.ndarray
    noise: Noise

    @property
    def fitted(self) -> np.ndarray:
        return predict(self.law, self.objective, self.features, self.theta[None])[0]

    def refit(self, target: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
        """theta (B, P) for data sets (B, n), started at theta, and the share that converged.

        A refit stops within 1e-4 of its objective or after 60 iterations: parameters that still slide to infinity then
        (an offset to zero) no longer move predictions (interval widths within 0.1% of those after 200 iterations).
        """
        draws = target.shape[0]
        starts = np.broadcast_to(self.theta, (draws, 1, self.theta.size))
        found = solve(self.law, self.objective, self.features, target, weight, starts, **_ROUGH)  # type: ignore[arg-type]
        return found.theta[:, 0], float(found.converged.mean())


def resample(base: Fitted, kind: str, cluster: np.ndarray | None, draws: int, seed: int) -> Refits:
    """Refits of the asked kind.

    "auto": by cluster where clusters are given; parametric with standard errors or fewer than 30 points; else of points.
    "cluster" with fewer than 8 clusters leaves each out in turn instead (delete-one-group jackknife, Student t).
    Raises BadInput on an unknown kind, or "cluster" without clusters.
    """
    if kind not in KINDS:
        raise BadInput(f"bootstrap kind '{kind}' is unknown; use one of {', '.join(KINDS)}")
    if kind == "cluster" and cluster is None:
        raise BadInput("a cluster bootstrap needs to know the clusters: cluster=COLUMN (a run, a size, a seed)")
    if kind == "auto":
        few = base.target.size < FEW_POINTS or base.noise.known
        kind = "cluster" if cluster is not None else "parametric" if few else "points"
    rng = np.random.default_rng(seed)
    if kind == "parametric":
        return _parametric(base, draws, rng)
    group = np.arange(base.target.size) if kind == "points" or cluster is None else _codes(cluster)
    if kind == "cluster" and group.max() + 1 < FEW_CLUSTERS:
        return _jackknife(base, group, draws, rng)
    return _bootstrap(base, kind, group, draws, rng)


def _codes(cluster: np.ndarray) -> np.ndarray:
    return np.unique(cluster, return_inverse=True)[1]


def _parametric(base: Fitted, draws: int, rng: np.random.Generator) -> Refits:
    """Data = fitted + noise whose own scale is drawn with its uncertainty, then refitted."""
    inflation = base.noise.inflation(rng, draws)
    fitted = base.fitted
    data = fitted + rng.normal(size=(draws, fitted.size)) * base.noise.point * inflation[:, None]
    theta, converged = base.refit(data, np.broadcast_to(base.weight, data.shape))
    return Refits("parametric", fitted.size, theta, inflation, converged)


def _bootstrap(base: Fitted, kind: str, group: np.ndarray, draws: int, rng: np.random.Generator) -> Refits:
    """Groups drawn with replacement (Efron 1979), as weights."""
    count = int(group.max()) + 1
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    weight = base.weight * times[:, group]
    theta, converged = base.refit(np.broadcast_to(base.target, weight.shape), weight)
    return Refits(kind, count, theta, np.ones(draws), converged)


def _jackknife(base: Fitted, group: np.ndarray, draws: int, rng: np.random.Generator) -> Refits:
    """Normal draws with the delete-one-group covariance (G-1)/G sum (t_g - mean)(t_g - mean)', and t tails of G - 1.

    Raises BadInput with fewer than three groups.
    """
    count = int(group.max()) + 1
    if count < 3:
        raise BadInput(f"{count} cluster(s) cannot say how much clusters differ: give at least 3, or no cluster")
    weight = base.weight * (group != np.arange(count)[:, None])
    left_out, converged = base.refit(np.broadcast_to(base.target, weight.shape), weight)
    deviation = (left_out - left_out.mean(axis=0)) * np.sqrt((count - 1) / count)
    inflation = np.sqrt((count - 1) / rng.chisquare(count - 1, draws))
    draw = rng.normal(size=(draws, count)) @ deviation * inflation[:, None]
    theta = np.clip(base.theta + draw, *base.law.bounds())
    return Refits("jackknife", count, theta, inflation, converged)
