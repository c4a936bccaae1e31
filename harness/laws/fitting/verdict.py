"""Did a prediction, written down before the run, come true?  Own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.laws.fitting.fit import Prediction
from workloads.base import BadInput

NARROW = 0.03  # half-width allowed, as a fraction of the range of the fitted losses


@dataclass(frozen=True)
class PredictionVerdict:
    """verdict with a one-sentence reason; evidence holds every number it rests on, as plain JSON types."""

    verdict: Literal["supported", "refuted", "undecided"]
    reason: str
    evidence: dict[str, Any]


def prediction_verdict(
    predicted: Prediction, observed: float, losses: np.ndarray, straight_line: float
) -> PredictionVerdict:
    """Judge one predicted loss against the observed mean.

    predicted: the interval from `Fit.predict` at one new point. losses: the (n,) losses that the fit saw (or
    `Fit.losses`); their range is the yardstick. straight_line: the loss that the line through the last two points
    predicts. Supported: the interval covers, its half-width is at most 3% of the range, and the error is no larger
    than the line's. Refuted: narrow and not covering. Else undecided. Raises BadInput unless one point is predicted.
    """
    values = [np.asarray(v, np.float64).reshape(-1) for v in predicted]
    if any(v.size != 1 or not np.isfinite(v[0]) for v in values):
        raise BadInput("a verdict is about one finite predicted point; call it once for each")
    mean, low, high = (float(v[0]) for v in values)
    span = float(np.max(losses) - np.min(losses))
    half = (high - low) / 2
    error, line_error = abs(mean - observed), abs(straight_line - observed)
    evidence = {
        "predicted": mean,
        "low": low,
        "high": high,
        "observed": float(observed) if np.isfinite(observed) else None,
        "half_width": half,
        "half_width_allowed": NARROW * span,
        "error": error if np.isfinite(error) else None,
        "straight_line": float(straight_line),
        "straight_line_error": line_error if np.isfinite(line_error) else None,
    }
    verdict, reason = _decide(
        low <= observed <= high, half, NARROW * span, error, line_error, bool(np.isfinite(observed))
    )
    return PredictionVerdict(verdict, reason, evidence)


def _decide(
    covers: bool, half: float, allowed: float, error: float, line_error: float, finite: bool
) -> tuple[Literal["supported", "refuted", "undecided"], str]:
    if not finite:
        return (
            "undecided",
            "The new run has no finite loss, so there is nothing to compare; lower its learning rate.",
        )
    if half > allowed:
        return "undecided", (
            f"The interval's half-width {half:.3g} exceeds 3% of the fitted range ({allowed:.3g}); add seeds or sizes."
        )
    if not covers:
        return (
            "refuted",
            f"The observed loss lies {error:.3g} from the prediction, outside the interval +-{half:.3g}.",
        )
    if error > line_error:
        return "undecided", (
            f"The interval covers, but a straight line through the last two points was closer "
            f"({line_error:.3g} against {error:.3g})."
        )
    return "supported", (
        f"The interval +-{half:.3g} covers the observed loss and the error {error:.3g} is no larger than "
        f"the straight line's {line_error:.3g}."
    )
