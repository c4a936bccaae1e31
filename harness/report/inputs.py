"""What a report is made of: a study's files, each of which may be missing, partial or hostile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from harness.records.files import read_json
from harness.records.store import Store
from harness.report.text import MOST_LEAVES, number
from workloads.base import BadInput

_HEAVY = ("config",)  # a kilobyte a trial, and all of it is in other columns


@dataclass(frozen=True)
class Inputs:
    """A study's files. Absent ones are empty; `notes` says which, and how to get them.

    study: study.yaml's `study`. study_text: the whole file. transfer, fits: series -> entry. checks: check -> entry.
    table: one row a trial.
    """

    root: Path
    study: Mapping[str, Any]
    study_text: str
    data: list[Any]
    table: pa.Table
    transfer: dict[str, dict[str, Any]]
    fits: dict[str, dict[str, Any]]
    prediction: dict[str, Any]
    checks: dict[str, dict[str, Any]]
    claims: list[dict[str, Any]]
    stages: dict[str, list[Any]]
    notes: list[str] = field(default_factory=list)

    def curves(self, trials: set[str]) -> pa.Table:
        """The curves of `trials`."""
        return Store(self.root).curves(trials)


def read(root: Path) -> Inputs:
    """Read the study at `root`. Raises BadInput if there is no such folder; everything else becomes a note."""
    if not root.is_dir():
        raise BadInput(f"there is no study at {root}; run it first: python -m harness.study study={root.name}")
    notes: list[str] = []
    document, text = _document(root / "study.yaml", notes)
    study = mapping(document.get("study"))
    asked = [mapping(analysis) for analysis in sequence(study.get("analyses"))]
    wanted = {
        "transfer.json": any("transfer" in analysis for analysis in asked),
        "fit.json": any("law" in analysis for analysis in asked),
        "prediction.json": bool(study.get("predict")),
        "checks.json": any("check" in analysis for analysis in asked),
        "claims.json": bool(study.get("claims")),
        "stages.json": False,
    }
    found = {name: _json(root / name, needed, notes) for name, needed in wanted.items()}
    store = Store(root)
    names = store.read(lambda view: view.names)
    table = store.trials([name for name in names if name not in _HEAVY])
    if not table.num_rows:
        notes.append("No trial is recorded yet.")
    return Inputs(
        root=root,
        study=study,
        study_text=text,
        data=sequence(document.get("data")),
        table=table,
        transfer=_entries(found["transfer.json"]),
        fits=_entries(found["fit.json"]),
        prediction=mapping(found["prediction.json"]),
        checks=_entries(found["checks.json"]),
        claims=[mapping(claim) for claim in sequence(found["claims.json"]) if isinstance(claim, dict)],
        stages={stage: sequence(trials) for stage, trials in mapping(found["stages.json"]).items()},
        notes=notes,
    )


def _document(path: Path, notes: list[str]) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        notes.append("study.yaml is missing, so the study's question and settings are not known.")
        return {}, ""
    try:
        return mapping(yaml.safe_load(text)), text
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        notes.append(
            f"study.yaml cannot be read ({str(error).splitlines()[0]}), so the study's settings are not known."
        )
        return {}, text


def _json(path: Path, needed: bool, notes: list[str]) -> Any:
    if not path.exists():
        if needed:
            notes.append(f"{path.name} is missing: the study has not got that far. Run it again to go on.")
        return None
    try:
        return read_json(path)
    except BadInput as error:
        notes.append(str(error).replace(str(path), path.name))
        return None


def mapping(value: Any) -> dict[str, Any]:
    """A JSON or YAML mapping with text keys; empty if it is something else."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """A JSON or YAML list; empty if it is something else."""
    return list(value) if isinstance(value, list) else []


def _entries(value: Any) -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in mapping(value).items() if isinstance(entry, dict)}


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as (n,) float64; NaN where it is null, text or absent."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = table[name]
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return np.asarray(pc.cast(column, pa.float64(), safe=False).combine_chunks().fill_null(np.nan))
    return np.array([_nan(entry) for entry in column.to_pylist()], np.float64)


def _nan(value: Any) -> float:
    found = number(value)
    return np.nan if found is None else found


def array(value: Any, length: int | None = None) -> np.ndarray:
    """A JSON list as float64, NaN for whatever is not a number; of `length` entries if given."""
    entries = [_nan(entry) for entry in sequence(value)]
    if length is not None:
        entries = [*entries, *[np.nan] * length][:length]
    return np.array(entries, np.float64)


def settings(study: Mapping[str, Any]) -> dict[str, Any]:
    """The study's base, flat: dotted key -> value."""
    return dict(islice(_flat(mapping(study.get("base")), "", 0), MOST_LEAVES))


def _flat(nested: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict) and depth < 8:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value
