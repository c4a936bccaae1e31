"""One training session: devices, store, progress and tracker set up from a command's configuration."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from harness.engine import devices, distributed
from harness.engine.runner import Observer, Runner, Settings, Summary
from harness.records.store import Store
from harness.tracking.progress import ProgressDisplay
from harness.tracking.trackers import make_tracker
from harness.trial import Trial
from workloads.base import BadInput


def store_of(config: DictConfig, study: str) -> Store:
    """The study directory results/<study>; raises BadInput if nothing can be written there, or it is no folder's name."""
    if study in ("", ".", "..") or "/" in study or "\0" in study:
        raise BadInput(
            f"'{study}' cannot name a study: a study's name is a folder of results={config.results}, without /"
        )
    store = Store(Path(config.results) / study)
    store.check_writable()
    return store


def settings_of(config: DictConfig) -> Settings:
    """The engine's settings of a command."""
    return Settings(**{f.name: config.engine[f.name] for f in dataclasses.fields(Settings)})


def train(trials: Sequence[Trial], config: DictConfig, store: Store) -> Summary:
    """Train what `store` lacks of `trials`, showing progress and mirroring to the tracker."""
    local = devices.local_devices(config.engine.layout)
    observers: list[Observer] = []
    if local.primary:
        observers.append(ProgressDisplay())
        tracker = make_tracker(config.tracker, store.root.name, store.root)
        if tracker is not None:
            observers.append(tracker)
    summary = Runner(store, local, settings_of(config), observers).train(trials)
    if summary.trained and local.primary:
        print(_spent(summary))
    return summary


def _spent(summary: Summary) -> str:
    """Where a run's time went, in one line."""
    seconds = summary.seconds
    waited = f"waited {seconds['compile']:.1f} s for {summary.compiled} programs"
    cache = f"compilation cache: {summary.cache.hits} hits, {summary.cache.misses} misses"
    rest = summary.host + seconds["data"] + seconds["checkpoint"] + seconds["records"]
    return (
        f"{summary.trained} trials: trained {seconds['train']:.1f} s, evaluated {seconds['eval']:.1f} s, {waited} ({cache}), "
        f"everything else {rest:.1f} s"
    )


def configure(config: DictConfig) -> None:
    """Set up JAX's devices and compilation cache, and meet the other processes, before anything touches them."""
    engine = config.engine
    devices.configure(engine.devices, layout=engine.layout)
    if engine.layout == "model":
        group = distributed.group_of(engine.coordinator, engine.processes, engine.process, os.environ)
        if group is not None:
            distributed.join(group)
    elif engine.coordinator:
        raise BadInput("engine.coordinator is for engine.layout=model, where several processes train a trial together")
