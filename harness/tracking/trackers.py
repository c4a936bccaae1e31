"""Trackers mirror a run somewhere else. They may fail at any time; training goes on and the local records are the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.engine.pack import Pack
from harness.engine.runner import Chunk, Observer, Rows
from harness.registry import nearest
from harness.tracking.live import WandbTracker
from workloads.base import BadInput


class Guarded:
    """Passes events on to a tracker until it fails once; then says so in one line and stays quiet."""

    def __init__(self, tracker: Observer) -> None:
        self._tracker: Observer | None = tracker

    def _call(self, event: str, *arguments: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, event)(*arguments)
        except Exception as error:  # whatever a tracker raises must not stop training
            print(
                f"tracker: {type(error).__name__} in {event} ({error}); training goes on without it, records are local"
            )
            self._tracker = None

    def begin(self, packs: Sequence[Pack], notes: Sequence[str]) -> None:
        self._call("begin", packs, notes)

    def chunk(self, chunk: Chunk) -> None:
        self._call("chunk", chunk)

    def finished(self, pack: Pack, rows: Rows) -> None:
        self._call("finished", pack, rows)

    def end(self) -> None:
        self._call("end")


_TRACKERS: dict[str, Callable[[DictConfig, str, Path | None], Observer] | None] = {"none": None, "wandb": WandbTracker}
_MODES = ("online", "offline", "disabled")


def make_tracker(config: DictConfig, study: str, root: Path | None = None) -> Observer | None:
    """The tracker that `tracker=` names, guarded; None for "none", or if its mode is "disabled".

    root: the study's folder, where a tracker may keep its own files and read what was recorded.
    """
    if config.name not in _TRACKERS:
        raise BadInput(f"unknown tracker '{config.name}'. {nearest(config.name, _TRACKERS)}")
    if config.mode not in _MODES:
        raise BadInput(f"unknown tracker.mode={config.mode}. {nearest(str(config.mode), _MODES)}")
    for key, least in (("points", 1), ("live", 0), ("wait", 0)):
        if config[key] < least:
            raise BadInput(f"tracker.{key}={config[key]} must be at least {least}")
    make = _TRACKERS[config.name]
    return None if make is None or config.mode == "disabled" else Guarded(make(config, study, root))
