"""Predictions: written down before the predicted trials are trained, then compared with what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis import LEARNING_RATE, LawResult, Losses
from harness.laws import PredictionVerdict, prediction_verdict
from harness.laws.fitting.fit import Prediction
from harness.records.files import read_json, write_json
from harness.sweep import Point
from harness.transfer import Transfer
from workloads.base import BadInput

FILE = "prediction.json"


def fingerprint(trials: Sequence[str]) -> str:
    """Names the set of trials behind a prediction."""
    return hashlib.sha256("".join(sorted(trials)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Target:
    """What is predicted: scale (e.g. a width), the law's input there by series (e.g. parameters), the seeds to train."""

    scale: float
    sizes: Mapping[str, float]
    seeds: tuple[int, ...]


def write_down(
    path: Path,
    found: Mapping[str, Transfer],
    fitted: Mapping[str, LawResult],
    target: Target,
    trained: str,
    recorded: Callable[[Mapping[str, Any]], list[str]],
) -> dict[str, Any]:
    """Predict every fitted series and write it to `path`, unless the same trials already made the same prediction there.

    trained: fingerprint of the trials behind the fits. recorded: which of the trials that a file's content predicts are already
    recorded. Returns the file's content.
    """
    if path.exists():
        before = read_json(path)
        if not (isinstance(before, dict) and before.keys() >= {"written_at", "trained", "scale", "seeds", "series"}):
            raise BadInput(f"{path} is no prediction of this windtunnel; move it away to predict anew")
        if (before.get("trained"), before.get("scale"), before.get("seeds")) == (
            trained,
            target.scale,
            list(target.seeds),
        ):
            return dict(before)
    content = {
        "written_at": datetime.now(UTC).isoformat(),
        "trained": trained,
        "scale": target.scale,
        "seeds": list(target.seeds),
        "series": {name: _predict(found[name], law, target, target.sizes[name]) for name, law in fitted.items()},
    }
    content["trained_before"] = recorded(content)  # not left to clocks, which jump and differ between machines
    write_json(path, content)
    return content


def new_mean_noise(losses: Losses, seeds: tuple[int, ...]) -> float:
    """Relative standard error of the new mean over `seeds` against the fitted curve; NaN if one seed could not tell.

    On the fit's own seeds, what seeds do to all scales alike shifts the curve and the new mean together, and only the
    paired part counts. On other seeds both means carry the common part too.
    """
    noise = losses.noise
    if set(seeds) == set(losses.seeds):
        return float(noise.paired / np.sqrt(len(seeds)))
    common = max(noise.seed**2 - noise.paired**2, 0.0)
    return float(np.sqrt(noise.seed**2 / len(seeds) + common / len(losses.seeds)))


def _predict(transfer: Transfer, law: LawResult, target: Target, size: float) -> dict[str, Any]:
    here = {"N": np.array([size])}
    relative = new_mean_noise(law.losses, target.seeds)
    noise = relative * float(law.fit.predict(here).mean[0]) if np.isfinite(relative) else None
    predicted = law.fit.predict(here, noise=noise)
    return {
        "x": law.x,
        "size": size,
        "learning_rate": transfer.best_lr_at(target.scale),
        "loss": float(predicted.mean[0]),
        "low": float(predicted.low[0]),
        "high": float(predicted.high[0]),
        "straight_line": law.straight_line(size),
        "fitted_losses": law.losses.mean.tolist(),
    }


def trial_points(
    content: Mapping[str, Any], predict: Mapping[str, Any], series_points: Mapping[str, Point]
) -> list[Point]:
    """The points to train: every predicted series at the predicted scale, at its predicted best learning rate."""
    fixed = {key: value for key, value in predict.items() if key != "seed"}
    return [
        {**series_points[name], **fixed, LEARNING_RATE: entry["learning_rate"], "seed": seed}
        for name, entry in content["series"].items()
        for seed in content["seeds"]
    ]


def judge(name: str, rows: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> PredictionVerdict:
    """The verdict on one series' prediction. Trials that were recorded before the prediction was written prove nothing.

    content: as `write_down` returns it; where an older version wrote it, only the clocks can tell what was before.
    """
    if not rows:
        return PredictionVerdict("undecided", "The predicted trials have not been trained.", {})
    entry, before = content["series"][name], content.get("trained_before")
    early = (row["started_at"] < content["written_at"] if before is None else row["trial"] in before for row in rows)
    if any(early):
        return PredictionVerdict(
            "undecided",
            "The predicted trials were trained before this prediction was written down; use other seeds.",
            {},
        )
    observed = float(np.mean([row["final_loss"] for row in rows]))
    predicted = Prediction(*(np.array([entry[key]]) for key in ("loss", "low", "high")))
    return prediction_verdict(predicted, observed, np.array(entry["fitted_losses"]), entry["straight_line"])
