"""Progress of a run: a live line on a terminal, otherwise one line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from harness.engine.pack import Pack
from harness.engine.runner import Chunk, Rows

_LINE_SECONDS = 5.0


class ProgressDisplay:
    """Trials done, loss, steps/s and time left.

    The time left assumes that work (see Pack.step_work) goes on at the rate of the run so far.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live: Progress | None = None

    def begin(self, packs: Sequence[Pack], notes: Sequence[str]) -> None:
        self._total = sum(len(pack.trials) for pack in packs)
        self._work = sum(pack.horizon * pack.step_work for pack in packs)
        self._done = self._work_done = self._steps = 0.0
        self._train_seconds = 0.0
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
        self._work_done += steps * chunk.pack.step_work
        self._steps += trials * steps
        self._train_seconds += chunk.train_seconds
        losses = chunk.evaluation["validation"]["loss"]
        best = f"{np.nanmin(losses):.3f}" if np.isfinite(losses).any() else "all diverged"
        width = chunk.pack.static.workload.width
        self._message = f"width {width} step {chunk.stop}/{chunk.pack.horizon}, best validation loss {best}"
        self._show()

    def finished(self, pack: Pack, rows: Rows) -> None:
        self._done += len(pack.trials)
        self._show(force=self._done == self._total)

    def end(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _show(self, force: bool = False) -> None:
        elapsed = time.monotonic() - self._started
        left = elapsed * (self._work / max(self._work_done, 1.0) - 1.0)
        rate = self._steps / max(self._train_seconds, 1e-9)
        line = f"{self._done:.0f}/{self._total} trials, {self._message}, {rate:.0f} steps/s, {left:.0f} s left"
        if self._live:
            self._live.update(self._task, completed=self._work_done, description=line)
        elif force or time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)
