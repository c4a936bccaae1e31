"""Where a command that makes its own trials (judge, compete, targets) trains them: in this process, or as SLURM job arrays.

Beside its own, such a command takes the words of every training command: results=, engine.KEY=, tracker=, dry_run=true, and for
SLURM hydra/launcher=slurm cluster=NAME cluster.KEY= wait=true.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from harness import plan, session
from harness.config import RunConfig, compose_config
from harness.engine import devices
from harness.launchers.slurm import launcher
from harness.launchers.slurm.submit import Submitted, preview, require
from harness.launchers.slurm.tasks import task_devices
from harness.records.store import Store
from harness.trial import Trial

_WORDS = {field.name for field in dataclasses.fields(RunConfig)}
HELP = "and of every training command: " + __doc__.partition("training command: ")[2].strip()


class _Shown(Exception):
    """A dry run is over."""


def split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line in two: (the command's own words, those that say where and how it trains)."""
    own: list[str] = []
    where: list[str] = []
    for word in argv:
        key = word.partition("=")[0]
        (where if key.split(".")[0] in _WORDS or key.startswith("hydra/") else own).append(word)
    return own, where


@dataclass(frozen=True)
class Workplace:
    """JAX set up, and the study's store. command, arguments: what goes on after a job array."""

    config: DictConfig
    store: Store
    command: str
    arguments: tuple[str, ...]

    @classmethod
    def of(cls, command: str, argv: Sequence[str], name: str) -> Workplace:
        """name: of the study. Raises BadInput on words that say nothing."""
        config = compose_config("run", split_words(argv)[1])
        session.configure(config)
        return cls(config, session.store_of(config, name), command, tuple(argv))

    @property
    def on_slurm(self) -> bool:
        return bool(self.config.launcher == "slurm")

    def run(self, stages: Callable[[], int]) -> int:
        """The exit code of a command's stages; of their beginning, where SLURM has the rest or it is a dry run."""
        try:
            return stages()
        except Submitted as submitted:
            return launcher.finish(submitted.folders, self.config, self.store)
        except _Shown:
            return 0

    def train(self, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
        """Train what is missing; every trial's row by its id. Raises BadInput on one that cannot be trained."""
        for trial in trials:
            trial.validate()
        if self.config.dry_run:
            self._show(trials)
        if self.on_slurm:
            require(trials, self.config, self.store, self.arguments, command=self.command)
        else:
            session.train(trials, self.config, self.store)
        wanted = {trial.id for trial in trials}
        return {row["trial"]: row for row in self.store.trials().to_pylist() if row["trial"] in wanted}

    def _show(self, trials: Sequence[Trial]) -> None:
        """The first stage that has something to train; what follows depends on it."""
        finished = self.store.finished()
        if all(trial.id in finished for trial in trials):
            return
        console = Console()
        local = task_devices(self.config) if self.on_slurm else devices.local_devices(self.config.engine.layout)
        settings = session.settings_of(self.config)
        plan.show(console, f"{self.store.root.name}: the next stage", trials, [], self.store, settings, local)
        if self.on_slurm:
            preview(console, trials, self.config, self.store, self.arguments, self.command)
        raise _Shown
