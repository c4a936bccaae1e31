"""What the residuals say about the form of the law and the independence of the points."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

SUSPICIOUS = 0.01  # p-value below which a pattern is spoken of
FAR = 6.0  # robust standard deviations beyond which a point is listed


def describe(
    residual: np.ndarray, size: np.ndarray, curve: np.ndarray | None = None
) -> tuple[dict[str, Any], list[str]]:
    """({"rms", "median_abs", "skew", "lag1", "trend", "spread", "far"}, warnings) of residuals (n,), observed - fitted.

    size: (n,), what the points are ordered by. curve: (n,), neighbours are then neighbours within a curve.
    lag1: correlation of neighbours, with p-value. trend: rank correlation of the residual with the size (a law of the wrong
    shape); spread: of its absolute value (noise that changes with size; give weights). far: rows beyond 6 robust standard
    deviations.
    """
    center = residual - np.median(residual)
    robust = 1.4826 * float(np.median(np.abs(center)))
    lag, lag_p = _neighbours(center, size, curve)
    trend, spread = _rank(size, center), _rank(size, np.abs(center))
    far = np.flatnonzero(np.abs(center) > FAR * robust) if robust > 0 else np.array([], int)
    summary = {
        "rms": float(np.sqrt(np.mean(residual**2))),
        "median_abs": float(np.median(np.abs(residual))),
        "skew": float(stats.skew(residual)) if residual.size > 2 and np.ptp(residual) > 0 else 0.0,
        "lag1": {"correlation": lag, "p": lag_p},
        "trend": trend,
        "spread": spread,
        "far": far.tolist(),
    }
    return summary, _warnings(summary, curve is not None)


def _neighbours(center: np.ndarray, size: np.ndarray, curve: np.ndarray | None) -> tuple[float, float]:
    order = np.lexsort((size,) if curve is None else (size, curve))
    left, right = order[:-1], order[1:]
    if curve is not None:
        same = curve[left] == curve[right]
        left, right = left[same], right[same]
    if left.size < 5 or np.ptp(center) == 0:
        return 0.0, 1.0
    correlation = float(np.sum(center[left] * center[right]) / np.sum(center**2) * center.size / left.size)
    return correlation, float(2 * stats.norm.sf(abs(correlation) * np.sqrt(left.size)))


def _rank(size: np.ndarray, value: np.ndarray) -> dict[str, float]:
    if size.size < 5 or np.ptp(size) == 0 or np.ptp(value) == 0:
        return {"correlation": 0.0, "p": 1.0}
    found = stats.spearmanr(size, value)
    return {"correlation": float(found.statistic), "p": float(found.pvalue)}


def _warnings(summary: dict[str, Any], curves: bool) -> list[str]:
    found = []
    if summary["lag1"]["p"] < SUSPICIOUS and summary["lag1"]["correlation"] > 0:
        cure = "leave out or resample whole curves" if curves else "name what they share: cluster=COLUMN"
        found.append(
            f"neighbouring residuals are correlated ({summary['lag1']['correlation']:.2f}): the points are not "
            f"independent or the law misses a shape; {cure}"
        )
    if summary["spread"]["p"] < SUSPICIOUS:
        word = "grows" if summary["spread"]["correlation"] > 0 else "shrinks"
        found.append(f"the residuals' spread {word} with size: weights=COLUMN or stderr=COLUMN would say by how much")
    if summary["far"]:
        found.append(
            f"{len(summary['far'])} point(s) lie more than {FAR:g} robust standard deviations off: see outliers.*"
        )
    return found
