"""The check protocol: a study's trials in, a verdict for every series out.

A check reads rows, curves and probes; the verdicts' words are its own, so that a claim reads like a sentence:
`{sharpness: {parametrization: mup}, expect: independent}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from harness.analysis import Cell, label
from harness.laws.plots import Plot
from harness.laws.procedures.base import Table
from harness.registry import Registry
from harness.trial import Trial
from workloads.base import BadInput

Verdicts = Mapping[str, tuple[str, str]]  # series -> (word, reason)
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Member:
    """One trial of a study: where it lies in the sweep, what it is, its row, and its curve, column -> (points,)."""

    cell: Cell
    trial: Trial
    curve: Mapping[str, np.ndarray]

    @property
    def row(self) -> Mapping[str, Any]:
        return self.cell.row

    @property
    def diverged(self) -> bool:
        return bool(self.row["status"] == "diverged")

    def measured(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a column where it was measured. Raises BadInput if it never was."""
        values = self.curve.get(column)
        if values is None:
            probe = column.partition(".")[2].partition(":")[0]
            raise BadInput(f"the trials record no {column}; add the probe that measures {probe} to base.probes")
        at = np.isfinite(values) if not self.diverged else np.isfinite(self.curve["eval_loss"]) | np.isfinite(values)
        return self.curve["step"][at], values[at]


@dataclass(frozen=True)
class Finding:
    """What a check found. document: JSON-able evidence by series. Tables and plots are for the report."""

    verdicts: Verdicts
    document: Mapping[str, Any]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()

    def to_json(self) -> dict[str, Any]:
        verdicts = {name: {"verdict": word, "reason": reason} for name, (word, reason) in self.verdicts.items()}
        return {"verdicts": verdicts, "evidence": dict(self.document)}


@dataclass(frozen=True)
class Check:
    """Options are the fields; `axis` is the scale along which trials of one series differ.

    title: a question. words: what its verdicts can be, beside undecided. probes: what the trials must measure.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    words: ClassVar[tuple[str, ...]]
    probes: ClassVar[tuple[str, ...]] = ()

    axis: str = "workload.width"

    def run(self, members: Sequence[Member]) -> Finding:
        """Raises BadInput where these trials cannot carry the check."""
        raise NotImplementedError

    def series(self, members: Sequence[Member]) -> Iterator[tuple[str, list[Member]]]:
        """The members of every series, by its name."""
        found: dict[str, list[Member]] = {}
        for member in members:
            found.setdefault(label(member.cell.point, self.axis), []).append(member)
        yield from found.items()

    def scale(self, members: Sequence[Member]) -> np.ndarray:
        """(members,) positions on the axis."""
        return np.array([float(member.row[self.axis]) for member in members])


CHECKS: Registry[Check] = Registry("check")


def members_of(cells: Sequence[Cell], trials: Sequence[Trial], curves: pa.Table) -> list[Member]:
    """Cells with their trials and curves."""
    of = np.array(curves["trial"].to_pylist())
    columns = {
        name: np.asarray(curves[name].cast(pa.float64()).combine_chunks().fill_null(np.nan))
        for name in curves.column_names
        if name not in ("trial", "attempt")
    }
    return [
        Member(cell, trial, {name: values[of == trial.id] for name, values in columns.items()})
        for cell, trial in zip(cells, trials, strict=True)
    ]
