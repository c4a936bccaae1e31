"""The fitted law of a series as a curve with its prediction band, as fit.json records it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.laws import Prediction, straight_line
from harness.report.inputs import array, mapping
from harness.report.text import number
from harness.report.trials import Series


@dataclass(frozen=True)
class Scaling:
    """What the loss-versus-size picture shows of a series.

    size, loss, stderr: (n,) fitted points. grid, recorded: (m,) sizes at which the law and its 95% interval for a newly
    trained mean are recorded; None where fit.json has no curve. observed: (k,) losses of the predicted trials.
    """

    size: np.ndarray
    loss: np.ndarray
    stderr: np.ndarray
    grid: np.ndarray
    recorded: Prediction | None
    predicted_size: float | None
    observed: np.ndarray

    def curve(self, sizes: np.ndarray) -> np.ndarray | None:
        """Fitted losses at `sizes`, between the recorded ones by log-log interpolation."""
        return self._between(sizes, self.recorded.mean) if self.recorded else None

    def band(self, sizes: np.ndarray) -> Prediction | None:
        """The 95% prediction interval at `sizes`."""
        return Prediction(*(self._between(sizes, part) for part in self.recorded)) if self.recorded else None

    def line(self, sizes: np.ndarray) -> np.ndarray:
        return np.asarray(straight_line(self.size, self.loss, sizes))

    def _between(self, sizes: np.ndarray, losses: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(np.log(sizes), np.log(self.grid), np.log(losses)))


def scaling(one: Series, notes: list[str]) -> Scaling | None:
    """The points and the law of a series; None if there are fewer than two points. Adds to `notes` what is lacking."""
    points = mapping(one.fit.get("points"))
    size, loss = array(points.get("inputs")), array(points.get("mean"))
    ok = (
        np.isfinite(size) & (size > 0) & np.isfinite(loss) & (loss > 0) if size.size == loss.size else np.zeros(0, bool)
    )
    if np.unique(size[: ok.size][ok]).size < 2:
        return None
    curve = mapping(one.fit.get("curve"))
    grid, *losses = (array(curve.get(key)) for key in ("inputs", "mean", "low", "high"))
    whole = grid.size > 1 and all(part.size == grid.size and np.all(part > 0) for part in (grid, *losses))
    if not whole:
        notes.append(f"fit.json records no curve for series '{one.name}'; only its points are drawn.")
    predicted = one.predicted
    return Scaling(
        size=size[ok],
        loss=loss[ok],
        stderr=array(points.get("stderr"), size.size)[ok],
        grid=grid,
        recorded=Prediction(*losses) if whole else None,
        predicted_size=number(one.prediction.get("size")),
        observed=predicted.loss[np.isfinite(predicted.loss)] if predicted else np.empty(0),
    )
