"""Hydra's side: schemas made from the registered components, composition, and trials from configurations.

YAML under conf/ holds values only. Every registered component is a config node of its group, so a new one needs no YAML;
a YAML file in the group's folder adds a named preset.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.budget import Budget
from harness.optimizers import OPTIMIZERS
from harness.optimizers.user import is_file, load_optimizer
from harness.overrides import with_quotes
from harness.parametrizations import PARAMETRIZATIONS
from harness.registry import Registry, nearest
from harness.schedules import SCHEDULES
from harness.trial import Trial
from workloads import FAMILIES
from workloads.base import BadInput, Workload

_PACKAGE = Path(__file__).resolve().parent
CONFIG_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

WORKLOADS: Registry[Workload] = Registry("workload")
for _family in FAMILIES:
    WORKLOADS.register(_family.name)(_family)

COMPONENTS: dict[str, Registry[Any]] = {
    "workload": WORKLOADS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "parametrization": PARAMETRIZATIONS,
}


@dataclass
class TrackerConfig:
    """Where live metrics are mirrored. mode: W&B's online, offline or disabled.

    points: of a curve that are logged live. live: most runs open at once; other trials are mirrored when they finish. wait:
    seconds that a mirror which lags may take after training.
    """

    name: str = "none"
    project: str = "windtunnel"
    entity: str | None = None
    mode: str = "offline"
    tags: list[str] = field(default_factory=list)
    points: int = 16
    live: int = 64
    wait: float = 60.0


@dataclass
class EngineConfig:
    """How trials are trained, never what they compute (see harness.engine.runner.Settings). devices: CPU devices to make.

    layout: trials (every device trains whole trials) or model (a trial is split over all devices of all processes).
    coordinator, processes, process: of several processes with layout=model; srun's are found without.
    """

    devices: int | None = None
    layout: str = "trials"
    coordinator: str = ""
    processes: int | None = None
    process: int | None = None
    pack_size: int | None = None
    memory_gb: float | None = None
    checkpoint_overhead: float = 0.03
    curve_points: int = 256
    chunk_limit_s: float | None = 7200.0


@dataclass
class AnalysisConfig:
    """What the job that follows an array is asked for; it analyses, and submits the study's next stage."""

    partition: str | None = None
    cpus: int = 1
    mem_gb: float | None = None
    time_min: int = 30


@dataclass
class ClusterConfig:
    """What SLURM is asked for; null leaves it to the site (see SLURM/README.md). Presets: conf/cluster/*.yaml.

    gpus, cpus, mem_gb, time_min: of one array task, which trains its packs on all its devices. gpu_memory_gb: of one GPU, to
    size packs before one is seen. work_rate: Pack.step_work per second and device, for estimates until something is recorded.
    signal_s: how long before the time limit a task is told to checkpoint. task_min: packs share a task until it is estimated
    to take this long. concurrent: most tasks at once. retries: how often a task starts again after a failure without progress.
    options: more sbatch options. modules, environment: loaded and exported in the job. container: words before the Python
    command, such as [apptainer, exec, --nv, image.sif], or options of srun. python: the interpreter, by default this one.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    gpu_type: str | None = None
    gpu_memory_gb: float | None = None
    cpus: int = 1
    mem_gb: float | None = None
    time_min: int = 60
    signal_s: int = 120
    task_min: float = 30.0
    concurrent: int | None = None
    max_tasks: int = 1000
    retries: int = 2
    work_rate: float | None = None
    options: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    container: list[str] = field(default_factory=list)
    python: str | None = None
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)


@functools.cache
def schema(cls: type[Any], named: bool = True) -> type[Any]:
    """A mutable twin of a frozen component class, with its name as a field, which is what Hydra can override."""
    hints = typing.get_type_hints(cls)
    defaults = {f.name: field(default=f.default, default_factory=f.default_factory) for f in dataclasses.fields(cls)}  # type: ignore[call-overload]
    fields = [(name, hints[name], default) for name, default in defaults.items()]
    name = [("name", str, field(default=cls.name))] if named else []  # type: ignore[attr-defined]
    return dataclasses.make_dataclass(f"{cls.__name__}Config", name + fields)


_GROUPS = ("study", "tracker", "cluster", "hydra/launcher")
_defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Trial)}


@dataclass
class TrialConfig:
    """One trial. Groups: workload, optimizer, schedule, parametrization."""

    workload: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    parametrization: Any = MISSING
    budget: Any = MISSING
    seed: int = _defaults["seed"]
    data_seed: int | None = _defaults["data_seed"]
    evaluations: int = _defaults["evaluations"]
    divergence_factor: float = _defaults["divergence_factor"]
    precision: str = _defaults["precision"]
    keep_norms: bool = _defaults["keep_norms"]
    probes: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    """Where a command's results go, and how and where it trains.

    launcher: set by hydra/launcher. dry_run: show what would be trained, and stop. wait: follow submitted jobs to their end.
    """

    launcher: str = MISSING
    results: str = "results"
    dry_run: bool = False
    wait: bool = False
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass
class TrainConfig(TrialConfig, RunConfig):
    """`harness.train`: one trial, recorded under results/<study_name>."""

    study_name: str = "train"


@dataclass
class StudyConfig:
    """A study reads like its abstract; see conf/study/quickstart.yaml and harness.study.

    base: overrides of the trial's defaults, nested. sweep: key -> list of values, {log2: [low, high]} (octaves, optional
    third entry: step) or {range: [first, last]}; the sweep is their product. also: further products, each the sweep's with
    some axes replaced. scales: name -> what `scale=NAME` changes: entries of base and sweep one by one, other parts whole.
    rerun: fresh seeds on which each scale's
    fitted best learning rate is trained again (and other keys, to rerun only matching series); laws are then fitted to
    these losses, because who chooses is not who reports. predict: one larger scale.
    """

    name: str = MISSING
    question: str = MISSING
    base: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    also: list[Any] = field(default_factory=list)
    scales: dict[str, Any] = field(default_factory=dict)
    rerun: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    analyses: list[Any] = field(default_factory=list)
    claims: list[Any] = field(default_factory=list)


@dataclass
class StudyRunConfig(RunConfig):
    """`harness.study`: a named study.

    scale: one of the study's scales, such as gpu; its results go to results/<study.name>_<scale>. extend: train what undecided
    learning-rate transfers ask for, and look again.
    """

    study: StudyConfig = MISSING
    scale: str | None = None
    extend: bool = False


def register_schemas() -> None:
    """Make every component and command a node of Hydra's config store."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="study_schema", node=StudyRunConfig)
    store.store(name="run_schema", node=RunConfig)
    store.store(group="study", name="study", node=StudyConfig)
    store.store(group="budget", name="budget", node=schema(Budget, named=False))
    store.store(group="cluster", name="cluster", node=ClusterConfig)
    store.store(group="tracker", name="none", node=TrackerConfig)
    store.store(group="tracker", name="wandb", node=TrackerConfig(name="wandb"))
    for group, registry in COMPONENTS.items():
        for name in registry:
            store.store(group=group, name=name, node=schema(registry[name]))  # type: ignore[arg-type]


register_schemas()


def options(group: str) -> list[str]:
    """The names a group can take: registered components and YAML presets."""
    presets = [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")]
    return sorted({*COMPONENTS.get(group, ()), *presets})


def compose_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose conf/<name>.yaml with `key=value` overrides. Raises BadInput naming the nearest valid key or option."""
    overrides = readable(overrides)
    try:
        if GlobalHydra.instance().is_initialized():
            return compose(name, list(overrides))
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose(name, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(name, overrides, error) from None


def readable(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra can read them: data quoted, and every optimizer=FILE.py:FUNCTION loaded and called by its name."""
    return [_with_own_optimizer(word) for word in with_quotes(overrides)]


def _with_own_optimizer(word: str) -> str:
    key, equals, value = word.partition("=")
    if key.lstrip("+") != "optimizer" or not is_file(value):
        return word
    return f"{key}{equals}{','.join(_own_option(name) for name in value.split(','))}"


def _own_option(value: str) -> str:
    name = value.strip().strip("'\"")
    if not is_file(name):
        return value
    cls = load_optimizer(name)
    OPTIMIZERS.admit(cls)
    ConfigStore.instance().store(group="optimizer", name=cls.name, node=schema(cls))  # type: ignore[arg-type]
    return cls.name


def compose_study(arguments: Sequence[str]) -> DictConfig:
    """Compose conf/study.yaml. `study.KEY=VALUE` replaces that part of the study whole, and may add to base and sweep.

    (Hydra's own overrides would merge an axis such as {log2: ...} into the one that it is to replace.)
    """
    config = compose_config("study", [word for word in arguments if not word.startswith("study.")])
    if config.scale is not None:
        _rescale(config.study, config.scale)
    known = [f.name for f in dataclasses.fields(StudyConfig)]
    for word in arguments:
        key, equals, value = word.partition("=")
        if not key.startswith("study."):
            continue
        if not equals or key.split(".")[1] not in known:
            raise BadInput(f"unknown argument '{word}'. {nearest(key.split('.')[1], known)}")
        try:
            OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value, merge=False, force_add=True)
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise BadInput(f"{word}: {str(error).splitlines()[0]}") from None
    return config


def _rescale(study: DictConfig, scale: str) -> None:
    """Change the study to one of its scales. Raises BadInput if it has no such scale."""
    if scale not in study.scales:
        raise BadInput(f"study '{study.name}' has no scale '{scale}'. {nearest(scale, study.scales)}")
    for part, changes in study.scales[scale].items():
        if part in ("base", "sweep"):  # dotted keys and nested ones are the same key; the later one counts
            entries = {**OmegaConf.to_container(study[part]), **OmegaConf.to_container(changes)}  # type: ignore[dict-item]
            OmegaConf.update(study, part, entries, merge=False)
        else:
            OmegaConf.update(study, part, changes, merge=False)
    study.name = f"{study.name}_{scale}"


def explain(name: str, overrides: Iterable[str], error: Exception) -> BadInput:
    """The user's mistake in one paragraph, with the nearest valid name where there is one."""
    pairs = [text.lstrip("+~").partition("=")[::2] for text in overrides if not text.startswith("-")]
    for key, value in pairs:
        valid = options(key) if key in (*COMPONENTS, *_GROUPS) else []
        unknown = [word for word in value.split(",") if valid and word not in valid and word.isidentifier()]
        if unknown and not (key == "tracker" and unknown[0] in ("none", "wandb")):
            return BadInput(f"unknown {key} '{unknown[0]}'. {nearest(unknown[0], valid)}")
    groups = [f"{key}={value}" for key, value in pairs if key in (*COMPONENTS, *_GROUPS) and "," not in value]
    try:
        with_groups = compose_config(name, groups) if len(groups) < len(pairs) else None
    except BadInput:
        with_groups = None
    if with_groups is not None:
        valid_keys = set(flat_keys(with_groups))
        for key, _ in pairs:
            if key not in valid_keys and not key.startswith("hydra"):
                siblings = {k for k in valid_keys if k.rpartition(".")[0] == key.rpartition(".")[0]}
                return BadInput(f"unknown key '{key}'. {nearest(key, siblings or valid_keys)}")
    return BadInput(" ".join(f"{error.__cause__ or error}".splitlines()[:4]))


def flat_keys(config: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys of a config, inner nodes included."""
    keys: list[str] = []
    for key in map(str, config):
        keys.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            keys += flat_keys(config[key], f"{prefix}{key}.")
    return keys


def trial_from(config: DictConfig) -> Trial:
    """The trial that a composed TrainConfig describes, validated."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    parts: dict[str, Any] = {}
    for group, registry in COMPONENTS.items():
        node = dict(values[group])
        parts[group] = registry[node.pop("name")](**node)
    scalars = {f.name: values[f.name] for f in dataclasses.fields(Trial) if f.name not in (*parts, "budget", "probes")}
    probes = tuple(values["probes"])
    trial = Trial(**parts, budget=Budget(**values["budget"]), probes=probes, **scalars)
    trial.validate()
    return trial


def with_values(trial: Trial, values: Mapping[str, Any]) -> Trial:
    """The trial with dotted keys ("optimizer.learning_rate") replaced, types checked as Hydra would."""
    changes: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        changes.setdefault(part, {})[name] = value
    for part, fields in changes.items():
        target = trial if not part else getattr(trial, part)
        checked = {
            name: _checked(type(target), f"{part}.{name}".strip("."), name, value) for name, value in fields.items()
        }
        changed = dataclasses.replace(target, **checked)
        whole: dict[str, Any] = {part: changed}
        trial = changed if not part else dataclasses.replace(trial, **whole)
    return trial


def _checked(cls: type[Any], key: str, name: str, value: Any) -> Any:
    """`value` as the field's type. Sweeps ask for the same few values thousands of times."""
    check = _checked_once if isinstance(value, Hashable) else _checked_once.__wrapped__
    return check(cls, key, name, value)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=1 << 14, typed=True)
def _checked_once(cls: type[Any], key: str, name: str, value: Any) -> Any:
    kinds = {f.name: f.type for f in dataclasses.fields(cls)}
    if name not in kinds:
        raise BadInput(f"unknown key '{key}'. {nearest(name, kinds)}")
    try:
        mutable = TrialConfig if cls is Trial else schema(cls, named=False)  # type: ignore[arg-type]
        node = OmegaConf.structured(mutable)
        node[name] = value
        return node[name]
    except OmegaConfBaseException as error:
        raise BadInput(f"{key}={value}: {str(error).splitlines()[0]}") from None
