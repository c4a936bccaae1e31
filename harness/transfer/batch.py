"""Best and largest stable learning rate against the batch size.

Predicted exponents of the best rate below the critical batch: 1 for SGD (Goyal et al. 2017; Smith et al. 2018), 1/2 for
Adam (Malladi et al. 2022; Granziol et al. 2022, "Learning rates as a function of batch size").  The gradient noise scale
and the critical batch it predicts are in harness.transfer.noise_scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.optimizers.base import Family
from harness.registry import nearest
from harness.transfer.censored import Censored, fit_censored
from harness.transfer.exponent import BOUND, Claim, exponent_verdict, labels, positive_columns, require_one_length
from harness.transfer.learning_rate import Transfer, learning_rate_transfer
from harness.transfer.plain import plain
from workloads.base import BadInput

PREDICTED: Mapping[Family, float] = {"sgd": 1.0, "adam": 0.5}
_FLOOR = 0.05  # of the noise of largest stable rates, in steps of the learning-rate grid


@dataclass(frozen=True)
class BatchExponent:
    """Is the best learning rate proportional to batch^predicted?  The verdict, on the evidence in `transfer`."""

    family: Family
    predicted: float
    transfer: Transfer
    verdict: Claim
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The verdict, the exponent with its intervals, and the best learning rate of every batch."""
        entry = self.transfer.to_json()
        return {
            "family": self.family,
            "predicted_exponent": self.predicted,
            "exponent": entry["drift_exponent"],
            "ci90": entry["drift_ci90"],
            "ci95": entry["drift_ci95"],
            "verdict": self.verdict,
            "reason": self.reason,
            "batches": entry["widths"],
            "best_lr": entry["best_lr"],
            "best_lr_ci95": entry["best_lr_ci95"],
            "notes": entry["notes"],
        }


def best_rate_exponent(
    batch: Any, learning_rate: Any, loss: Any, seed: Any, diverged: Any, *, family: Family
) -> BatchExponent:
    """The exponent of the best learning rate in the batch size, one entry a run, (T,) each (as learning_rate_transfer).

    family: of the optimizer, "sgd" or "adam". *supported*: the 90% interval lies within 0.15 of the predicted exponent;
    *refuted*: the 95% interval excludes it and the exponent differs by more than 0.15; else *undecided*, also where
    an extreme batch or all but two show no optimum.
    The predictions hold below the critical batch: leave out batches beyond it. Raises BadInput on unknown
    families and as learning_rate_transfer does.
    """
    if family not in PREDICTED:
        raise BadInput(f"no batch exponent is predicted for family '{family}'. {nearest(str(family), PREDICTED)}")
    found = learning_rate_transfer(batch, learning_rate, loss, seed, diverged, base_scale=float(np.min(batch)))
    verdict, reason = _verdict(found, PREDICTED[family])
    return BatchExponent(family, PREDICTED[family], found, verdict, reason)


def _verdict(found: Transfer, predicted: float) -> tuple[Claim, str]:
    extremes = [float(s) for s in (found.scales[0], found.scales[-1]) if float(s) in found.notes]
    if extremes:
        return "undecided", f"At batch {extremes[0]:g}: {found.notes[extremes[0]]}."
    if found.drift is None:
        return "undecided", found.reason
    return exponent_verdict(found.drift.exponent, found.drift.interval, predicted)


@dataclass(frozen=True)
class StableRate:
    """Largest stable learning rate per batch, and its exponent in the batch.

    batches (B,). low, high (B,): it lies between them (geometric means over seeds of the largest stable and the
    smallest diverged rate); infinite high where a seed never diverged, zero low where one always did.
    exponent, ci90, ci95: NaN where fewer than 3 batches bound it. expected: None without a prediction, then no verdict.
    """

    batches: np.ndarray
    low: np.ndarray
    high: np.ndarray
    exponent: float
    ci90: tuple[float, float]
    ci95: tuple[float, float]
    expected: float | None
    verdict: Claim | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))  # type: ignore[no-any-return]


def largest_stable_rate(
    batch: Any, learning_rate: Any, diverged: Any, seed: Any = None, *, expected: float | None = None
) -> StableRate:
    """Interval-censored log-linear fit of the largest stable learning rate, one entry a run, (T,) each.

    diverged: bool. Each seed (labels, None for one) of a batch brackets its rate between the largest one
    below which none diverged and the smallest that did; a batch is one response, its seeds' mean bracket. Batches that
    are not bracketed on both sides inform the fit by the side they have. expected: exponent to hold the fit against,
    with the words and bounds of best_rate_exponent.
    Raises BadInput on bad columns and on a (batch, seed, learning rate) that both diverged and did not.
    """
    table = positive_columns(batch=batch, learning_rate=learning_rate)
    flags = np.asarray(diverged, bool)
    seeds = labels(seed, table["batch"].size, "0")
    require_one_length(table | {"diverged": flags, "seed": seeds})
    rate = np.log2(table["learning_rate"])
    batches = np.unique(table["batch"])
    brackets = np.array([_batch_bracket(rate[m], flags[m], seeds[m]) for m in (table["batch"] == b for b in batches)])
    low, high = brackets.T
    x = np.log2(batches)
    widths = (high - low)[np.isfinite(high - low)]
    fitted = None
    if widths.size:
        fitted = fit_censored(
            np.column_stack([np.ones_like(x), x - x.mean()]), low, high, _FLOOR * float(widths.mean())
        )
    nothing = (np.nan, np.nan)
    ci90, ci95 = (nothing if fitted is None else fitted.interval(1, level) for level in (0.90, 0.95))
    verdict, reason = (None, "") if expected is None else _stable_verdict(fitted, expected)
    return StableRate(
        batches=batches,
        low=2.0**low,
        high=2.0**high,
        exponent=np.nan if fitted is None else float(fitted.coef[1]),
        ci90=ci90,
        ci95=ci95,
        expected=expected,
        verdict=verdict,
        reason=reason,
    )


def _batch_bracket(rate: np.ndarray, diverged: np.ndarray, seeds: np.ndarray) -> tuple[float, float]:
    """Mean over seeds of the two ends, in log2."""
    ends = [_bracket(rate[seeds == s], diverged[seeds == s]) for s in np.unique(seeds)]
    low, high = np.mean(ends, axis=0)
    return float(low), float(high)


def _bracket(rate: np.ndarray, diverged: np.ndarray) -> tuple[float, float]:
    """Largest stable rate below every diverged one, and the smallest diverged; -inf and inf where there is none."""
    if both := set(rate[diverged]) & set(rate[~diverged]):
        raise BadInput(f"learning rate {2.0 ** min(both):.4g} of one batch both diverged and did not; give runs seeds")
    high = float(rate[diverged].min(initial=np.inf))
    return float(rate[~diverged & (rate < high)].max(initial=-np.inf)), high


def _stable_verdict(fitted: Censored | None, expected: float) -> tuple[Claim, str]:
    if fitted is None:
        return "undecided", "Fewer than 3 batches bound the largest stable rate; sweep learning rates up to divergence."
    verdict, reason = exponent_verdict(float(fitted.coef[1]), lambda level: fitted.interval(1, level), expected, BOUND)
    hint = " A finer learning-rate grid narrows it too." if verdict == "undecided" else ""
    return verdict, reason + hint
