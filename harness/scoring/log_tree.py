"""AlgoPerf's logs, <submission>/study_k/<workload>_<framework>/trial_j/eval_measurements.csv, as a long table."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.cells import plain_numbers
from harness.records.formats import READERS, Cells
from harness.records.table import Table, listed
from harness.records.text import printable
from harness.scoring.hits import NEVER, Hit, first_hit
from harness.scoring.targets import FRAMEWORKS, Targets
from workloads.base import BadInput

FILE = "eval_measurements.csv"
TIME = "score"
"""AlgoPerf's name for the accumulated submission time, seconds."""
_LAYOUT = "<submission>/study_k/<workload>_<framework>/trial_j"
_LEVELS = ("submission", "study", "workload", "trial")


def read_logs(root: Path, targets: Targets) -> Table:
    """Columns submission, study, workload, trial, hit_eval_index, time_to_target_s; ruleset where folders lie above.

    root: the folder of submissions, one submission's own, or one above ("external_tuning/<submission>/…"). Links to folders
    are followed. A trial's file without evaluations, or without its workload's metric or time, did not meet the target, and
    is counted in the notes. They also name files whose unfinished last line was dropped, trial folders without the file, and
    submissions of which nothing is left. Workloads that have no target are left out and counted. Raises BadInput if nothing
    fits the pattern, on a file that lies deeper or less deep, cannot be read or holds no numbers, and on a trial that is
    there twice.
    """
    root = Path(os.path.abspath(root.expanduser()))  # not resolved: the name of a link is that of its submission
    folders = dict(_folders(root, frozenset(_identity(folder) for folder in root.parents)))
    paths = sorted(folder / FILE for folder, names in folders.items() if FILE in names)
    places = [_place(root, path, targets) for path in paths]
    if not paths:
        raise BadInput(f"{root} holds no {'/'.join(f'<{level}>' for level in _LEVELS)}/{FILE}; give the folder of logs")
    rows: list[dict[str, Any]] = []
    used: dict[tuple[str, ...], Path] = {}
    left_out: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    unfinished: list[Path] = []
    for path, place in zip(paths, places, strict=True):
        workload = targets.named(place["workload"])
        if workload is None:
            left_out[f"'{place['workload']}' has no target in {targets.source}"] += 1
            continue
        trial = {**place, "workload": workload}
        twin = used.setdefault(tuple(trial.values()), path)
        if twin != path:
            raise BadInput(
                f"{twin} and {path} are the same trial of '{workload}'; remove one, or enter it as a submission"
            )
        cells, whole = _cells(path)
        hit, fault = _hit(path, cells, workload, targets)
        unfinished += [] if whole else [path]
        silent.update([f"{workload}: {fault}"] if fault else [])
        rows.append({**trial, "hit_eval_index": hit.index, "time_to_target_s": hit.time})
    if rows and silent.total() == len(rows):
        raise BadInput(f"no file can be judged by its target ({listed(sorted(silent))}); are these the right targets?")
    notes = [f"{fault}, so not met, in {count} of the files" for fault, count in sorted(silent.items())]
    notes += _named("the last line is not whole (a killed run?), so dropped, in", root, unfinished)
    notes += _absent(root, folders, list(used.values()), paths, targets)
    return _table(root, rows, len(paths), left_out, notes)


def _folders(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """This folder and all below it, each with the names in it. above: folders that links must not lead back to."""
    try:
        here = _identity(folder)
        names = tuple(sorted(os.listdir(folder)))
        inner = [folder / name for name in names if name != FILE and (folder / name).is_dir()]
    except OSError as error:
        raise BadInput(f"cannot read {folder}: {error.strerror}; give a folder of logs that can be read") from None
    yield folder, names
    for one in inner:
        if _identity(one) not in above | {here}:
            yield from _folders(one, above | {here})


def _identity(folder: Path) -> tuple[int, int]:
    """What the same folder has under any name."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _place(root: Path, path: Path, targets: Targets) -> dict[str, str]:
    """The names of a file's folders; those between root and the submission together are the ruleset."""
    folders = path.relative_to(root).parts[:-1]
    names = dict(zip(_LEVELS, path.parts[-5:-1], strict=True)) if len(path.parts) > 5 else {}
    if len(folders) < 3 or not names or _is_shifted(names["submission"], (*folders[:-2], folders[-1]), targets):
        raise BadInput(f"{path} is not in folders {_LAYOUT} below {root}: move it there, without other folders between")
    return {**names, "ruleset": "/".join(folders[:-4])}


def _is_shifted(submission: str, others: Sequence[str], targets: Targets) -> bool:
    """Whether names of folders show that a level is missing or too many. others: folders that are no workload's."""
    workloads = [name for name in others if name.endswith(FRAMEWORKS) and targets.named(name) is not None]
    return bool(workloads or re.fullmatch(r"study_\d+", submission))


def _cells(path: Path) -> tuple[Cells, bool]:
    """A trial's evaluations, and whether its last line was whole; without it, if not."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; it must be a file that can be read") from None
    rest, _, _ = content.rstrip().rpartition(b"\n")
    if not rest.strip():
        return Cells({}, np.zeros(0, np.int64), "line"), True
    read = READERS[".csv"]
    try:
        return read(path, content), True
    except BadInput as error:
        try:
            return read(path, rest), False
        except BadInput:
            raise error from None


def _hit(path: Path, cells: Cells, workload: str, targets: Targets) -> tuple[Hit, str]:
    """When the trial met its target, and why it could not have, if so."""
    if not len(cells.rows):
        return NEVER, "no evaluations"
    target, direction = targets.of(workload)
    metric = f"validation/{target.metric}"
    for name in (metric, TIME):
        if name not in cells.columns:
            return NEVER, f"no column '{name}'"
    values, times = (_numbers(path, cells, name) for name in (metric, TIME))
    return first_hit(values, times, target.value, direction), ""


def _numbers(path: Path, cells: Cells, name: str) -> np.ndarray:
    found = plain_numbers(cells.columns[name])
    if found is not None:
        return found
    row = next(i for i, cell in enumerate(cells.columns[name]) if plain_numbers([cell]) is None)
    shown = printable(cells.columns[name][row])[:40]
    raise BadInput(
        f"{path}, line {cells.rows[row]}: {name} = '{shown}' is not a number; correct it, or leave the cell empty (not met)"
    )


def _absent(
    root: Path, folders: Mapping[Path, Sequence[str]], used: Sequence[Path], paths: Sequence[Path], targets: Targets
) -> list[str]:
    """Notes on what the tree seems to hold, and does not. used: the files that gave rows, of all `paths`."""
    bare = [
        folder
        for folder, names in folders.items()
        if FILE not in names and folder.name.startswith("trial_") and targets.named(folder.parent.name) is not None
    ]
    nowhere = [
        folder / name
        for folder, names in folders.items()
        for name in names
        if (folder / name).is_symlink() and not (folder / name).exists()
    ]
    homes = {path.parents[4] for path in paths}
    entered = {path.parents[3] for path in used}
    lost = [one for one in folders if one.parent in homes and one not in entered and not one.name.startswith(".")]
    return [
        *_named(f"no {FILE}, so no trial, in", root, bare),
        *_named("no file there, so not followed, behind the links", root, nowhere),
        *_named("no trial that can be scored is left of", root, lost),
    ]


def _named(what: str, root: Path, paths: Sequence[Path]) -> list[str]:
    return [f"{what} {listed(str(path.relative_to(root)) for path in sorted(paths))}"] if paths else []


def _table(root: Path, rows: list[dict[str, Any]], read: int, left_out: Mapping[str, int], notes: list[str]) -> Table:
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
    return Table(columns, str(root), read, dict(left_out), tuple(notes))
