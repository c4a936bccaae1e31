"""From missing trials to array tasks: packs as the node will make them, put together until a task is worth its start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from harness import plan
from harness.config import ClusterConfig, EngineConfig
from harness.engine import devices
from harness.engine.devices import Devices
from harness.engine.pack import Pack, make_packs
from harness.launchers.slurm.manifest import PlannedPack, planned
from harness.records.store import Store
from harness.trial import Trial
from workloads.base import BadInput


@dataclass(frozen=True)
class TaskDevices(Devices):
    """The devices that an array task will have, seen from a machine that may have others."""

    planned_count: int = 1
    planned_platform: str = "cpu"
    planned_memory_gb: float | None = None

    @property
    def count(self) -> int:
        return self.planned_count

    @property
    def platform(self) -> str:
        return self.planned_platform

    @property
    def kind(self) -> str:
        return "GPU of the cluster" if self.platform == "gpu" else "CPU core of the cluster"

    def memory(self, limit_gb: float | None) -> float:
        return super().memory(limit_gb or self.planned_memory_gb)


@dataclass(frozen=True)
class Estimate:
    """What an array will take. device_hours: of training and compiling. guessed: nothing like it is recorded yet."""

    tasks: int
    device_hours: float
    longest_s: float
    guessed: bool


def cluster_of(config: DictConfig) -> ClusterConfig:
    return OmegaConf.to_object(config.cluster)  # type: ignore[return-value]


def task_devices(config: DictConfig) -> TaskDevices:
    """The devices of one array task."""
    cluster = cluster_of(config)
    if config.engine.layout == "model":
        raise BadInput(
            "array tasks train whole trials on each device; train one that needs several from a job script of your own: "
            "srun python -m harness.train engine.layout=model …"
        )
    mesh, engine = devices.local_devices().mesh, engine_of(config)
    if cluster.gpus and not (cluster.gpu_memory_gb or config.engine.memory_gb):
        raise BadInput("cluster.gpu_memory_gb must say how much memory a GPU of the cluster has; packs are sized by it")
    count, platform = (cluster.gpus, "gpu") if cluster.gpus else (engine.devices or 1, "cpu")
    return TaskDevices(mesh, planned_count=count, planned_platform=platform, planned_memory_gb=engine.memory_gb)


def engine_of(config: DictConfig) -> EngineConfig:
    """The engine's settings with all that would depend on the machine filled in, so that every node makes the same packs.

    A pack may take as much memory as where the engine sees the device (Devices.memory).
    """
    engine: EngineConfig = OmegaConf.to_object(config.engine)  # type: ignore[assignment]
    cluster = cluster_of(config)
    count = engine.devices or cluster.cpus
    on_gpu = cluster.gpu_memory_gb and devices.XLA_SHARE * cluster.gpu_memory_gb
    memory = on_gpu if cluster.gpus else cluster.mem_gb and cluster.mem_gb / count
    return dataclasses.replace(
        engine,
        devices=None if cluster.gpus else count,
        memory_gb=engine.memory_gb or (devices.MEMORY_SHARE * memory if memory else None),
    )


def plan_tasks(
    trials: Sequence[Trial], config: DictConfig, store: Store
) -> tuple[list[list[PlannedPack]], Estimate, list[str]]:
    """The array's tasks for these trials, what they will take, and a line where memory decided. Raises BadInput."""
    cluster, local, engine = cluster_of(config), task_devices(config), engine_of(config)
    for trial in trials:
        if trial.budget.seconds is not None:
            raise BadInput(
                "budget.seconds is turned into steps on the machine that trains, and nodes differ; under SLURM give "
                "budget.steps, examples, tokens, epochs or flops"
            )
    packs, notes = make_packs(trials, local, local.memory(engine.memory_gb), engine.pack_size)
    past = plan.past_rate(store, trials, local)
    rate = past or (cluster.work_rate or plan.GUESSED_RATE) * local.count
    seconds = [pack.horizon * pack.step_work / rate for pack in packs]
    limit = cluster.time_min * 60.0 - cluster.signal_s
    groups = _grouped(packs, seconds, min(cluster.task_min * 60.0, limit), cluster.max_tasks)
    starts = sum(len({packs[i].signature for i in group}) for group in groups)
    estimate = Estimate(
        tasks=len(groups),
        device_hours=(sum(seconds) + starts * plan.GUESSED_COMPILE) * local.count / 3600.0,
        longest_s=max((sum(seconds[i] for i in group) for group in groups), default=0.0),
        guessed=past is None,
    )
    tasks = [[_planned(packs[i], seconds[i]) for i in group] for group in groups]
    return tasks, estimate, notes


def _grouped(packs: Sequence[Pack], seconds: Sequence[float], target: float, most: int) -> list[list[int]]:
    """Neighbouring packs together, while they take less than `target` seconds and share a program; at most `most` groups."""
    if not packs:
        return []
    groups: list[list[int]] = []
    while not groups or len(groups) > most:
        groups, full = [], 0.0
        for i, pack in enumerate(packs):
            joins = groups and (target > 0 and full + seconds[i] <= target)
            if joins and (packs[groups[-1][0]].signature == pack.signature or len(packs) > most):
                groups[-1].append(i)
                full += seconds[i]
            else:
                groups.append([i])
                full = seconds[i]
        target = max(1.05 * target, sum(seconds) / most, 1e-3)
    return groups


def _planned(pack: Pack, seconds: float) -> PlannedPack:
    return PlannedPack(pack.id, seconds, [planned(trial) for trial in pack.trials])
