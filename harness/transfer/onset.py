"""Where an instability sets in, extrapolated from smaller and lower-rate runs, then verified.

"Small-scale proxies for large-scale Transformer training instabilities" (Wortsman et al. 2023), sec. 3.1 and 3.3: the
largest attention logit grows with learning rate and size, and runs beyond about 1e4 diverged; output logits drift away
from the log probabilities, told by |mean log Z|.  The log-linear fit, its censoring and its intervals: own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from harness.transfer.censored import Censored, fit_censored
from harness.transfer.exponent import Claim, positive_columns, require_one_length
from harness.transfer.plain import plain
from workloads.base import BadInput

ATTENTION_LOGIT = 1e4  # runs whose largest attention logit passed this diverged: Wortsman et al. 2023, sec. 3.3
NARROW = 8.0  # a predicted interval (high / low) wider than this is no prediction
BRACKET = 4.0  # nor do runs whose learning rates or sizes bracket the onset this widely verify one
_FLOOR = 1e-3  # of sigma, in octaves
_COLUMN = {"size": 1, "learning_rate": 2}


@dataclass(frozen=True)
class Onset:
    """The learning rate (or size) at which a run reaches the threshold, `at` the given size (or learning rate).

    value: where the fitted line does. low, high: between them a new run does, with the stated level; 0 and infinity
    where the fit does not bound it (the quantity does not clearly grow).
    """

    axis: str
    at: float
    value: float
    low: float
    high: float
    level: float

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class OnsetFit:
    """log2 quantity = c + size_exponent log2 size + rate_exponent log2 lr + noise, from `runs` runs.

    beyond: how many of them were past the threshold or diverged, and so only told that they were.
    """

    threshold: float
    runs: int
    beyond: int
    fitted: Censored

    @property
    def size_exponent(self) -> float:
        return float(self.fitted.coef[1])

    @property
    def rate_exponent(self) -> float:
        return float(self.fitted.coef[2])

    def predict(self, size: float, learning_rate: float, level: float = 0.95) -> tuple[float, float, float]:
        """(value, low, high) of the quantity in a new run."""
        x = np.array([1.0, np.log2(size), np.log2(learning_rate)])
        center = float(x @ self.fitted.coef)
        half = self._quantile(level) * float(np.sqrt(self.fitted.sigma**2 + x @ self.fitted.covariance @ x))
        return 2.0**center, 2.0 ** (center - half), 2.0 ** (center + half)

    def learning_rate(self, size: float, level: float = 0.95) -> Onset:
        """The learning rate at which a run of this size becomes unstable."""
        return self._onset("learning_rate", size, level)

    def size(self, learning_rate: float, level: float = 0.95) -> Onset:
        """The size at which a run at this learning rate becomes unstable."""
        return self._onset("size", learning_rate, level)

    def _onset(self, axis: str, at: float, level: float) -> Onset:
        """Inverse prediction (Fieller 1954): all x with |threshold - line(x)| within the prediction band."""
        k = _COLUMN[axis]
        base = np.array([1.0, np.log2(at), np.log2(at)])
        base[k] = 0.0
        coef, covariance = self.fitted.coef, self.fitted.covariance
        gap, slope = float(np.log2(self.threshold) - base @ coef), float(coef[k])
        t2 = self._quantile(level) ** 2
        a = slope**2 - t2 * covariance[k, k]
        half_b = -(gap * slope + t2 * float(base @ covariance[:, k]))
        c = gap**2 - t2 * float(self.fitted.sigma**2 + base @ covariance @ base)
        inside = half_b**2 - a * c
        value = _power(gap / slope) if slope > 0 else np.inf
        if slope <= 0 or a <= 0 or inside < 0:
            return Onset(axis, float(at), value, 0.0, np.inf, level)
        low, high = (float(-half_b + sign * np.sqrt(inside)) / a for sign in (-1, 1))
        return Onset(axis, float(at), value, _power(low), _power(high), level)

    def _quantile(self, level: float) -> float:
        return float(stats.t.ppf(0.5 + level / 2, self.fitted.dof))

    def to_json(self) -> dict[str, Any]:
        intervals = {name: self.fitted.interval(k, 0.95) for name, k in _COLUMN.items()}
        return {
            "threshold": self.threshold,
            "runs": self.runs,
            "beyond": self.beyond,
            "dof": self.fitted.dof,
            "sigma_log2": self.fitted.sigma,
            "size_exponent": self.size_exponent,
            "size_exponent_ci95": plain(intervals["size"]),
            "rate_exponent": self.rate_exponent,
            "rate_exponent_ci95": plain(intervals["learning_rate"]),
        }


def _power(log2: float) -> float:
    return float(np.exp2(np.clip(log2, -1000.0, 1000.0)))


def fit_onset(
    size: Any, learning_rate: Any, quantity: Any, *, threshold: float = ATTENTION_LOGIT, diverged: Any = False
) -> OnsetFit:
    """Fit the growth of an instability's quantity with size and learning rate, one entry a run, (T,) each.

    size: width or number of parameters. quantity: the largest attention logit, or the output logits' drift |mean log Z
    - its value at initialisation|; positive. threshold: where the instability sets in, in the quantity's unit.
    Runs at or beyond it, diverged or without a finite quantity are right-censored there: growth past the onset
    is another law. Choose the runs by size and learning rate, never by their quantity.
    Raises BadInput on bad columns, and where fewer than 4 runs below the threshold, 2 sizes or 2 learning rates remain.
    """
    table, value, beyond = _runs(size, learning_rate, quantity, threshold, diverged)
    design = np.column_stack([np.ones(value.size), np.log2(table["size"]), np.log2(table["learning_rate"])])
    measured = design[~beyond]
    if len(measured) < 4 or np.linalg.matrix_rank(measured, tol=1e-9 * np.linalg.norm(design)) < 3:
        raise BadInput(
            f"{len(measured)} runs stay below the threshold {threshold:g}; the fit needs at least 4, over 2 sizes and 2 "
            f"learning rates: add smaller runs or lower learning rates"
        )
    low = np.where(beyond, np.log2(threshold), np.log2(value))
    fitted = fit_censored(design, low, np.where(beyond, np.inf, low), _FLOOR)
    assert fitted is not None
    return OnsetFit(threshold, value.size, int(beyond.sum()), fitted)


def _runs(
    size: Any, learning_rate: Any, quantity: Any, threshold: float, diverged: Any
) -> tuple[Mapping[str, np.ndarray], np.ndarray, np.ndarray]:
    """Checked columns, the quantity with 1 where it is not read, and which runs are beyond the threshold."""
    if not (np.isfinite(threshold) and threshold > 0):
        raise BadInput(f"threshold={threshold} must be positive and finite, in the unit of the quantity")
    table = positive_columns(size=size, learning_rate=learning_rate)
    value = np.asarray(quantity, np.float64)
    flagged = np.broadcast_to(np.asarray(diverged, bool), value.shape)
    require_one_length(table | {"quantity": value})
    beyond = flagged | ~np.isfinite(value) | (value >= threshold)
    if np.any(value[~beyond] <= 0):
        raise BadInput(
            f"quantity holds {value[~beyond].min()}; give its magnitude, such as |mean log Z - its initial value|"
        )
    return table, np.where(beyond, 1.0, value), beyond


@dataclass(frozen=True)
class Verification:
    """A predicted onset against runs trained later: below and above bracket where the instability set in."""

    predicted: Onset
    below: float
    above: float
    verdict: Claim
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "predicted": self.predicted.to_json(),
            "observed_bracket": plain([self.below, self.above]),
            "verdict": self.verdict,
            "reason": self.reason,
        }


def verify_onset(
    predicted: Onset, where: Any, quantity: Any, *, threshold: float = ATTENTION_LOGIT, diverged: Any = False
) -> Verification:
    """Hold a prediction against runs at its size (or learning rate), which took no part in the fit; (T,) each.

    where: their learning rates (or sizes), as `predicted.axis` says. The bracket goes from the largest one up to which
    every run stays below the threshold to the smallest one from which on every run is beyond it (0 and infinity where
    there is none).
    *refuted*: bracket and predicted interval are disjoint. *supported*: they overlap, the interval is narrower than 8x
    and the bracket no wider than 4x. Else *undecided*, with what to run.
    """
    table, _, beyond = _runs(where, where, quantity, threshold, diverged)
    x = table["size"]
    first_beyond = x[beyond].min() if beyond.any() else np.inf
    last_below = x[~beyond].max() if not beyond.all() else 0.0
    below = float(x[~beyond & (x < first_beyond)].max(initial=0.0))
    above = float(x[beyond & (x > last_below)].min(initial=np.inf))
    return Verification(predicted, below, above, *_hit(predicted, below, above))


def _hit(predicted: Onset, below: float, above: float) -> tuple[Claim, str]:
    shown = (
        f"predicted {predicted.value:.3g} [{predicted.low:.3g}, {predicted.high:.3g}], seen [{below:.3g}, {above:.3g}]"
    )
    if below > predicted.high or above < predicted.low:
        return "refuted", f"The instability did not set in where predicted: {shown}."
    if not (predicted.low > 0 and predicted.high < NARROW * predicted.low):
        return "undecided", f"The prediction is too wide; add runs closer to the onset: {shown}."
    if not (below > 0 and above <= BRACKET * below * (1 + 1e-9)):
        return "undecided", f"The runs do not bracket the onset within {BRACKET:g}x; run values between: {shown}."
    return "supported", f"The instability set in where predicted: {shown}."
