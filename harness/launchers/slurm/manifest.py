"""The manifest of a submission: all that its jobs need to know, as JSON; trials go through the config layer again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import components
from harness.budget import Budget
from harness.config import COMPONENTS, EngineConfig, RunConfig, TrackerConfig, TrialConfig, schema, trial_from
from harness.optimizers import OPTIMIZERS
from harness.optimizers.user import load_optimizer
from harness.records.files import read_json, write_json
from harness.sweep import Point
from harness.trial import Trial
from workloads.base import BadInput

VERSION = 3
COMMANDS = ("study", "judge", "compete", "targets")  # that go on after their arrays
NAME = "manifest.json"
FOLDER = "slurm"  # results/<study>/slurm/<submission>/


@dataclass(frozen=True)
class PlannedPack:
    """A pack as planned when it was submitted. id: Pack.id. seconds: estimated. trials: see `planned`, `Manifest.shared`."""

    id: str
    seconds: float
    trials: list[dict[str, Any]]

    @property
    def trial_ids(self) -> list[str]:
        return [trial["id"] for trial in self.trials]


@dataclass(frozen=True)
class Manifest:
    """What one submission trains: tasks[i] are the packs of array task i.

    engine, tracker: as in the commands' configuration, with all that depends on the machine filled in. command, arguments: what
    follows the array (arguments None: nothing does). points: the stage's points, in the study's words. optimizers: own_key ->
    FILE.py:FUNCTION of the users' own among the trials'. files: path -> SHA-256 of the files that trials name besides their
    corpus. shared: what the configurations of all trials have in common, and those of `tasks` therefore lack: every task reads
    the whole manifest.
    """

    study: str
    created_at: str
    engine: dict[str, Any]
    tracker: dict[str, Any]
    retries: int
    tasks: list[list[PlannedPack]]
    command: str = "study"
    arguments: list[str] | None = None
    points: list[Point] = field(default_factory=list)
    optimizers: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def packs(self) -> list[PlannedPack]:
        return [pack for task in self.tasks for pack in task]

    def config(self) -> DictConfig:
        """`engine` and `tracker` as a command has them."""
        run = OmegaConf.structured(RunConfig)
        return OmegaConf.merge(run, {"engine": self.engine, "tracker": self.tracker})  # type: ignore[return-value]

    def write(self, folder: Path) -> Path:
        path = folder / NAME
        tasks = [[vars(pack) for pack in task] for task in self.tasks]
        write_json(path, {"version": VERSION, **vars(self), "tasks": tasks}, indent=None)
        return path

    def trial(self, entry: Mapping[str, Any]) -> Trial:
        """The trial of an entry of a pack's `trials`. Raises BadInput as `trial_of` does."""
        config = {**self.shared, **entry["config"]}
        for group in (*COMPONENTS, "budget"):
            config[group] = {**self.shared.get(group, {}), **entry["config"].get(group, {})}
        own = self.optimizers.get(own_key(config["optimizer"]))
        if own is not None:
            OPTIMIZERS.admit(load_optimizer(own))
        return trial_of({"id": entry["id"], "config": config})


def own_key(optimizer: Mapping[str, Any]) -> str:
    """What tells a user's optimizer from others, two files of one name included: of its configuration."""
    return f"{optimizer.get('source_sha256', '')} {optimizer['name']}"


def read(path: Path) -> Manifest:
    """What `Manifest.write` wrote. Raises BadInput if it is anything else."""
    content = read_json(path)
    version = content.pop("version", None) if isinstance(content, dict) else None
    if version != VERSION:
        raise BadInput(f"{path} is not a manifest of version {VERSION}; submit again with this windtunnel")
    try:
        tasks = [[PlannedPack(**pack) for pack in task] for task in content.pop("tasks")]
        return Manifest(tasks=tasks, **content)
    except (TypeError, KeyError) as error:
        raise BadInput(f"{path} is not a manifest ({error}); submit again") from None


def submissions(root: Path) -> list[Path]:
    """The folders of a study's submissions that reached SLURM, oldest first."""
    return sorted(path.parent for path in (root / FOLDER).glob("*/jobs.json"))


def planned(trial: Trial) -> dict[str, Any]:
    """A trial as the manifest holds it: what Hydra would compose for it."""
    config: dict[str, Any] = {}
    for part in dataclasses.fields(trial):
        value = getattr(trial, part.name)
        if part.name in COMPONENTS:
            config[part.name] = components.as_config(value)
        else:
            config[part.name] = value
    config["budget"] = dataclasses.asdict(trial.budget)
    return {"id": trial.id, "config": config}


def factored(tasks: Sequence[Sequence[PlannedPack]]) -> tuple[dict[str, Any], list[list[PlannedPack]]]:
    """(what the configurations of all trials have in common, the tasks with the rest of them)."""
    configs = [trial["config"] for task in tasks for pack in task for trial in pack.trials]
    groups = (*COMPONENTS, "budget")
    shared = _common(configs)
    shared |= {group: _common([config[group] for config in configs]) for group in groups}

    def rest(config: Mapping[str, Any]) -> dict[str, Any]:
        own = {key: _without(config[key], shared[key]) for key in groups}
        return {**_without(config, shared), **{key: values for key, values in own.items() if values}}

    def packed(pack: PlannedPack) -> PlannedPack:
        trials = [{"id": trial["id"], "config": rest(trial["config"])} for trial in pack.trials]
        return dataclasses.replace(pack, trials=trials)

    return shared, [[packed(pack) for pack in task] for task in tasks]


def _common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that all of them have, each with the same value of the same type."""
    common = dict(configs[0]) if configs else {}
    for config in configs:
        for key in [key for key in common if not (key in config and _same(common[key], config[key]))]:
            del common[key]
    return common


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other) and (one != 0 or str(one) == str(other)))


def _without(config: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in shared}


def trial_of(entry: Mapping[str, Any]) -> Trial:
    """The trial that `planned` described, made and checked by the config layer. Raises BadInput if it is another one."""
    trial = trial_from(_composed(entry["config"]))
    if trial.id != entry["id"]:
        raise BadInput(
            f"trial {entry['id']} of the manifest is {trial.id} here: its corpus, a file it names or the code has changed "
            "since it was submitted; submit again"
        )
    return trial


def _composed(values: Mapping[str, Any]) -> DictConfig:
    """The configuration as Hydra would compose it: typed nodes of the groups, values checked."""
    config = OmegaConf.structured(TrialConfig)
    try:
        for group, registry in COMPONENTS.items():
            config[group] = OmegaConf.structured(schema(registry[values[group]["name"]]))  # type: ignore[arg-type]
        config.budget = OmegaConf.structured(schema(Budget, named=False))
        return OmegaConf.merge(config, values)  # type: ignore[return-value]
    except (OmegaConfBaseException, KeyError) as error:
        raise BadInput(f"the manifest's trial does not fit this code: {str(error).splitlines()[0]}") from None


def run_values(config: DictConfig, engine: EngineConfig) -> dict[str, dict[str, Any]]:
    """The manifest's `engine` and `tracker`."""
    tracker: TrackerConfig = OmegaConf.to_object(config.tracker)  # type: ignore[assignment]
    return {"engine": dataclasses.asdict(engine), "tracker": dataclasses.asdict(tracker)}


def digests(trials: Iterable[Trial]) -> dict[str, str]:
    """SHA-256 of every file that trials name besides their corpus (which is in their ids), such as a table of exponents."""
    groups = [group for group in (*COMPONENTS, "budget") if group != "workload"]
    parts = {getattr(trial, group) for trial in trials for group in groups}
    values = {value for part in parts for key, value in components.as_config(part).items() if key != "name"}
    named = {value for value in values if isinstance(value, str) and value}
    return {name: _sha256(Path(name)) for name in sorted(named) if Path(name).is_file()}


def check_files(files: Mapping[str, str]) -> None:
    """Raise BadInput if a file that a queued trial names has changed."""
    changed = [name for name, digest in files.items() if not Path(name).is_file() or _sha256(Path(name)) != digest]
    if changed:
        raise BadInput(f"{changed[0]} has changed since its trials were submitted; submit again, or restore it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_points(one: Sequence[Point], other: Sequence[Point], relative: float = 1e-6) -> bool:
    """Whether two lists of points differ by rounding at most."""

    def close(a: Any, b: Any) -> bool:
        if isinstance(a, float) and isinstance(b, int | float):
            return abs(a - b) <= relative * max(abs(a), abs(b))
        return bool(a == b)

    return len(one) == len(other) and all(
        p.keys() == q.keys() and all(close(p[key], q[key]) for key in p) for p, q in zip(one, other, strict=True)
    )
