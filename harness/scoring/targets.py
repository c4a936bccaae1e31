"""Which workloads make a score, and what counts as having trained them: AlgoPerf's workload_targets JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records.files import read_json
from harness.records.table import close, listed
from harness.scoring.hits import Direction
from workloads.base import BadInput

_DIRECTIONS: Mapping[str, Direction] = {
    "accuracy": "maximize",
    "bleu": "maximize",
    "mean_average_precision": "maximize",
    "ssim": "maximize",
    "ce_loss": "minimize",
    "ctc_loss": "minimize",
    "error_rate": "minimize",
    "l1_loss": "minimize",
    "loss": "minimize",
    "ppl": "minimize",
    "wer": "minimize",
}
"""Of AlgoPerf's metrics, for targets of v0.5, which do not say; later ones have target_metric_goal."""
FRAMEWORKS = ("jax", "pytorch")
"""What AlgoPerf's logs append to the names of workloads, after an underscore."""


@dataclass(frozen=True)
class Workloads:
    """base: what scores are shares of. held_out: variant -> the base workload that it can spoil."""

    base: tuple[str, ...]
    held_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.base:
            raise BadInput("a score needs at least one base workload")
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise BadInput(f"workload '{repeated[0]}' is named twice; name each base workload and variant once")
        lost = [variant for variant, base in self.held_out.items() if base not in self.base]
        if lost:
            raise BadInput(f"held-out '{lost[0]}' is no variant of a base workload ({listed(self.base)})")

    @property
    def columns(self) -> tuple[str, ...]:
        """Base workloads, then held-out variants: the order of columns in every array of times."""
        return (*self.base, *self.held_out)

    @property
    def variants(self) -> tuple[tuple[int, int], ...]:
        """(column of a variant, column of its base)."""
        return tuple((self.columns.index(variant), self.base.index(base)) for variant, base in self.held_out.items())

    def without(self, base: str) -> tuple[Workloads, list[int]]:
        """All but one base workload and its variants, and the columns that stay."""
        held_out = {variant: other for variant, other in self.held_out.items() if other != base}
        rest = Workloads(tuple(name for name in self.base if name != base), held_out)
        return rest, [self.columns.index(name) for name in rest.columns]


@dataclass(frozen=True)
class Target:
    """metric: of the validation split. direction: None where the file does not say and the metric is none of AlgoPerf's."""

    metric: str
    value: float
    direction: Direction | None


@dataclass(frozen=True)
class Targets:
    """version: of the benchmark. workloads: those that score. targets: of these and of others that logs may hold."""

    version: str
    workloads: Workloads
    targets: Mapping[str, Target]
    source: str = ""

    def named(self, word: str) -> str | None:
        """The workload with a target that logs call `word`, which may end in its framework (wmt_jax); None if there is none."""
        name, _, framework = word.rpartition("_")
        known = (word, name) if framework in FRAMEWORKS else (word,)
        return next((one for one in known if one in self.targets), None)

    def of(self, workload: str) -> tuple[Target, Direction]:
        """A workload's target and the direction of its metric. Raises BadInput where the direction is not known."""
        target = self.targets[workload]
        if target.direction is None:
            raise BadInput(
                f"{self.source} does not say whether small or large '{target.metric}' is good; add to workloads.{workload} "
                '"target_metric_goal": "minimize" or "maximize"'
            )
        return target, target.direction


def read_targets(path: str | Path) -> Targets:
    """AlgoPerf's workload_targets*.json: base_workloads, held_out_workloads (may lack) and workloads.

    A held-out workload belongs to the base workload with the longest name that its own begins with, or to the one that its
    entry's "base_workload" names. Raises BadInput on anything missing or of the wrong kind.
    """
    entry = read_json(Path(path).expanduser())
    if not isinstance(entry, dict) or not isinstance(entry.get("workloads"), dict):
        raise BadInput(f"{path} is not a file of targets: it needs base_workloads, held_out_workloads and workloads")
    base = _names(path, entry, "base_workloads")
    drawn = _names(path, entry, "held_out_workloads") if "held_out_workloads" in entry else ()
    specs = entry["workloads"]
    for name in (*base, *drawn):
        if name not in specs:
            raise BadInput(f"{path}: '{name}' is to be scored but not in workloads. {close(name, specs)}")
    targets = {name: _target(path, name, spec) for name, spec in specs.items()}
    held_out = {name: specs[name].get("base_workload") or _base_of(path, name, base) for name in drawn}
    return Targets(str(entry.get("benchmark_version", "")), Workloads(base, held_out), targets, str(path))


def _names(path: str | Path, entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = entry.get(key)
    if key == "base_workloads" and not names:
        raise BadInput(f"{path}: a score needs at least one base workload in base_workloads")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"{path}: {key} must be a list of names of workloads")
    return tuple(names)


def _base_of(path: str | Path, variant: str, base: Sequence[str]) -> str:
    found = [name for name in base if variant.startswith(name) and not variant[len(name) : len(name) + 1].isalnum()]
    if not found:
        raise BadInput(
            f"{path}: held-out '{variant}' begins with the name of no base workload ({listed(base)}); say which with "
            f'"base_workload" in workloads.{variant}'
        )
    return max(found, key=len)


def _target(path: str | Path, name: str, spec: Any) -> Target:
    try:
        metric, value = str(spec["target_metric_name"]), float(spec["validation_target_value"])
        goal = spec.get("target_metric_goal") or _DIRECTIONS.get(metric)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BadInput(
            f"{path}: workloads.{name} needs target_metric_name and a number validation_target_value"
        ) from None
    if goal not in ("minimize", "maximize", None):
        raise BadInput(f"{path}: workloads.{name}.target_metric_goal is '{goal}'; use minimize or maximize")
    return Target(metric, value, goal)
