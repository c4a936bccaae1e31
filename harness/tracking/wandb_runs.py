"""A trial as a W&B run, the same for the live mirror and for `sync`: name, configuration, axes, history, summary.

Imports no JAX: the live mirror's process starts with it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDED = "recorded"
"""Summary key: which row of the records the run mirrors. It is set last, and only on runs with their whole history."""

AXES = ("step", "tokens", "matmul_flops")
METRICS = ("train_loss", "lr", "eval_loss", "eval_metric")

Point = Mapping[str, float | int | None]
"""One row of history: an axis or metric -> value; None where nothing was measured."""

# Not results: identity and configuration are elsewhere in a run, and the rest is bulk.
_NO_SUMMARY = frozenset("trial attempt study seed data_seed config packages xla_flags".split())  # noqa: SIM905
_LEAN = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "program": "windtunnel",
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


@dataclass(frozen=True)
class Destination:
    """Where runs go. group: the study. mode: online or offline. folder: W&B's files are written to folder/wandb.

    settings: W&B settings beside the usual ones, e.g. how patient its own retries are.
    """

    project: str
    entity: str | None
    mode: str
    group: str
    folder: str
    tags: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the journal calls it. Offline folders are uploaded later, wherever that may be."""
        if self.mode == "offline":
            return "offline"
        server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
        return f"{server}/{self.entity or '-'}/{self.project}"


def refuse_link(folder: Path) -> None:
    """Raise OSError if W&B's folder is a link: what a results folder holds must not lead what is written out of it."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "this is a symbolic link; link the whole results folder instead", str(folder))


def key_of(name: str) -> str:
    """A column's name as a key in W&B, which takes dots for nested dictionaries: "optimizer/learning_rate"."""
    return name.replace(".", "/")


def run_name(config: Mapping[str, Any]) -> str:
    """Readable: workload, width, parametrization, learning rate, seed; what a trial has of these."""
    rate = config.get("optimizer.learning_rate")
    parts = (
        config.get("workload"),
        f"w{config['workload.width']}" if "workload.width" in config else None,
        config.get("parametrization"),
        f"lr{rate:.3g}" if isinstance(rate, (int, float)) else None,
        f"s{config['seed']}" if "seed" in config else None,
    )
    return " ".join(str(part) for part in parts if part is not None)


def commit_tag(code_version: str | None) -> list[str]:
    """The git commit of a code version ("0.1.0+34a7372c3a1f-dirty"), or the version where there is none."""
    if not code_version:
        return []
    return [(code_version.partition("+")[2] or code_version)[:64]]


def version_of(row: Mapping[str, Any]) -> str:
    """Names one row of a trial's records: another attempt of the same trial is another version."""
    return f"{row['status']} {row.get('finished_at') or row.get('attempt') or ''}".strip()


def config_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration of a recorded trial. (Imported rows have no JSON of it, only columns with dotted names.)"""
    if row.get("config"):
        return dict(json.loads(row["config"]))
    return {name: value for name, value in row.items() if "." in name and value is not None}


def summary_of(row: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The results among a row's columns: losses, parameters, FLOPs, clocks, status, code and device."""
    return {k: v for k, v in row.items() if v is not None and k not in config and k not in _NO_SUMMARY}


def settings_of(wandb: Any, **more: Any) -> Any:
    """Lean settings: no system metrics, no console, no code, no git, one run costs milliseconds.

    Those that this version of W&B does not know are left out.
    """
    known = wandb.Settings.model_fields
    return wandb.Settings(**{name: value for name, value in {**_LEAN, **more}.items() if name in known})


def open_run(
    wandb: Any,
    to: Destination,
    trial: str,
    config: Mapping[str, Any],
    code_version: str | None,
    job_type: str = "train",
    name: str | None = None,
) -> Any:
    """Start the run of a trial, beside any others of this process; online, one that exists is continued.

    Raises what W&B raises, and OSError if its folder is a link.
    """
    refuse_link(Path(to.folder) / "wandb")
    run = wandb.init(
        project=to.project,
        entity=to.entity,
        mode=to.mode,
        group=to.group[:128],
        job_type=job_type,
        tags=[*to.tags, *commit_tag(code_version)],
        id=trial,
        name=name or run_name(config),
        config={key_of(k): value for k, value in config.items()},
        dir=to.folder,
        reinit="create_new",
        resume="allow" if to.mode == "online" else None,
        settings=settings_of(wandb, **to.settings),
    )
    if job_type == "train":
        run.define_metric("step")
        for metric in (*AXES[1:], *METRICS):
            run.define_metric(metric, step_metric="step")
    return run


def reached(run: Any) -> int:
    """The last step that the server has of a run; 0 for a new one.

    What W&B has of a history it keeps: rows can be added, never changed. A run is therefore always a prefix of its trial's
    history, and is completed by the points beyond.
    """
    return max(0, int(run.starting_step) - 1)


def log_points(run: Any, points: Iterable[Point], after: int) -> int:
    """Log the points whose step lies beyond `after`, in order; returns the last step that the run then has.

    W&B's own step is the training step, so that a step can be logged once only. NaN is logged, None is not.
    """
    for point in points:
        step = int(point["step"] or 0)
        if step > after:
            run.log({key_of(k): value for k, value in point.items() if value is not None}, step=step)
            after = step
    return after


def close_run(run: Any, summary: Mapping[str, Any], version: str | None) -> None:
    """Write the summary and finish. version: of a run with its whole history; None leaves it to `sync`.

    W&B turns NaN into null in a summary, and shows the NaN of its own histories as the text "NaN": so does this.
    """
    found = {key_of(k): "NaN" if isinstance(v, float) and math.isnan(v) else v for k, v in summary.items()}
    run.summary.update(found if version is None else {**found, RECORDED: version})
    run.finish(exit_code=0 if version is not None else 1)


def curve_points(columns: Mapping[str, list[Any]], flops_per_step: float | None) -> Iterator[Point]:
    """The points of a recorded curve (column -> values), with the FLOPs of matrix products as a third axis."""
    names = [name for name in columns if name != "trial"]
    for values in zip(*(columns[name] for name in names), strict=True):
        point = dict(zip(names, values, strict=True))
        if flops_per_step is not None:
            point["matmul_flops"] = flops_per_step * point["step"]
        yield point


def flops_per_step(row: Mapping[str, Any]) -> float | None:
    """FLOPs of a step's matrix products; None where they were not recorded."""
    steps, flops = row.get("steps"), row.get("matmul_flops")
    return flops / steps if steps and flops is not None else None


_SECRET = re.compile(r"[A-Za-z0-9_-]{32,}")


def reason_of(error: BaseException) -> str:
    """One line about an error, without anything that could be a key."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    key = os.environ.get("WANDB_API_KEY")
    return _SECRET.sub("***", text.replace(key, "***") if key else text)[:200]
