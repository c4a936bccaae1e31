"""From times to performance profiles (Dolan and More 2002) under AlgoPerf's rules for held-out variants.

Shapes: S submissions, C columns (W base workloads, then held-out variants), K studies, T values of tau; leading axes are
resamples.
"""

from __future__ import annotations

import numpy as np

from harness.scoring.rules import TAU_MAX, Rules
from harness.scoring.targets import Workloads


def median_times(seconds: np.ndarray) -> np.ndarray:
    """(..., K) -> (...): the median over the studies present (not NaN); inf if there is none, or if a middle one is inf."""
    present = np.sum(~np.isnan(seconds), axis=-1, keepdims=True)
    ordered = np.sort(seconds, axis=-1)  # NaN comes last
    low = np.take_along_axis(ordered, np.maximum(present - 1, 0) // 2, axis=-1)
    high = np.take_along_axis(ordered, present // 2 % seconds.shape[-1], axis=-1)
    return np.where(present > 0, (low + high) / 2, np.inf)[..., 0]


def in_the_running(times: np.ndarray, workloads: Workloads) -> np.ndarray:
    """(..., S, C) times with inf for what does not count.

    A variant does not count where its base is not met; then nothing counts beyond TAU_MAX times the column's fastest; then
    a base does not count where one of its variants does not.
    """
    counts = times.copy()
    for variant, base in workloads.variants:
        counts[..., variant] = np.where(np.isinf(counts[..., base]), np.inf, counts[..., variant])
    fastest = counts.min(axis=-2, keepdims=True)
    counts = np.where(counts > TAU_MAX * fastest, np.inf, counts)
    for variant, base in workloads.variants:
        counts[..., base] = np.where(np.isinf(counts[..., variant]), np.inf, counts[..., base])
    return counts


def ratios(times: np.ndarray, workloads: Workloads) -> np.ndarray:
    """(..., S, C) -> (..., S, W): times over the fastest that counts on each base workload; inf where one does not count."""
    counts = in_the_running(times, workloads)[..., : len(workloads.base)]
    fastest = counts.min(axis=-2, keepdims=True)
    return np.where(np.isinf(counts), np.inf, counts / np.where(np.isinf(fastest), 1.0, fastest))


def profiles(ratio: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """(..., S, W), (T,) -> (..., S, T): rho(tau), the share of all base workloads with a ratio of at most tau."""
    return np.stack([np.mean(ratio <= one, axis=-1) for one in tau], axis=-1)


def score(ratio: np.ndarray, rules: Rules) -> np.ndarray:
    """(..., S, W) -> (..., S): the mean of rho over tau, from 1 to TAU_MAX."""
    return np.mean(rules.area(ratio), axis=-1)
