"""AlgoPerf's logs, <submission>/study_k/<workload>_<framework>/trial_j/eval_measurements.csv, as a long table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.importers import read_table
from harness.records.table import Table, as_numbers, listed
from harness.scoring.hits import NEVER, Hit, first_hit
from harness.scoring.targets import Targets
from workloads.base import BadInput

FILE = "eval_measurements.csv"
TIME = "score"
"""AlgoPerf's name for the accumulated submission time, seconds."""
_FRAMEWORKS = ("jax", "pytorch")
_LEVELS = ("submission", "study", "workload", "trial")


def read_logs(root: Path, targets: Targets) -> Table:
    """Columns submission, study, workload, trial, hit_eval_index, time_to_target_s; ruleset where folders lie above.

    root: the folder of submissions, one submission's own, or one above ("external_tuning/<submission>/…"). A trial's file
    without evaluations, or without its workload's metric, did not meet the target, and is counted in the notes. Workloads
    that have no target are left out and counted. Raises BadInput if nothing fits the pattern.
    """
    root = root.expanduser().resolve()
    paths = sorted(root.rglob(FILE))
    places = [_place(root, path) for path in paths]
    if not paths:
        raise BadInput(f"{root} holds no {'/'.join(f'<{level}>' for level in _LEVELS)}/{FILE}; give the folder of logs")
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    seen: set[str] = set()
    for path, place in zip(paths, places, strict=True):
        workload = _workload(place["workload"], targets)
        if workload is None:
            left_out[f"'{place['workload']}' has no target in {targets.source}"] += 1
            continue
        hit, fault = _hit(path, workload, targets)
        if fault:
            silent[f"{workload}: {fault}"] += 1
        else:
            seen.add(workload)
        rows.append({**place, "workload": workload, "hit_eval_index": hit.index, "time_to_target_s": hit.time})
    _refuse_silence(rows, seen, silent)
    notes = tuple(f"{fault}, so not met, in {count} of the files" for fault, count in sorted(silent.items()))
    return _table(root, rows, len(paths), left_out, notes)


def _place(root: Path, path: Path) -> dict[str, str]:
    """The names of a file's folders; those between root and the submission together are the ruleset."""
    names = dict(zip(_LEVELS, path.parts[-5:-1], strict=True)) if len(path.parts) > 5 else {}
    above = path.relative_to(root).parts[:-5]
    if not names or len(path.relative_to(root).parts) < 4:
        raise BadInput(f"{path} is not in folders <submission>/study_k/<workload>_<framework>/trial_j below {root}")
    return {**names, "ruleset": "/".join(above)}


def _workload(folder: str, targets: Targets) -> str | None:
    name, _, framework = folder.rpartition("_")
    known = (folder, name) if framework in _FRAMEWORKS else (folder,)
    return next((word for word in known if word in targets.targets), None)


def _hit(path: Path, workload: str, targets: Targets) -> tuple[Hit, str]:
    """When the trial met its target, and why it could not have, if so."""
    if not path.read_bytes().strip().count(b"\n"):
        return NEVER, "no evaluations"
    target, direction = targets.of(workload)
    metric = f"validation/{target.metric}"
    table = read_table(path)
    if metric not in table.columns:
        return NEVER, f"no column '{metric}'"
    columns = as_numbers(table, (metric, TIME)).columns
    return first_hit(columns[metric], columns[TIME], target.value, direction), ""


def _refuse_silence(rows: list[dict[str, Any]], seen: set[str], silent: Mapping[str, int]) -> None:
    if not rows:
        return
    if not seen:
        raise BadInput(f"no file can be judged by its target ({listed(sorted(silent))}); are these the right targets?")


def _table(
    root: Path, rows: list[dict[str, Any]], read: int, left_out: Mapping[str, int], notes: tuple[str, ...]
) -> Table:
    if not rows:
        raise BadInput(f"no workload in {root} has a target ({listed(sorted(left_out))}); are these the right targets?")
    above = sorted({row["ruleset"] for row in rows})
    if "" in above and len(above) > 1:
        raise BadInput(
            f"{root} holds some submissions itself and others in {above[1]}; give a folder below which all lie alike deep"
        )
    names = [name for name in rows[0] if name != "ruleset" or any(row["ruleset"] for row in rows)]
    kinds = {"hit_eval_index": np.float64, "time_to_target_s": np.float64}
    columns = {name: np.array([row[name] for row in rows], kinds.get(name, object)) for name in names}
    return Table(columns, str(root), read, dict(left_out), notes)
