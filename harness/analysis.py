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
from harness.sweep import Point
from harness.transfer import Transfer, learning_rate_transfer
from workloads.base import BadInput

LEARNING_RATE = "optimizer.learning_rate"
_NOT_SERIES = (LEARNING_RATE, "seed", "data_seed")


@dataclass(frozen=True)
class Cell:
    """One trial of the sweep: its coordinates and its row."""

    point: Point
    row: Mapping[str, Any]


@dataclass(frozen=True)
class SeriesResult:
    """What the analyses found for one series. inputs: the law's (n,) input at each scale; line: a straight line in log-log."""

    transfer: Transfer
    fit: Fit | None
    x: str | None
    inputs: np.ndarray


def label(point: Point, axis: str) -> str:
    """The name of the series a point belongs to."""
    parts = [str(value) for key, value in point.items() if key != axis and key not in _NOT_SERIES]
    return "/".join(parts) or "all"


def settings_of(study: StudyConfig) -> tuple[str | None, str | None, str | None]:
    """(transfer axis, law name, law's input column) that the study's analyses ask for."""
    axis = law = column = None
    for analysis in study.analyses:
        match dict(analysis):
            case {"transfer": str(axis), **rest} if not rest:
                pass
            case {"law": str(law), "x": str(column), **rest} if not rest:
                LAWS[law]
            case _:
                raise BadInput(f"analysis {dict(analysis)} is not known; write {{transfer: KEY}} or {{law: NAME, x: COLUMN}}")
    if axis is not None and axis not in study.sweep:
        raise BadInput(f"the analysis 'transfer: {axis}' needs {axis} in the sweep. {nearest(axis, study.sweep)}")
    if law is not None and axis is None:
        raise BadInput("a law is fitted to the loss at each scale's best learning rate: add the analysis 'transfer: KEY'")
    return axis, law, column


def analyse(study: StudyConfig, cells: Sequence[Cell]) -> dict[str, SeriesResult]:
    """Series label -> transfer verdict and fitted law. Raises BadInput where the sweep cannot carry the analysis."""
    axis, law, column = settings_of(study)
    if axis is None:
        return {}
    series: dict[str, list[Cell]] = {}
    for cell in cells:
        series.setdefault(label(cell.point, axis), []).append(cell)
    return {name: _series(members, axis, law, column) for name, members in series.items()}


def _series(cells: Sequence[Cell], axis: str, law: str | None, column: str | None) -> SeriesResult:
    scale = np.array([float(cell.row[axis]) for cell in cells])
    transfer = learning_rate_transfer(
        scale=scale,
        learning_rate=np.array([cell.row[LEARNING_RATE] for cell in cells]),
        loss=np.array([cell.row["final_loss"] for cell in cells]),
        seed=np.array([cell.row["seed"] for cell in cells]),
        diverged=np.array([cell.row["status"] == "diverged" for cell in cells]),
        base_scale=scale.min(),
    )
    if law is None or column is None:
        return SeriesResult(transfer, None, None, np.array([]))
    by_scale = {float(cell.row[axis]): float(cell.row[column]) for cell in cells}
    found = np.isfinite(transfer.loss_at_best)
    inputs = np.array([by_scale[float(s)] for s in transfer.scales])[found]
    losses, errors = transfer.loss_at_best[found], transfer.loss_at_best_stderr[found]
    fitted = fit(LAWS[law](), {"N": inputs}, losses, stderr=errors, stderr_dof=transfer.dof)
    return SeriesResult(transfer, fitted, column, inputs)


def straight_line_at(result: SeriesResult, x: float) -> float:
    """The loss that the line through the last two points predicts at `x`, in log-log."""
    assert result.fit is not None
    losses = np.asarray(result.transfer.loss_at_best)
    return float(straight_line(result.inputs, losses[np.isfinite(losses)], x))
