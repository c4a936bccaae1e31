"""The commands' side: Hydra's `slurm` launcher for sweeps of `train`, and what `study` and `train` call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from harness.launchers import packed
from harness.launchers.slurm import status
from harness.launchers.slurm.submit import preview, submit
from harness.records.store import Store
from harness.trial import Trial


def launch(context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Submit the jobs of a sweep, an array for every study they name."""
    jobs = packed.jobs_of(context, sweep, job_overrides)
    code = max(train(trials, config, store) for store, trials, config in jobs.by_study())
    if code:
        raise SystemExit(code)  # Hydra has no exit code for a sweep
    return jobs.returns()


def train(trials: Sequence[Trial], config: DictConfig, store: Store) -> int:
    """Submit what is missing of a `train` command; returns its exit code."""
    console = Console()
    if config.dry_run:
        preview(console, trials, config, store)
        return 0
    folders = submit(trials, config, store)
    if not folders:
        console.print("nothing to submit: every trial is recorded", highlight=False)
    return finish(folders, config, store)


def finish(folders: Sequence[Path], config: DictConfig, store: Store) -> int:
    """What a command does once these are submitted: return, or with wait=true follow them; returns its exit code."""
    return status.follow(store, folders, Console()) if config.wait else 0


def show_status(config: DictConfig) -> int:
    """`study status`: how the submissions of a study stand."""
    status.show(Console(), Store(Path(config.results) / config.study.name))
    return 0
