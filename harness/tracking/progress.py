"""Progress of a run: a live line on a terminal, otherwise one line every few seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.engine.pack import Pack
from harness.engine.runner import Chunk, Rows

_LINE_SECONDS = 5.0
_TELLING = 0.01  # share of the work after which its rate tells how long the rest takes


class _Spent(defaultdict[str, float]):
    """Work or seconds by workload."""

    def __init__(self) -> None:
        super().__init__(float)

    def total(self) -> float:
        return sum(self.values())


class ProgressDisplay:
    """Trials done, loss, steps/s and time left.

    The time left assumes that every workload's work (see Pack.step_work) goes on at its rate so far, and that of workloads to
    come at the mean rate. It is shown once a hundredth of the work is done.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Progress | None = None

    def begin(self, packs: Sequence[Pack], notes: Sequence[str]) -> None:
        self._total = sum(len(pack.trials) for pack in packs)
        self._work = sum(pack.horizon * pack.step_work for pack in packs)
        self._left = _Spent()
        for pack in packs:
            self._left[pack.static.workload.name] += pack.horizon * pack.step_work
        self._work_done, self._seconds = _Spent(), _Spent()
        self._pack: Pack | None = None
        self._taken = 0  # steps of the pack that trains
        self._done = self._steps = 0.0
        self._started = self._last_line = time.monotonic()
        self._message = ""
        for note in notes:
            self._console.print(note, highlight=False)
        if not packs:
            return
        self._console.print(f"training {self._total} trials in {len(packs)} packs", highlight=False)
        if self._console.is_terminal:
            columns = (BarColumn(20), TextColumn("{task.description}"), TimeElapsedColumn())
            self._live = Progress(*columns, console=self._console, transient=True)
            self._task = self._live.add_task("compiling", total=self._work)
            self._live.start()

    def chunk(self, chunk: Chunk) -> None:
        trials, steps = len(chunk.pack.trials), chunk.stop - chunk.start
        workload, step_work = chunk.pack.static.workload, chunk.pack.step_work
        name = workload.name
        if chunk.pack is not self._pack:
            self._forget_pack()  # one that is not finished ran out of memory, and is trained again in parts
            self._pack = chunk.pack
        self._left[name] -= (chunk.stop - self._taken) * step_work  # a resumed pack begins late
        self._taken = chunk.stop
        self._work_done[name] += steps * step_work
        self._seconds[name] += chunk.train_seconds
        self._steps += trials * steps
        losses = chunk.evaluation["validation"]["loss"]
        best = f"{np.nanmin(losses):.3f}" if np.isfinite(losses).any() else "all diverged"
        at = f"step {chunk.stop}/{chunk.pack.horizon}"
        self._message = f"{name} width {workload.width} {at}, best validation loss {best}"
        self._show()

    def finished(self, pack: Pack, rows: Rows) -> None:
        self._done += len(pack.trials)
        self._pack, self._taken = None, 0
        self._show(force=self._done == self._total)

    def _forget_pack(self) -> None:
        if self._pack is not None:
            self._left[self._pack.static.workload.name] += self._taken * self._pack.step_work
        self._pack, self._taken = None, 0

    def end(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _show(self, force: bool = False) -> None:
        work, seconds = self._work_done.total(), max(self._seconds.total(), 1e-9)
        line = f"{self._done:.0f}/{self._total} trials, {self._message}, {self._steps / seconds:.0f} steps/s"
        if work > _TELLING * self._work:
            line += f", {self._seconds_left():.0f} s left"
        if self._live:
            self._live.update(self._task, completed=self._work - self._left.total(), description=line)
        elif force or time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)

    def _seconds_left(self) -> float:
        """Of training, by what each workload's work took, stretched by what else there was (compilation, idle devices)."""
        work, seconds = self._work_done, self._seconds
        mean = seconds.total() / work.total()
        rates = {name: seconds[name] / work[name] for name in work}
        left = sum(amount * rates.get(name, mean) for name, amount in self._left.items())
        return left * (time.monotonic() - self._started) / max(seconds.total(), 1e-9)
