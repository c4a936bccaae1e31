"""The study's trials, arranged for pictures: series, scales, learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from harness.analysis import LEARNING_RATE, label
from harness.records.schema import FINISHED
from harness.report.inputs import Inputs, numbers, settings
from harness.report.text import number

DEFAULT_AXIS = "workload.width"
MOST_RATES = 64


@dataclass(frozen=True)
class Scale:
    """The trials of one series at one scale, (n,) each; loss is NaN where diverged. predicted: not of the sweep."""

    value: float
    trial: np.ndarray
    log_lr: np.ndarray
    loss: np.ndarray
    diverged: np.ndarray
    size: np.ndarray
    predicted: bool = False

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Log2 learning rates (L,) and mean losses (L,) over seeds; NaN where any seed diverged."""
        x, inverse = np.unique(self._grid(), return_inverse=True)
        return x, np.bincount(inverse, self.loss, x.size) / np.bincount(inverse, minlength=x.size)

    def best(self) -> np.ndarray:
        """Which trials have the learning rate with the lowest mean loss; none if every one diverged."""
        x, mean = self.means()
        if not np.isfinite(mean).any():
            return np.zeros(self.loss.size, bool)
        return self._grid() == x[np.nanargmin(mean)]

    def _grid(self) -> np.ndarray:
        """log_lr without rounding errors; to an eighth of an octave where it was not swept on a grid."""
        exact = np.round(self.log_lr, 6)
        return exact if np.unique(exact).size <= MOST_RATES else np.round(8 * exact) / 8


@dataclass(frozen=True)
class Series:
    """One line of the study: all trials but for scale, learning rate and seed alike."""

    name: str
    scales: list[Scale]
    transfer: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    prediction: Mapping[str, Any] = field(default_factory=dict)

    @property
    def swept(self) -> list[Scale]:
        return [scale for scale in self.scales if not scale.predicted]

    @property
    def predicted(self) -> Scale | None:
        return next((scale for scale in self.scales if scale.predicted), None)


@dataclass(frozen=True)
class Arranged:
    """series: the study's series. axis: the scale's key, or None. keys: the sweep's keys. others: rows that belong to
    other settings of the study and are not shown in pictures."""

    series: list[Series]
    axis: str | None
    keys: list[str]
    others: int


def arrange(inputs: Inputs) -> Arranged:
    """Select the rows that belong to the study as study.yaml describes it, and group them."""
    sweep = inputs.study.get("sweep")
    keys = [str(key) for key in sweep] if isinstance(sweep, dict) else _guess(inputs.table)
    axis = _axis(inputs.study, keys)
    table = (
        _of_stages(inputs.table, inputs.stages) if inputs.stages else _belonging(inputs.table, settings(inputs.study))
    )
    rows = _rows(table, [*keys, axis] if axis else keys)
    names = [label(row, axis or "") for row in rows]
    scales = numbers(table, axis) if axis else np.ones(table.num_rows)
    shown = np.isfinite(scales) & np.isin(table["status"].to_pylist(), FINISHED)
    target = number(inputs.prediction.get("scale"))
    recorded = _Lookup(inputs)
    series = []
    for name in dict.fromkeys([*recorded.names, *sorted(set(names))]):
        of_series = np.array([canonical(n) == canonical(name) for n in names], bool) & shown
        if of_series.any():
            groups = [
                _scale(table, of_series & (scales == value), value, target) for value in np.unique(scales[of_series])
            ]
            series.append(recorded.series(name, groups))
    unique = {canonical(s.name): s for s in reversed(series)}
    return Arranged(list(reversed(unique.values())), axis, keys, _others(inputs, table))


def _others(inputs: Inputs, shown: pa.Table) -> int:
    """How many rows belong to other settings of the study."""
    reruns = inputs.stages.get("rerun", [])
    return max(0, inputs.table.num_rows - shown.num_rows - len(reruns))


def canonical(name: str) -> str:
    """Labels that differ in how a number is written are one: "adam/1e-3" and "adam/0.001"."""
    parts = [(part, number(part)) for part in name.split("/")]
    return "/".join(part if value is None else repr(value) for part, value in parts)


class _Lookup:
    """The analyses' entries by canonical series name."""

    def __init__(self, inputs: Inputs) -> None:
        predicted = inputs.prediction.get("series")
        entries = {k: v for k, v in predicted.items() if isinstance(v, dict)} if isinstance(predicted, dict) else {}
        self._found = {"transfer": inputs.transfer, "fit": inputs.fits, "prediction": entries}
        self.names = list(dict.fromkeys(str(name) for part in self._found.values() for name in part))

    def series(self, name: str, scales: list[Scale]) -> Series:
        entries = {
            kind: next((entry for key, entry in part.items() if canonical(str(key)) == canonical(name)), {})
            for kind, part in self._found.items()
        }
        return Series(name, scales, **entries)


def _axis(study: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    analyses = study.get("analyses")
    for analysis in analyses if isinstance(analyses, list) else []:
        if isinstance(analysis, dict) and isinstance(analysis.get("transfer"), str):
            return str(analysis["transfer"])
    return DEFAULT_AXIS if DEFAULT_AXIS in keys else None


def _guess(table: pa.Table) -> list[str]:
    """The sweep's keys where study.yaml does not tell: the usual ones that take several values."""
    usual = ("parametrization", "optimizer", "schedule", "workload", DEFAULT_AXIS, LEARNING_RATE, "seed")
    return [key for key in usual if key in table.column_names and len(table[key].unique()) > 1]


def _of_stages(table: pa.Table, stages: Mapping[str, Sequence[Any]]) -> pa.Table:
    """The rows of the sweep and of the prediction; reruns are shown as the law's points."""
    shown = {trial for stage in ("sweep", "predict") for trial in stages.get(stage, ()) if isinstance(trial, str)}
    return table.filter(pa.array([trial in shown for trial in table["trial"].to_pylist()], pa.bool_()))


def _belonging(table: pa.Table, base: Mapping[str, Any]) -> pa.Table:
    """Rows with the study's base settings: the store also keeps trials of earlier settings."""
    for key, value in base.items():
        if key not in table.column_names or isinstance(value, (list, dict)):
            continue
        wanted = number(value)
        same = [entry == value or (wanted is not None and number(entry) == wanted) for entry in table[key].to_pylist()]
        if any(same):
            table = table.filter(pa.array(same))
    return table


def _rows(table: pa.Table, keys: Sequence[str]) -> list[dict[str, Any]]:
    known = list(dict.fromkeys(key for key in keys if key in table.column_names))
    return table.select(known).to_pylist() if known else [{} for _ in range(table.num_rows)]


def _scale(table: pa.Table, mask: np.ndarray, value: float, target: float | None) -> Scale:
    rows = table.filter(pa.array(mask))
    diverged = np.array([status == "diverged" for status in rows["status"].to_pylist()], bool)
    rate = numbers(rows, LEARNING_RATE)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_lr = np.where(rate > 0, np.log2(rate), np.nan)
    loss = np.where(diverged, np.nan, numbers(rows, "final_loss"))
    keep = np.isfinite(log_lr) if np.isfinite(log_lr).any() else np.ones(log_lr.size, bool)
    return Scale(
        value=float(value),
        trial=np.array(rows["trial"].to_pylist())[keep],
        log_lr=log_lr[keep],
        loss=np.where(np.isfinite(loss), loss, np.nan)[keep],
        diverged=diverged[keep],
        size=numbers(rows, "params")[keep],
        predicted=target is not None and value == target,
    )
