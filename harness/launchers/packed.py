"""Hydra's `packed` launcher: all jobs of a sweep in one process, those with equal static signatures in one program."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness import session
from harness.config import COMPONENTS, trial_from
from harness.train import record_config, report

_Shape = tuple[tuple[str, ...], tuple[str, ...]]


def launch(context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Compose every job, train them together, and return when all are recorded.

    Jobs may name different studies (study_name=a,b): each study's jobs are packed among themselves.
    """
    configs = [context.config_loader.load_sweep_config(sweep, list(overrides)) for overrides in job_overrides]
    session.configure(configs[0])
    trials = [trial_from(config) for config in configs]
    stores = {config.study_name: session.store_of(config, config.study_name) for config in configs}
    for name, store in stores.items():
        jobs = [(trial, config) for trial, config in zip(trials, configs, strict=True) if config.study_name == name]
        for trial, config in jobs:
            record_config(store, trial, config)
        members = [trial for trial, _ in jobs]
        report(store, members, session.train(members, jobs[0][1], store))
    return [
        JobReturn(overrides=list(overrides), cfg=config, status=JobStatus.COMPLETED)
        for overrides, config in zip(job_overrides, configs, strict=True)
    ]


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
