"""Exponents from log-log lines, and what their intervals say about a predicted value.  Own.

A table's rows are first averaged (in the log) over the seeds of a setting, so that a line's residuals hold noise and
lack of fit alike; t intervals then have settings - coefficients degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from workloads.base import BadInput

BOUND = 0.15  # equivalence bound of an exponent, the one of learning-rate transfer
Claim = Literal["supported", "refuted", "undecided"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Exponent:
    """A least-squares estimate with its standard error and degrees of freedom."""

    value: float
    stderr: float
    dof: int

    def interval(self, level: float) -> Interval:
        """Two-sided t interval."""
        half = float(stats.t.ppf(0.5 + level / 2, self.dof)) * self.stderr
        return self.value - half, self.value + half

    def to_json(self) -> dict[str, Any]:
        return {
            "exponent": self.value,
            "stderr": self.stderr,
            "dof": self.dof,
            "ci90": list(self.interval(0.90)),
            "ci95": list(self.interval(0.95)),
        }


def exponent_verdict(
    value: float,
    interval: Callable[[float], Interval],
    expected: float,
    bound: float = BOUND,
    tests: int = 1,
) -> tuple[Claim, str]:
    """Is the exponent `expected`?  (verdict, reason).

    *supported* only if the 90% interval lies inside expected +- bound; *refuted* only if the 95% interval excludes
    `expected` and the value differs from it by more than `bound`; else *undecided*. `tests`: how many exponents are
    tried, of which one may refute (Bonferroni; equivalence of all needs no correction).
    """
    low90, high90 = interval(0.90)
    low, high = interval(1 - 0.05 / tests)
    shown = f"exponent {value:+.3f} against {expected:+.3g}, 90% [{low90:+.3f}, {high90:+.3f}]"
    if low90 > expected - bound and high90 < expected + bound:
        return "supported", f"The 90% interval lies within {bound:g} of the prediction: {shown}."
    if not low <= expected <= high and abs(value - expected) > bound:
        return "refuted", f"The interval excludes the prediction, by more than {bound:g}: {shown}."
    if abs(value - expected) > bound or high90 - low90 > 2 * bound:
        return "undecided", f"The interval is too wide; add seeds or a wider range: {shown}."
    return "undecided", f"The exponent lies near the bound {bound:g}; a wider range decides: {shown}."


@dataclass(frozen=True)
class LogLinear:
    """log2 y = coef[0] + sum_k coef[k] log2 x_k + noise: names (K,), coef (K + 1,), its covariance, sigma, dof."""

    names: tuple[str, ...]
    coef: np.ndarray
    covariance: np.ndarray
    sigma: float
    dof: int

    def exponent(self, name: str) -> Exponent:
        k = 1 + self.names.index(name)
        return Exponent(float(self.coef[k]), float(np.sqrt(self.covariance[k, k])), self.dof)


def fit_log_linear(y: np.ndarray, x: Mapping[str, np.ndarray]) -> LogLinear | None:
    """Least squares of log2 y (T,) on log2 of the columns x; None where they leave no degree of freedom or are collinear."""
    design = np.column_stack([np.ones(len(y)), *(np.log2(column) for column in x.values())])
    dof = design.shape[0] - design.shape[1]
    if dof < 1 or np.linalg.matrix_rank(design, tol=1e-6 * np.linalg.norm(design)) < design.shape[1]:
        return None
    inverse = np.linalg.inv(design.T @ design)
    coef = inverse @ design.T @ np.log2(y)
    residual = np.log2(y) - design @ coef
    sigma2 = float(residual @ residual) / dof
    return LogLinear(tuple(x), coef, inverse * sigma2, float(np.sqrt(sigma2)), dof)


def geometric_means(y: np.ndarray, *keys: np.ndarray) -> tuple[np.ndarray, ...]:
    """(geometric mean of y per distinct combination of keys, *the keys), each (settings,)."""
    settings, row = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    mean = np.bincount(row, np.log(y)) / np.bincount(row)
    return (np.exp(mean), *settings.T)


def all_of(verdicts: Mapping[str, tuple[Claim, str]]) -> tuple[Claim, str]:
    """The verdict on "every one of them": the first refuted, else the first undecided, else supported."""
    order: Sequence[Claim] = ("refuted", "undecided", "supported")
    name = min(verdicts, key=lambda name: order.index(verdicts[name][0]))
    verdict, reason = verdicts[name]
    if verdict == "supported":
        return verdict, f"All {len(verdicts)}; for one, {name}: {reason}"
    same = sum(v == verdict for v, _ in verdicts.values())
    return verdict, f"{same} of {len(verdicts)}; for one, {name}: {reason}"


def positive_columns(**columns: Any) -> dict[str, np.ndarray]:
    """Float arrays (T,) of one length, all finite and positive; raises BadInput naming the column."""
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    require_one_length(arrays)
    for name, column in arrays.items():
        bad = column[~(np.isfinite(column) & (column > 0))]
        if bad.size:
            raise BadInput(
                f"{name} holds {bad[0]} ({bad.size} such); it must be finite and positive, leave such rows out"
            )
    return arrays


def require_one_length(columns: Mapping[str, np.ndarray]) -> None:
    """Raise BadInput unless the columns are non-empty and of one length (T,)."""
    first, shape = next((name, column.shape) for name, column in columns.items())
    for name, column in columns.items():
        if column.ndim != 1 or column.shape != shape or column.size == 0:
            raise BadInput(f"{name} has shape {column.shape}, {first} {shape}; give one entry a run")


def labels(column: Any, count: int, default: str) -> np.ndarray:
    """A column of labels as text (T,), `default` for all where there is no such column."""
    return np.full(count, default) if column is None else np.asarray(column).astype(str)
