"""Hydra's `packed` launcher: all jobs of a sweep in one process, those with equal static signatures in one program."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness import plan, session
from harness.config import COMPONENTS, trial_from
from harness.engine import devices
from harness.records.store import Store
from harness.train import record_config, report
from harness.trial import Trial

_Shape = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Jobs:
    """The jobs of a sweep, composed and validated."""

    overrides: Sequence[Sequence[str]]
    configs: Sequence[DictConfig]
    trials: Sequence[Trial]

    def by_study(self) -> list[tuple[Store, list[Trial], DictConfig]]:
        """Jobs may name different studies (study_name=a,b): each study's store, trials and the first of its configurations.

        Every job's resolved configuration is written beside its study's rows, unless it is a dry run.
        """
        studies = {config.study_name: session.store_of(config, config.study_name) for config in self.configs}
        groups = []
        for name, store in studies.items():
            jobs = [(t, c) for t, c in zip(self.trials, self.configs, strict=True) if c.study_name == name]
            for trial, config in jobs:
                if not config.dry_run:
                    record_config(store, trial, config)
            groups.append((store, [trial for trial, _ in jobs], jobs[0][1]))
        return groups

    def returns(self) -> list[JobReturn]:
        """What Hydra's sweeper is told."""
        return [
            JobReturn(overrides=list(overrides), cfg=config, status=JobStatus.COMPLETED)
            for overrides, config in zip(self.overrides, self.configs, strict=True)
        ]


def jobs_of(context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]) -> Jobs:
    """Compose every job of a sweep."""
    configs = [context.config_loader.load_sweep_config(sweep, list(overrides)) for overrides in job_overrides]
    session.configure(configs[0])
    return Jobs(job_overrides, configs, [trial_from(config) for config in configs])


def launch(context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Compose every job, train each study's together, and return when all are recorded."""
    jobs = jobs_of(context, sweep, job_overrides)
    for store, trials, config in jobs.by_study():
        train(trials, config, store)
    return jobs.returns()


def train(trials: Sequence[Trial], config: DictConfig, store: Store) -> None:
    """Train what is missing in this process and print the rows, or with dry_run print what would be trained."""
    if config.dry_run:
        settings, local = session.settings_of(config), devices.local_devices(config.engine.layout)
        plan.show(Console(), config.study_name, trials, [], store, settings, local)
        return
    summary = session.train(trials, config, store)
    if devices.local_devices(config.engine.layout).primary:
        report(store, trials, summary)


class JobLoader:
    """Hydra's configuration loader for the jobs of a sweep, whose configurations come without Hydra's own part.

    Hydra's sweeper composes every job to see that it can be, and the launcher composes it again; each time costs as much as
    some trials. Here jobs that differ only in values share one composition, and what the sweeper asked for is kept.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._composed: dict[_Shape, DictConfig] = {}
        self._jobs: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of one job. It is kept until it is asked for again."""
        job = tuple(sweep_overrides)
        if job in self._jobs:
            return self._jobs.pop(job)
        shape, values = _split(sweep_overrides)
        config = self._with_values(shape, values)
        if config is None:
            config = self._loader.load_sweep_config(master_config, sweep_overrides)
            with open_dict(config):
                del config["hydra"]
            self._composed[shape] = config
        self._jobs[job] = config
        return config

    def _with_values(self, shape: _Shape, values: Mapping[str, Any]) -> DictConfig | None:
        """A composition of this shape with other values, if there is one that can take them; else Hydra must say why not."""
        composed = self._composed.get(shape)
        if composed is None or any(OmegaConf.is_config(OmegaConf.select(composed, key)) for key in values):
            return None  # the latter may be the choice of a group
        config = copy.deepcopy(composed)
        try:
            for key, value in values.items():
                OmegaConf.update(config, key, value)
        except OmegaConfBaseException:
            return None
        return config


def _split(overrides: Sequence[str]) -> tuple[_Shape, dict[str, Any]]:
    """What decides how a job is composed (whole overrides, and the keys of plain values), and the plain values."""
    whole, values = [], {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        plain = not (override.is_add() or override.is_force_add() or override.is_delete() or override.package)
        if plain and key not in COMPONENTS and "/" not in key and not key.startswith("hydra."):
            values[key] = override.value()
        else:
            whole.append(str(override.input_line))
    return (tuple(whole), tuple(values)), values
