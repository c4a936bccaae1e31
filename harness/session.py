"""One training session: devices, store, progress and tracker set up from a command's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from harness.engine import devices
from harness.engine.runner import Observer, Runner, Settings, Summary
from harness.records.store import Store
from harness.tracking.progress import ProgressDisplay
from harness.tracking.trackers import make_tracker
from harness.trial import Trial


def store_of(config: DictConfig, study: str) -> Store:
    """The study directory results/<study>; raises BadInput if nothing can be written there."""
    store = Store(Path(config.results) / study)
    store.check_writable()
    return store


def settings_of(config: DictConfig) -> Settings:
    """The engine's settings of a command."""
    return Settings(**{f.name: config.engine[f.name] for f in dataclasses.fields(Settings)})


def train(trials: Sequence[Trial], config: DictConfig, store: Store) -> Summary:
    """Train what `store` lacks of `trials`, showing progress and mirroring to the tracker."""
    observers: list[Observer] = [ProgressDisplay()]
    tracker = make_tracker(config.tracker, store.root.name, store.root)
    if tracker is not None:
        observers.append(tracker)
    summary = Runner(store, devices.local_devices(), settings_of(config), observers).train(trials)
    if summary.trained:
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
    """Set up JAX's devices and compilation cache, before anything touches them."""
    devices.configure(config.engine.devices)
