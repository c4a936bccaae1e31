"""Hydra's `packed` launcher: all jobs of a sweep in one process, those with equal static signatures in one program."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from harness import session
from harness.config import trial_from
from harness.train import record_config, report


def launch(context: HydraContext, sweep: DictConfig, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Compose every job, train them together, and return when all are recorded.

    Jobs may name different studies (study_name=a,b): each study's jobs are packed among themselves.
    """
    configs = [_job(context, sweep, overrides) for overrides in job_overrides]
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


def _job(context: HydraContext, sweep: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of one job, without Hydra's own part."""
    config = context.config_loader.load_sweep_config(sweep, list(overrides))
    with open_dict(config):
        del config["hydra"]
    return config
