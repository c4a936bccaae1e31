"""Analyses of a study's records: the sweep's table becomes transfer verdicts, laws and a prediction.

Everything here reads rows, never a model. A *series* is one combination of the sweep's keys other than the axis, the
learning rate and the seed; in the quickstart, one parametrization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.config import StudyConfig
from harness.laws import LAWS, Fit, fit, straight_line
from harness.registry import nearest
from harness.sweep import Point, values_of
from harness.transfer import Transfer, learning_rate_transfer
from harness.transfer.learning_rate import SeedNoise
from workloads.base import BadInput

LEARNING_RATE = "optimizer.learning_rate"
NOT_SERIES = (LEARNING_RATE, "seed", "data_seed")


@dataclass(frozen=True)
class Cell:
    """One trial of the sweep: its coordinates and its row."""

    point: Point
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Losses:
    """Mean loss at each scale's best learning rate: what a law is fitted to. All (n,), smallest scale first.

    stderr: standard errors between scales (NaN where one seed can't tell), with `noise.dof` degrees of freedom.
    seeds: the seeds averaged over. inputs: the law's input at each scale, e.g. parameters.
    """

    scales: np.ndarray
    inputs: np.ndarray
    mean: np.ndarray
    stderr: np.ndarray
    noise: SeedNoise
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class LawResult:
    """A law fitted to one series' losses. x: the input's column."""

    fit: Fit
    x: str
    losses: Losses

    def straight_line(self, x: float) -> float:
        """The loss that the line through the last two points predicts at `x`, in log-log."""
        return float(straight_line(self.losses.inputs, self.losses.mean, x))

    def to_json(self) -> dict[str, Any]:
        """fit.json's entry: the fit, and the points it was made from."""
        points = {key: getattr(self.losses, key).tolist() for key in ("scales", "inputs", "mean", "stderr")}
        points |= {"seeds": list(self.losses.seeds), "stderr_dof": self.losses.noise.dof}
        return self.fit.to_json() | {"x": self.x, "points": points, "curve": self._curve()}

    def _curve(self) -> dict[str, list[float]]:
        """The law with its 95% interval for a new mean, from 0.8 x the smallest size to 4 x the largest."""
        sizes = np.geomspace(0.8 * self.losses.inputs.min(), 4 * self.losses.inputs.max(), 64)
        # One call a size: each then sees the same random numbers, and the band is smooth.
        each = [self.fit.predict({"N": [size]}) for size in sizes]
        names = ("mean", "low", "high")
        return {"inputs": sizes.tolist()} | {key: [float(getattr(one, key)[0]) for one in each] for key in names}


def label(point: Point, axis: str) -> str:
    """The name of the series a point belongs to."""
    return series_name({key: value for key, value in point.items() if key != axis and key not in NOT_SERIES})


def series_name(values: Mapping[str, Any]) -> str:
    """What tells a series from the others: mup, or where a value does not speak for itself with its key, mup/batch_size=32."""
    parts = [value if isinstance(value, str) else f"{key.rpartition('.')[2]}={value}" for key, value in values.items()]
    return "/".join(parts) or "all"


def settings_of(study: StudyConfig) -> tuple[str | None, str | None, str | None]:
    """(transfer axis, law name, law's input column) that the study's analyses ask for."""
    axis: str | None = None
    law: str | None = None
    column: str | None = None
    for analysis in study.analyses:
        match dict(analysis):
            case {"transfer": str(key), **rest} if not rest:
                axis = key
            case {"law": str(name), "x": str(key), **rest} if not rest:
                LAWS[name]
                law, column = name, key
            case {"check": str(), **_options}:
                pass  # harness.checks knows them
            case _:
                raise BadInput(
                    f"analysis {dict(analysis)} is not known; write {{transfer: KEY}}, {{law: NAME, x: COLUMN}} or "
                    "{check: NAME}"
                )
    if axis is not None and axis not in study.sweep:
        raise BadInput(f"the analysis 'transfer: {axis}' needs {axis} in the sweep. {nearest(axis, study.sweep)}")
    if law is not None and axis is None:
        raise BadInput(
            "a law is fitted to the loss at each scale's best learning rate: add the analysis 'transfer: KEY'"
        )
    return axis, law, column


def transfers(study: StudyConfig, cells: Sequence[Cell]) -> dict[str, Transfer]:
    """Series -> learning-rate transfer along the study's axis. Raises BadInput where the sweep cannot carry it."""
    axis, _, _ = settings_of(study)
    if axis is None:
        return {}
    return {name: _transfer(members, axis) for name, members in by_series(cells, axis).items()}


def by_series(cells: Sequence[Cell], axis: str) -> dict[str, list[Cell]]:
    series: dict[str, list[Cell]] = {}
    for cell in cells:
        series.setdefault(label(cell.point, axis), []).append(cell)
    return series


def _transfer(cells: Sequence[Cell], axis: str) -> Transfer:
    scale = np.array([float(cell.row[axis]) for cell in cells])
    return learning_rate_transfer(
        scale=scale,
        learning_rate=np.array([cell.row[LEARNING_RATE] for cell in cells]),
        loss=np.array([cell.row["final_loss"] for cell in cells]),
        seed=np.array([cell.row["seed"] for cell in cells]),
        diverged=np.array([cell.row["status"] == "diverged" for cell in cells]),
        base_scale=scale.min(),
    )


def rerun_points(study: StudyConfig, points: Sequence[Point], found: Mapping[str, Transfer]) -> list[Point]:
    """Each scale's fitted best learning rate on the rerun's seeds, for the series that match the rerun's other keys.

    The rate is the one on the fitted drift line, as for the prediction: single scales' optima carry more noise.
    """
    axis, _, _ = settings_of(study)
    if axis is None:
        return []
    return [
        {**point, LEARNING_RATE: found[name].best_lr_at(float(point[axis]))}
        for point in rerun_layout(study, points)
        if found[name := label(point, axis)].drift is not None
    ]


def rerun_layout(study: StudyConfig, points: Sequence[Point]) -> list[Point]:
    """The rerun's points before their learning rates are known: each matching series and scale on the rerun's seeds."""
    axis, _, _ = settings_of(study)
    if not study.rerun or axis is None:
        return []
    seeds = values_of("seed", study.rerun.get("seed"))
    wanted = {key: value for key, value in study.rerun.items() if key != "seed"}
    chosen: dict[tuple[str, float], Point] = {}
    for point in points:
        if all(point.get(key) == value for key, value in wanted.items()):
            chosen.setdefault((label(point, axis), float(point[axis])), point)
    if not chosen:
        raise BadInput(f"the rerun's keys {wanted} match no point of the sweep")
    return [{**point, "seed": seed} for point in chosen.values() for seed in seeds]


def predict_layout(study: StudyConfig, points: Sequence[Point]) -> list[Point]:
    """The predicted points before their learning rates are known: every series that a law is fitted to."""
    axis, law, _ = settings_of(study)
    if not study.predict or axis is None or law is None:
        return []
    if axis not in study.predict:
        raise BadInput(f"study.predict needs {axis}, the scale to predict at")
    fitted = rerun_layout(study, points) or points
    seeds = values_of("seed", study.predict.get("seed", sorted({point.get("seed", 0) for point in fitted})))
    examples = {label(point, axis): point for point in fitted}
    return [{**point, axis: study.predict[axis], "seed": seed} for point in examples.values() for seed in seeds]


def laws(
    study: StudyConfig, found: Mapping[str, Transfer], swept: Sequence[Cell], rerun: Sequence[Cell]
) -> tuple[dict[str, LawResult], dict[str, str]]:
    """(series -> the law fitted to the reruns' losses, or without reruns to the sweep's; series -> why there is none)."""
    axis, law, column = settings_of(study)
    fitted: dict[str, LawResult] = {}
    reasons: dict[str, str] = {}
    if axis is None or law is None or column is None:
        return fitted, reasons
    if study.rerun and not rerun:
        return fitted, {
            name: f"no scale has a fitted best learning rate to rerun: {t.reason}" for name, t in found.items()
        }
    for name, members in by_series(rerun or swept, axis).items():
        inputs = {float(cell.row[axis]): float(cell.row[column]) for cell in members}
        try:
            losses = _rerun_losses(members, axis, inputs) if rerun else _swept_losses(found[name], members, inputs)
            fitted[name] = LawResult(_fit(law, losses), column, losses)
        except BadInput as error:
            reasons[name] = str(error)
    return fitted, reasons


def _fit(law: str, losses: Losses) -> Fit:
    known = losses.stderr if losses.stderr.size and np.isfinite(losses.stderr).all() else None
    return fit(LAWS[law](), {"N": losses.inputs}, losses.mean, stderr=known, stderr_dof=losses.noise.dof)


def _swept_losses(transfer: Transfer, cells: Sequence[Cell], inputs: Mapping[float, float]) -> Losses:
    """The joint model's losses at the best learning rates. Scales share their seeds, so the paired noise counts."""
    found = np.isfinite(transfer.loss_at_best)
    return Losses(
        scales=transfer.scales[found],
        inputs=np.array([inputs[scale] for scale in transfer.scales[found].tolist()]),
        mean=transfer.loss_at_best[found],
        stderr=transfer.loss_at_best_stderr_paired[found],
        noise=transfer.noise,
        seeds=tuple(sorted({int(cell.row["seed"]) for cell in cells})),
    )


def _rerun_losses(cells: Sequence[Cell], axis: str, inputs: Mapping[float, float]) -> Losses:
    """Means over the rerun's seeds with each scale's own standard error, because small scales are noisier.

    The noise of a new mean is taken to be that of the largest scale. Raises BadInput if a rerun diverged: then the chosen
    learning rate was no optimum.
    """
    scales, seeds = sorted(inputs), sorted({int(cell.row["seed"]) for cell in cells})
    by_cell = {(float(cell.row[axis]), int(cell.row["seed"])): float(cell.row["final_loss"]) for cell in cells}
    table = np.array([[by_cell[scale, seed] for seed in seeds] for scale in scales])
    if not np.isfinite(table).all():
        raise BadInput("a rerun at a fitted best learning rate diverged; sweep more seeds or a finer grid of rates")
    spread = table.std(axis=1, ddof=1) if len(seeds) > 1 else np.full(len(scales), np.nan)
    relative = float(spread[-1] / table[-1].mean())
    return Losses(
        scales=np.array(scales),
        inputs=np.array([inputs[scale] for scale in scales]),
        mean=table.mean(axis=1),
        stderr=spread / np.sqrt(len(seeds)),
        noise=SeedNoise(seed=relative, paired=relative, residual=np.nan, dof=len(seeds) - 1),
        seeds=tuple(seeds),
    )
