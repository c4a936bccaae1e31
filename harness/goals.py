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

    steps: the horizon that targets were set with. on: metric or loss. algorithm, configuration, seeds: what set them.
    hit_probability: the share of hit_seeds, further ones of that configuration, that reach the validation target (NaN: not
    measured); hit_bests: the best value of each. Files without hit_seeds have the share of the seeds that set it, which is half
    of them or more whatever another seed would do, and as hit_bests what those ended with. trivial: the metric of the best
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
    seeds: tuple[int, ...]
    hit_probability: float
    hit_seeds: tuple[int, ...]
    hit_bests: tuple[float, ...]
    trivial: float | None

    def met_by(self, value: float) -> bool:
        """Whether it is as good as the validation target; NaN is not."""
        return value <= self.validation_target if self.direction == "minimize" else value >= self.validation_target

    @property
    def reached_by(self) -> str:
        """The hit probability in words: of which runs it is a share."""
        if math.isnan(self.hit_probability):
            return f"an unknown share of the runs of {self.algorithm}"
        count = f"{len(self.hit_bests)} " if self.hit_bests else ""
        whose = f"{count}further seeds" if self.hit_seeds else f"its own {count}seeds"
        return f"{self.hit_probability:.0%} of {whose} ({self.algorithm})"

    def relaxed(self, share: float) -> Goal:
        """Easier by a share of the distance from the trivial predictor, or where it is not known of the size."""
        moved = {}
        for name in ("validation_target", "test_target"):
            target = getattr(self, name)
            slack = share * abs(target - self.trivial if self.trivial is not None else target)
            moved[name] = target + slack if self.direction == "minimize" else target - slack
        easier = dataclasses.replace(self, **moved)
        met = [easier.met_by(best) for best in self.hit_bests]
        reached = max([self.hit_probability, *([sum(met) / len(met)] if met else [])])  # before the end more may have
        return dataclasses.replace(easier, hit_probability=reached)

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
    return {path.stem: read_goal(path) for path in paths}


def read_goal(path: Path) -> Goal:
    """The targets of one file. Raises BadInput if there are none."""
    return goal_of(read_json(path), path)


def goal_of(entry: Mapping[str, Any], path: Path) -> Goal:
    """The targets in a file's content. Raises BadInput if it is none of a targets file."""
    again = f"delete it and set it again with python -m harness.targets workload=NAME out={path.parent}"
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
        hit_seeds = tuple(int(seed) for seed in entry.get("hit_seeds", ()))
        bests = entry["hit_bests"] if hit_seeds else entry["algorithms"][entry["algorithm"]].get("finals", ())
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
            seeds=tuple(int(seed) for seed in entry.get("seeds", ())),
            hit_probability=float(entry.get("hit_probability", math.nan)),
            hit_seeds=hit_seeds,
            hit_bests=tuple(math.nan if best is None else float(best) for best in bests),
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
