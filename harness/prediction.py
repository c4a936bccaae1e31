"""Predictions: written down before the predicted trials are trained, then compared with what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis import LEARNING_RATE, SeriesResult, straight_line_at
from harness.laws import PredictionVerdict, prediction_verdict
from harness.laws.fit import Prediction
from harness.records.files import read_json, write_json
from harness.sweep import Point
from harness.trial import Trial

FILE = "prediction.json"


def fingerprint(trials: Sequence[Trial]) -> str:
    """Names the set of trials that a prediction was made from."""
    return hashlib.sha256("".join(sorted(trial.id for trial in trials)).encode()).hexdigest()[:16]


def write_down(path: Path, results: Mapping[str, SeriesResult], scale: float, sizes: Mapping[str, float], seeds: int, swept: str) -> dict[str, Any]:
    """Predict every series at `scale` and write it to `path`, unless the same sweep already wrote its prediction there.

    sizes: series -> the law's input (e.g. parameters) at that scale. seeds: trained seeds that the observed mean will
    have. swept: fingerprint of the sweep. Returns the file's content.
    """
    if path.exists():
        before: dict[str, Any] = read_json(path)
        if before.get("sweep") == swept:
            return before
    series = {name: _predict(result, scale, sizes[name], seeds) for name, result in results.items() if result.fit}
    content = {"written_at": datetime.now(UTC).isoformat(), "sweep": swept, "scale": scale, "series": series}
    write_json(path, content)
    return content


def _predict(result: SeriesResult, scale: float, size: float, seeds: int) -> dict[str, Any]:
    assert result.fit is not None
    noise = result.transfer.seed_sd / np.sqrt(seeds)
    predicted = result.fit.predict({"N": np.array([size])}, noise=noise)
    return {
        "x": result.x,
        "size": size,
        "learning_rate": float(result.transfer.best_lr_at(scale)),
        "seeds": seeds,
        "loss": float(predicted.mean[0]),
        "low": float(predicted.low[0]),
        "high": float(predicted.high[0]),
        "straight_line": straight_line_at(result, size),
        "fitted_losses": [float(loss) for loss in result.fit.losses],
    }


def trial_points(content: Mapping[str, Any], predict: Mapping[str, Any], series_points: Mapping[str, Point], seeds: Sequence[int]) -> list[Point]:
    """The points to train: every predicted series at the predicted scale, at its predicted best learning rate."""
    fixed = {key: value for key, value in predict.items() if key != "seed"}
    return [
        {**series_points[name], **fixed, LEARNING_RATE: entry["learning_rate"], "seed": seed}
        for name, entry in content["series"].items()
        for seed in seeds
    ]


def judge(entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], written_at: str) -> PredictionVerdict:
    """The verdict on one series' prediction. Trials that began before the prediction was written prove nothing."""
    if not rows:
        return PredictionVerdict("undecided", "The predicted trials have not been trained.", {})
    if min(row["started_at"] for row in rows) < written_at:
        return PredictionVerdict(
            "undecided", "The predicted trials were trained before this prediction was written down; use other seeds.", {}
        )
    observed = float(np.mean([row["final_loss"] for row in rows]))
    predicted = Prediction(*(np.array([entry[key]]) for key in ("loss", "low", "high")))
    return prediction_verdict(predicted, observed, np.array(entry["fitted_losses"]), entry["straight_line"])
