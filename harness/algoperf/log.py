"""AlgoPerf's log of a run, which harness.scoring.log_tree reads; and runs that are not repeated once they are logged."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from harness.algoperf.records import BrokenOff, Evaluation, Run, Task
from harness.algoperf.run import train
from harness.components import as_config
from harness.records.files import read_json, write_json

FILE = "eval_measurements.csv"
_RUN = "run.json"
_MORE_TIME = 1.05  # times the limit that ended a run


def logged(task: Task, folder: Path, metric_name: str) -> Run:
    """The run that the folder holds, if it is this task's; else train, and write it there beside AlgoPerf's log.

    A run that the submission broke off by what it raised is one, too. One that ended by a time limit is made again if there is
    more time now. Raises BadInput where not even the first step could be taken.
    """
    if is_logged(task, folder):
        found = read_json(folder / _RUN)
        run = _run(found["run"])
        if run.ended != "time" or task.max_seconds <= _MORE_TIME * (found["max_seconds"] or math.inf):
            return run
    try:
        run = train(**{field.name: getattr(task, field.name) for field in dataclasses.fields(task)})
    except BrokenOff as failure:
        if failure.run.steps == 0 or _is_the_machines(failure):
            raise
        run = failure.run
    write_log(run, folder, metric_name)
    limit = task.max_seconds if math.isfinite(task.max_seconds) else None
    write_json(folder / _RUN, {"task": _asked(task), "max_seconds": limit, "run": dataclasses.asdict(run)})
    return run


def _is_the_machines(failure: BaseException | None) -> bool:
    """Whether this, or what it comes from, may be gone the next time."""
    if failure is None or isinstance(failure, MemoryError | OSError | jax.errors.JaxRuntimeError):
        return failure is not None
    return _is_the_machines(failure.__cause__)


def is_logged(task: Task, folder: Path) -> bool:
    """Whether the folder holds this task's run."""
    path = folder / _RUN
    found = read_json(path) if path.is_file() else {}
    return isinstance(found, dict) and found.get("task") == _asked(task)


def _asked(task: Task) -> dict[str, Any]:
    return {
        "submission": task.submission.sha256,
        "workload": as_config(task.workload),
        "data_sha256": str(task.workload.load().info.get("sha256", "")),
        "hyperparameters": dict(task.hyperparameters),
        "steps": task.steps,
        "evaluations": task.evaluations,
        "seed": task.seed,
        "test_curve": task.test_curve,
        "stretch": task.stretch,
    }


def _run(entry: Mapping[str, Any]) -> Run:
    """What was written with NaN as null."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    evaluations = tuple(
        Evaluation(**{**one, "loss": number(one["loss"]), "metric": number(one["metric"])})
        for one in entry["evaluations"]
    )
    tests = {} if entry["ended"] == "error" else {key: number(entry[key]) for key in ("test_loss", "test_metric")}
    return Run(**{**entry, "evaluations": evaluations, **tests})


def write_log(run: Run, folder: Path, metric_name: str) -> Path:
    """Write FOLDER/eval_measurements.csv, a row per evaluation, and return its path.

    folder: .../<submission>/study_k/<workload>_jax/trial_j. Columns: global_step, score and accumulated_submission_time (the
    same seconds), validation/<metric>, validation/loss, and test/<metric> where it is known, at least in the last row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float | int | str]] = [
        {
            "global_step": evaluation.step,
            "score": evaluation.seconds,
            "validation/loss": evaluation.loss,
            f"validation/{metric_name}": evaluation.metric,
            "accumulated_submission_time": evaluation.seconds,
            **({} if evaluation.test_metric is None else {f"test/{metric_name}": evaluation.test_metric}),
        }
        for evaluation in run.evaluations
    ]
    columns = ["global_step", "score", *dict.fromkeys((f"validation/{metric_name}", "validation/loss"))]
    columns.append("accumulated_submission_time")
    if rows and run.test_metric is not None and run.ended in ("steps", "submission"):
        rows[-1][f"test/{metric_name}"] = run.test_metric
    if any(f"test/{metric_name}" in row for row in rows):
        columns.insert(-1, f"test/{metric_name}")
    with (folder / FILE).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder / FILE
