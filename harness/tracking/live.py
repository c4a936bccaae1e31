"""The trainer's side of the live W&B mirror: it hands what it hears to a process of its own and never waits for it.

That process (harness.tracking.mirror) has the lowest priority, so that it lives on what training leaves over; it may hang,
crash or be killed. Events wait in a bounded queue. What does not fit is dropped, and no later points of its trials are sent:
W&B then has the beginning of their history, to which the records add the rest, when a trial finishes or in `sync`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from omegaconf import DictConfig

from harness.engine.environment import code_version
from harness.engine.pack import Pack
from harness.engine.runner import Chunk, Rows
from harness.tracking.wandb_runs import config_of, summary_of, version_of
from harness.trial import Trial

_PACKAGE = Path(__file__).resolve().parents[2]
_MOST_EVENTS = 1024
_END: dict[str, Any] = {}


class WandbTracker:
    """One live W&B run per trial, in another process. group = study, id = trial id, x axes = step, tokens and FLOPs.

    root: the study's folder, for W&B's files and for what is mirrored whole when a trial finishes.
    """

    def __init__(self, config: DictConfig, study: str, root: Path | None = None) -> None:
        self._study, self._points, self._wait = study, int(config.points), float(config.wait)
        folder = root if root is not None else Path(os.environ.get("WANDB_DIR", "."))
        self._hello = {
            "event": "hello",
            "project": config.project,
            "entity": config.entity,
            "mode": config.mode,
            "group": study,
            "tags": list(config.tags),
            "folder": str(folder.resolve()),
            "records": None if root is None else str(root.resolve()),
            "live": int(config.live),
            "code_version": code_version(),
        }
        self._process: subprocess.Popen[str] | None = None
        self._opened: set[str] = set()
        self._incomplete: set[str] = set()

    def begin(self, packs: Sequence[Pack], notes: Sequence[str]) -> None:
        """Start the process, while the first programs compile."""
        if not packs:
            return
        self._opened, self._incomplete = set(), set()
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(_MOST_EVENTS)
        self._process = _start()
        self._writer = threading.Thread(target=_pump, args=(self._queue, self._process.stdin), daemon=True)
        self._writer.start()
        self._send(self._hello, [])

    def chunk(self, chunk: Chunk) -> None:
        trials = chunk.pack.trials
        new = [trial for trial in trials if trial.id not in self._opened]
        self._opened.update(trial.id for trial in new)
        opened = [{"trial": trial.id, "config": trial.config()} for trial in new]
        found = zip(trials, chunk_points(chunk, self._points), strict=True)
        points = {trial.id: rows for trial, rows in found if trial.id not in self._incomplete}
        event = {"event": "chunk", "start": chunk.start, "opened": opened, "points": points}
        self._send(event, [trial.id for trial in trials])

    def finished(self, pack: Pack, rows: Rows) -> None:
        closed = [
            {
                "trial": row["trial"],
                "version": version_of(row),
                "complete": row["trial"] not in self._incomplete,
                "summary": summary_of(row, config_of(row)),
            }
            for row in rows
        ]
        self._send({"event": "finished", "closed": closed}, [row["trial"] for row in rows])

    def end(self) -> None:
        """Give the mirror a bounded time to finish, then end it; say what it did not get done."""
        if self._process is None:
            return
        process, self._process = self._process, None
        deadline = time.monotonic() + self._wait
        try:
            self._queue.put(_END, timeout=self._wait)
            process.wait(max(deadline - time.monotonic(), 0.0))
            stopped = bool(process.returncode)
        except (queue.Full, subprocess.TimeoutExpired):
            stopped = True
        finally:
            process.kill()
            process.wait()
        complaint = process.stdout.readline().strip() if process.stdout else ""
        self._writer.join(1.0)  # what it was writing to is gone
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        if stopped or complaint or self._incomplete:
            why = complaint or (f"not done {self._wait:g} s after training" if stopped else "it was too slow")
            print(
                f"tracker: W&B does not have every trial ({why}); the records do, and "
                f"`python -m harness.wandb sync study={self._study}` sends the rest"
            )

    def _send(self, event: dict[str, Any], trials: Sequence[str]) -> None:
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._incomplete.update(trials)


def _start() -> subprocess.Popen[str]:
    """The mirror's process. In a session of its own: Ctrl-C is for the trainer, which then ends the mirror in order."""
    path = os.pathsep.join(part for part in (str(_PACKAGE), os.environ.get("PYTHONPATH")) if part)
    return subprocess.Popen(
        [sys.executable, "-m", "harness.tracking.mirror"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _pump(events: queue.Queue[dict[str, Any]], stream: IO[str]) -> None:
    """Write events to the mirror until the end; once it is gone, swallow them."""
    gone = False
    while (event := events.get()) is not _END:
        if not gone:
            try:
                stream.write(json.dumps(event) + "\n")
                stream.flush()
            except OSError:
                gone = True
    with suppress(OSError):
        stream.close()


def chunk_points(chunk: Chunk, points: int) -> list[list[dict[str, float | int]]]:
    """A list of points a trial, as in the records (harness.engine.history) but with about `points` of them a trial.

    train_loss is the mean since the point before; the last point of a chunk has its evaluation. A diverged trial has
    points up to its last step.
    """
    stride = max(1, -(-chunk.pack.horizon // points))
    first = -(-(chunk.start + 1) // stride) * stride
    steps = np.union1d(np.arange(first, chunk.stop + 1, stride), [chunk.stop])
    starts = np.concatenate([[chunk.start], steps[:-1]]) - chunk.start
    counts = (steps - chunk.start - starts).astype(np.float32)
    train = np.add.reduceat(chunk.losses, starts, axis=1) / counts
    rates = chunk.learning_rates[:, steps - 1 - chunk.start]
    taken = np.isfinite(chunk.learning_rates[:, starts])
    scores = chunk.evaluation["validation"]
    found = []
    for i, trial in enumerate(chunk.pack.trials):
        length = int(np.sum(taken[i]))
        rows = [_point(trial, int(step), train[i, j], rates[i, j]) for j, step in enumerate(steps[:length])]
        if length == len(steps):
            metric = chunk.pack.static.workload.metric.name
            rows[-1] |= {"eval_loss": float(scores["loss"][i]), "eval_metric": float(scores[metric][i])}
        found.append(rows)
    return found


def _point(trial: Trial, step: int, loss: np.float32, rate: np.float32) -> dict[str, float | int]:
    tokens, flops = step * trial.rates.tokens, step * trial.matmul_flops
    return {"step": step, "tokens": tokens, "matmul_flops": flops, "lr": float(rate), "train_loss": float(loss)}
