"""The process behind the live W&B mirror: reads events from the trainer (a JSON object a line) and logs them.

When the trainer's end of the pipe closes, for whatever reason, it finishes its runs and ends. It answers with at most one
line: why W&B lacks something. Started by harness.tracking.live, never by hand.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.tracking.journal import Journal
from harness.tracking.wandb_runs import (
    Destination,
    Point,
    close_run,
    config_of,
    log_points,
    open_run,
    reached,
    reason_of,
)

_LOWEST_PRIORITY = 19
_FINISHING = 8  # runs that finish side by side, each waiting for the server
_INIT_SECONDS = 30.0
_LAST_SECONDS = 600  # for finishing, if nobody is left who would end this process sooner
_IGNORED = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
    "SIGUSR1",
    "SIGUSR2",
)  # what ends the trainer ends the mirror, through the pipe


@dataclass
class _Live:
    """A run that is open. step: the last one that it has. lagging: points before the next chunk's are missing."""

    run: Any
    step: int
    lagging: bool = False


class Mirror:
    """The runs of one training session.

    A run only ever holds the beginning of its trial's history. What cannot be followed from there waits until the trial
    finishes, and then comes from `records`, the study's folder: trials beyond `live` open runs, trials with lost events,
    and those that go on from a checkpoint which W&B has not reached (offline: any, as W&B cannot continue a folder).
    """

    def __init__(self, wandb: Any, to: Destination, live: int, records: Path | None, code_version: str) -> None:
        self._wandb, self._to, self._most, self._records, self._code = wandb, to, live, records, code_version
        self._runs: dict[str, _Live] = {}
        self._finishing: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(_FINISHING)
        self.incomplete = 0

    def chunk(self, start: int, opened: Sequence[Mapping[str, Any]], points: Mapping[str, Sequence[Point]]) -> None:
        """opened: {trial, config} of trials not seen before. points: trial -> what to log. start: chunk's first step."""
        for new in opened:
            if len(self._runs) < self._most and (start == 0 or self._to.mode == "online"):
                live = self._open(new["trial"], new["config"], self._code)
                live.lagging = start > live.step
        for trial, rows in points.items():
            live_run = self._runs.get(trial)
            if live_run is not None and not live_run.lagging:
                live_run.step = log_points(live_run.run, rows, live_run.step)

    def _open(self, trial: str, config: Mapping[str, Any], code_version: str | None) -> _Live:
        run = open_run(self._wandb, self._to, trial, config, code_version)
        self._runs[trial] = _Live(run, reached(run))
        return self._runs[trial]

    def finished(self, closed: Sequence[Mapping[str, Any]]) -> None:
        """closed: {trial, version, complete, summary}, of trials whose rows are recorded. complete: no event was lost."""
        lagging = [entry["trial"] for entry in closed if not entry["complete"] or self._lags(entry["trial"])]
        caught_up = self._catch_up(lagging) if lagging and self._records is not None else set()
        done: dict[str, str] = {}
        for entry in closed:
            trial, live = entry["trial"], self._runs.pop(entry["trial"], None)
            whole = trial in caught_up or trial not in lagging
            self.incomplete += not whole
            if whole:
                done[trial] = entry["version"]
            if live is not None:
                self._close(live.run, entry["summary"], entry["version"] if whole else None)
        if self._records is not None and self._to.mode == "offline":
            Journal(self._records / "wandb").add(self._to.name, done)

    def _lags(self, trial: str) -> bool:
        return trial not in self._runs or self._runs[trial].lagging

    def _catch_up(self, trials: Sequence[str]) -> set[str]:
        """Log what is missing of these trials; returns those that are recorded."""
        from harness.tracking.sync import drop_fragments, recorded  # reads Parquet, which most sessions need not

        assert self._records is not None
        found = set()
        for row, points in recorded(self._records, trials):
            trial = row["trial"]
            if trial not in self._runs:
                if self._to.mode == "offline":
                    drop_fragments(Path(self._to.folder), trial)
                self._open(trial, config_of(row), row["code_version"])
            live = self._runs[trial]
            live.step = log_points(live.run, points, live.step)
            found.add(trial)
        return found

    def _close(self, run: Any, summary: Mapping[str, Any], version: str | None) -> None:
        if self._to.mode == "offline":
            close_run(run, summary, version)
        else:
            self._finishing.append(self._pool.submit(close_run, run, summary, version))

    def end(self) -> None:
        """Finish what is open: trials that were interrupted."""
        for live in self._runs.values():
            self.incomplete += 1
            live.run.finish(exit_code=1)
        for future in self._finishing:
            future.result()
        self._pool.shutdown()


def follow(lines: Iterable[str]) -> str:
    """Do what the trainer says until it falls silent. Returns why W&B lacks something, or nothing."""
    events = (json.loads(line) for line in lines)
    hello = next(events, None)
    if hello is None:
        return ""
    import wandb

    to = Destination(
        project=hello["project"],
        entity=hello["entity"],
        mode=hello["mode"],
        group=hello["group"],
        folder=hello["folder"],
        tags=tuple(hello["tags"]),
        settings={"init_timeout": _INIT_SECONDS},
    )
    records = hello["records"] and Path(hello["records"])
    mirror = Mirror(wandb, to, hello["live"], records, hello["code_version"])
    for event in events:
        if event["event"] == "chunk":
            mirror.chunk(event["start"], event["opened"], event["points"])
        else:
            mirror.finished(event["closed"])
    signal.alarm(_LAST_SECONDS)
    mirror.end()
    signal.alarm(0)
    return f"{mirror.incomplete} trials are incomplete there" if mirror.incomplete else ""


def main() -> int:
    """Follow standard input; returns the exit code. W&B's own messages go nowhere."""
    with suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ["WANDB_SILENT"] = "true"
    with os.fdopen(os.dup(1), "w") as reply:
        os.dup2(2, 1)
        try:
            complaint, failed = follow(sys.stdin), False
        except Exception as error:  # W&B raises many kinds, and its process may have died
            complaint, failed = reason_of(error), True
        with suppress(OSError):
            print(complaint, file=reply, flush=True)
    if failed:
        os._exit(1)  # W&B's exit hook would wait for the runs that are still open
    return 0


if __name__ == "__main__":
    sys.exit(main())
