"""Where a command that makes its own trials (judge, compete, targets) trains them: in this process, or as SLURM job arrays.

Beside its own, such a command takes the words of every training command: results=, engine.KEY=, tracker=, dry_run=true, and for
SLURM hydra/launcher=slurm cluster=NAME cluster.KEY= wait=true.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from harness import plan, session
from harness.config import RunConfig, compose_config
from harness.engine import devices
from harness.engine.cost import StepTime, compare_step_seconds
from harness.engine.environment import code_version
from harness.launchers.slurm import launcher
from harness.launchers.slurm.submit import Submitted, go_on, preview, require
from harness.launchers.slurm.tasks import task_devices
from harness.records.files import read_json, write_json
from harness.records.store import Store
from harness.trial import Trial
from workloads.base import BadInput

STEP_SECONDS = "step_seconds.json"
_WORDS = {field.name for field in dataclasses.fields(RunConfig)}
HELP = "and of every training command: " + __doc__.partition("training command: ")[2].strip()


StepTimes = dict[str, list[StepTime]]
Measure = Callable[[Sequence[Trial]], list[StepTime]]
Alike = Sequence[Trial]  # trials whose steps take the same time


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
        if config.engine.layout == "model":
            raise BadInput(
                f"{command} trains whole trials on each device; engine.layout=model is for python -m harness.train"
            )
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

    def settle(self, what: str, measures: bool = False) -> None:
        """Before `what` is made of recorded trials. A dry run ends here; and what `measures`, SLURM has a job do."""
        if self.config.dry_run:
            print(f"every trial is recorded; what is left: {what}")
            raise _Shown
        if measures and self.on_slurm and "SLURM_JOB_ID" not in os.environ:
            raise Submitted([go_on(self.config, self.store, self.arguments, self.command)])

    def step_times(self, groups: Mapping[str, Sequence[Alike]], measure: Measure | None = None) -> StepTimes:
        """What a step takes in each group, measured once on one device, and kept.

        Of trials that are alike the best recorded one is timed, the first if none is recorded, or where none ended well that at
        learning rate 0: what diverges trains no further, and would seem to be fast.
        """
        chosen = self._chosen(groups)
        found = self._timed(chosen)
        if found is None:
            found = {name: (measure or compare_step_seconds)(trials) for name, trials in chosen.items()}
            more = {
                name: {"trials": [trial.id for trial in chosen[name]], "times": [list(time) for time in times]}
                for name, times in found.items()
            }
            content = {"device": self._device, "code": code_version(), "groups": self._kept() | more}
            write_json(self.store.root / STEP_SECONDS, content)
        return found

    def is_timed(self, groups: Mapping[str, Sequence[Alike]]) -> bool:
        """Whether `step_times` of these are known already."""
        return self._timed(self._chosen(groups)) is not None

    def _chosen(self, groups: Mapping[str, Sequence[Alike]]) -> dict[str, list[Trial]]:
        table = self.store.trials(("trial", "status", "final_loss")).to_pylist()
        recorded = {row["trial"] for row in table}
        losses = {row["trial"]: row["final_loss"] for row in table if row["status"] == "ok"}

        def best(alike: Alike) -> Trial:
            ended = [trial for trial in alike if trial.id in losses]
            if ended:
                return min(ended, key=lambda trial: float(losses[trial.id]))
            first = alike[0]
            if first.id not in recorded:
                return first
            return replace(first, optimizer=replace(first.optimizer, learning_rate=0.0))

        return {name: [best(alike) for alike in all_alike] for name, all_alike in groups.items()}

    def _timed(self, chosen: Mapping[str, Sequence[Trial]]) -> StepTimes | None:
        kept = self._kept()
        if any(kept.get(name, {}).get("trials") != [trial.id for trial in chosen[name]] for name in chosen):
            return None
        return {name: [StepTime(*time) for time in kept[name]["times"]] for name in chosen}

    def _kept(self) -> dict[str, Any]:
        """What this code has measured before, on a device of this kind; a node that only submits has the nodes' times."""
        path = self.store.root / STEP_SECONDS
        content = read_json(path) if path.is_file() else {}
        if not isinstance(content, dict) or content.get("code") != code_version():
            return {}
        if not self.on_slurm and content.get("device") != self._device:
            return {}
        return dict(content["groups"])

    @property
    def _device(self) -> str:
        return devices.local_devices().kind

    def _show(self, trials: Sequence[Trial]) -> None:
        """The first stage that has something to train; what follows depends on it."""
        if not self.store.missing(trials):
            return
        console = Console()
        local = task_devices(self.config) if self.on_slurm else devices.local_devices(self.config.engine.layout)
        settings = session.settings_of(self.config)
        plan.show(console, f"{self.store.root.name}: the next stage", trials, [], self.store, settings, local)
        if self.on_slurm:
            preview(console, trials, self.config, self.store, self.arguments, self.command)
        raise _Shown
