"""What to reach on the workloads that this harness trains: the files that `python -m harness.targets` writes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from harness.config import WORKLOADS
from harness.optimizers import OPTIMIZERS
from harness.records.files import read_json
from harness.scoring.hits import Direction
from harness.scoring.targets import Workloads
from workloads.base import BadInput, Workload


@dataclass(frozen=True)
class Goal:
    """A workload with its targets. name: of the column in scores. base: the workload that it is a variant of ("": none).

    steps: the horizon that targets were set with. on: metric or loss. algorithm, configuration: what set them. finals: what its
    runs ended with. hit_probability: the share of them that reached the validation target. trivial: the metric of the best
    predictor that looks at no input.
    """

    name: str
    base: str
    workload: Workload
    steps: int
    on: str
    metric: str
    direction: Direction
    validation_target: float
    test_target: float
    algorithm: str
    configuration: Mapping[str, float]
    hit_probability: float
    finals: tuple[float, ...]
    trivial: float | None

    def relaxed(self, share: float) -> Goal:
        """Easier by a share of the distance from the trivial predictor, or where it is not known of the size."""
        moved = {}
        for name in ("validation_target", "test_target"):
            target = getattr(self, name)
            slack = share * abs(target - self.trivial if self.trivial is not None else target)
            moved[name] = target + slack if self.direction == "minimize" else target - slack
        sign = 1 if self.direction == "minimize" else -1
        met = [sign * final <= sign * moved["validation_target"] for final in self.finals]
        reached = max([self.hit_probability, *([sum(met) / len(met)] if met else [])])  # before the end more may have
        return dataclasses.replace(self, **moved, hit_probability=reached)

    def to_json(self) -> dict[str, Any]:
        """Its entry in AlgoPerf's workload_targets JSON."""
        entry = {
            "target_metric_name": self.metric,
            "target_metric_goal": self.direction,
            "validation_target_value": self.validation_target,
            "test_target_value": self.test_target,
        }
        return {**entry, "base_workload": self.base} if self.base else entry


def read_goals(folder: Path) -> dict[str, Goal]:
    """All targets of a folder by column name. Raises BadInput if there are none, or one is malformed."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise BadInput(f"{folder} holds no targets; set them with python -m harness.targets workload=NAME out={folder}")
    return {path.stem: _read(path) for path in paths}


def _read(path: Path) -> Goal:
    again = f"set it again with python -m harness.targets workload=NAME out={path.parent}"
    entry = read_json(path)
    try:
        cls = WORKLOADS[entry["workload"]]
        prefix = "workload."
        fields = {key.removeprefix(prefix): value for key, value in entry["fields"].items()}
        unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls)})  # type: ignore[arg-type]
        if unknown:
            raise BadInput(f"{path}: {cls.name} has no field '{unknown[0]}'; {again}")
        workload = cls(**fields)
        workload.validate()
        algorithm = OPTIMIZERS[str(entry["algorithm"])]
        configuration = dict(entry["algorithms"][entry["algorithm"]]["configuration"])
        algorithm(**configuration).validate()
        if int(entry["steps"]) < 1:
            raise BadInput(f"{path}: steps={entry['steps']} must be at least 1; {again}")
        if entry["direction"] not in get_args(Direction):
            raise BadInput(
                f"{path}: direction={entry['direction']} must be one of {', '.join(get_args(Direction))}; {again}"
            )
        return Goal(
            name=path.stem,
            base=cls.name if entry["variant"] else "",
            workload=workload,
            steps=int(entry["steps"]),
            on="loss" if entry["metric"] == "loss" else "metric",
            metric=str(entry["metric"]),
            direction=entry["direction"],
            validation_target=float(entry["validation_target"]),
            test_target=float(entry["test_target"]),
            algorithm=str(entry["algorithm"]),
            configuration=configuration,
            hit_probability=float(entry["hit_probability"]),
            finals=tuple(
                math.nan if final is None else float(final)
                for final in entry["algorithms"][entry["algorithm"]].get("finals", ())
            ),
            trivial=None if entry["metric"] == "loss" or entry["trivial"] is None else float(entry["trivial"]),
        )
    except BadInput:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is no file of targets ({type(error).__name__}: {error}); {again}") from None


def drawn(goals: Mapping[str, Goal], bases: Sequence[str], seed: int | None) -> tuple[Workloads, list[Goal]]:
    """The workloads that score: the bases, and of each that has variants with targets one, drawn by seed (None: no variants).

    A base's draw does not depend on which other bases are there, and another variant changes it only by being drawn. Raises
    BadInput on a base without targets.
    """
    known = sorted(name for name, goal in goals.items() if not goal.base)
    for name in bases:
        if name not in known:
            raise BadInput(f"no targets for workload '{name}'; there are those of {', '.join(known)}")
    held_out = {}
    for name in bases if seed is not None else ():
        lots = {v: np.random.default_rng([seed or 0, *v.encode()]).random() for v in goals if goals[v].base == name}
        if lots:
            held_out[min(lots, key=lots.__getitem__)] = name
    workloads = Workloads(tuple(bases), held_out)
    return workloads, [goals[name] for name in workloads.columns]
