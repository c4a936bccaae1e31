"""Trackers mirror a run somewhere else. They may fail at any time; training goes on and the local records are the truth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig

from harness.engine.environment import code_version
from harness.engine.pack import Pack
from harness.engine.runner import Chunk, Observer, Rows
from harness.registry import nearest
from workloads.base import BadInput

_POINTS_PER_CHUNK = 32
_SUMMARY = ("status", "final_loss", "best_loss", "test_loss", "params", "flops", "tokens", "train_s", "diverged_step")


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


class WandbTracker:
    """One live W&B run per trial, all from this process. group = study, id = trial id, x axes = step and tokens."""

    def __init__(self, config: DictConfig, study: str) -> None:
        import wandb  # slow to import, and only needed when asked for

        self._wandb = wandb
        self._config = config
        self._study = study
        self._runs: dict[str, Any] = {}

    def begin(self, packs: Sequence[Pack], notes: Sequence[str]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")

    def _run(self, trial: Any) -> Any:
        if trial.id not in self._runs:
            run = self._wandb.init(
                project=self._config.project,
                entity=self._config.entity,
                mode=self._config.mode,
                group=self._study,
                job_type="train",
                tags=[*self._config.tags, code_version()],
                id=trial.id,
                name=trial.id,
                config=trial.config(),
                reinit="create_new",
                settings=self._wandb.Settings(console="off", silent=True),
            )
            for name in ("train_loss", "lr", "validation/*", "test/*"):
                run.define_metric(name, step_metric="step")
            run.define_metric("tokens", step_metric="step")
            self._runs[trial.id] = run
        return self._runs[trial.id]

    def chunk(self, chunk: Chunk) -> None:
        steps = np.arange(chunk.start, chunk.stop)
        shown = steps[:: -(-len(steps) // _POINTS_PER_CHUNK)]
        for i, trial in enumerate(chunk.pack.trials):
            run = self._run(trial)
            for step in shown:
                at = step - chunk.start
                run.log(
                    {
                        "step": int(step) + 1,
                        "tokens": (int(step) + 1) * trial.rates.tokens,
                        "train_loss": float(chunk.losses[i, at]),
                        "lr": float(chunk.learning_rates[i, at]),
                    }
                )
            scores = {
                f"{split}/{k}": float(v[i]) for split, values in chunk.evaluation.items() for k, v in values.items()
            }
            run.log({"step": chunk.stop, "tokens": chunk.stop * trial.rates.tokens, **scores})

    def finished(self, pack: Pack, rows: Rows) -> None:
        for row in rows:
            run = self._runs.pop(row["trial"])
            run.summary.update({key: row[key] for key in _SUMMARY})
            run.finish()

    def end(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)


_TRACKERS: dict[str, Callable[[DictConfig, str], Observer] | None] = {"none": None, "wandb": WandbTracker}


def make_tracker(config: DictConfig, study: str) -> Observer | None:
    """The tracker that `tracker=` names, guarded; None for "none"."""
    if config.name not in _TRACKERS:
        raise BadInput(f"unknown tracker '{config.name}'. {nearest(config.name, _TRACKERS)}")
    make = _TRACKERS[config.name]
    return None if make is None else Guarded(make(config, study))
