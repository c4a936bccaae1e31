"""Hydra finds launchers only in this namespace package; what they do is in harness/launchers."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _SweepLauncher(Launcher):
    """What the launchers share: jobs that differ only in values share one composition."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from harness.launchers.packed import JobLoader  # Hydra scans this file in every program; keep it light

        hydra_context.config_loader = JobLoader(hydra_context.config_loader)  # type: ignore[assignment]
        self._context = hydra_context
        self._config = config


class PackedLauncher(_SweepLauncher):
    """hydra/launcher=packed: all jobs of a sweep in one process, those of one static signature in one program."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from harness.launchers import packed

        return packed.launch(self._context, self._config, job_overrides)


class SlurmLauncher(_SweepLauncher):
    """hydra/launcher=slurm: what a sweep lacks as one job array."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from harness.launchers.slurm import launcher

        return launcher.launch(self._context, self._config, job_overrides)
