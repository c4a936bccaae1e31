"""Mirroring recorded trials to W&B: whole runs, at a stated rate, as often as it takes, and each version of a row once.

A run that the server knows is continued after its last step, so that nothing is ever doubled. W&B's client does not say
whether an upload arrived; the server does: a run counts as mirrored when its summary there names the recorded row. Only
then it is entered in the journal, and a restart goes on with the others.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.records.store import Store
from harness.tracking.journal import Journal
from harness.tracking.wandb_runs import (
    RECORDED,
    Destination,
    Point,
    close_run,
    config_of,
    curve_points,
    flops_per_step,
    log_points,
    open_run,
    reached,
    reason_of,
    summary_of,
    version_of,
)
from workloads.base import BadInput

_BATCH = 16  # runs that are uploaded side by side, and asked for in one request
_PAGE = 100  # runs that are asked for in one request
_BLOCK = 256  # trials that are read from the records at a time
_END = 5.0  # seconds that W&B's client gets to end by itself


T = TypeVar("T")


def recorded(root: Path, trials: Collection[str]) -> Iterator[tuple[dict[str, Any], list[Point]]]:
    """Rows of `trials` with their curves. Trials that are not recorded are left out."""
    store = Store(root)
    table = store.trials()
    rows = table.filter(pc.is_in(table["trial"], pa.array(list(trials), pa.string()))).to_pylist()
    curves = _split(store.curves(trials))
    for row in rows:
        columns = curves[row["trial"]].to_pydict() if row["trial"] in curves else {}
        yield row, list(curve_points(columns, flops_per_step(row)))


def _split(curves: pa.Table) -> dict[str, pa.Table]:
    """Trial -> its part of a table of curves, where a trial's points are adjacent."""
    trials = curves["trial"].combine_chunks()
    starts = np.flatnonzero(np.append(True, np.diff(np.asarray(trials.indices)) != 0)) if len(trials) else np.array([])
    stops = [*starts[1:], len(trials)]
    return {trials[int(i)].as_py(): curves.slice(int(i), int(j - i)) for i, j in zip(starts, stops, strict=False)}


def drop_fragments(folder: Path, trial: str) -> None:
    """Remove a trial's earlier offline folders: `wandb sync` would append one to the other."""
    for path in (folder / "wandb").glob(f"offline-run-*-{trial}"):
        shutil.rmtree(path, ignore_errors=True)


def write(wandb: Any, to: Destination, row: Mapping[str, Any], points: Iterable[Point]) -> None:
    """One whole run, from its first point to its summary. Raises what W&B raises."""
    started(wandb, to, row, points)()


def started(wandb: Any, to: Destination, row: Mapping[str, Any], points: Iterable[Point]) -> Callable[[], None]:
    """As `write`, but for the end, where W&B waits for the server: call what is returned."""
    config = config_of(row)
    run = open_run(wandb, to, row["trial"], config, row.get("code_version"))
    log_points(run, points, reached(run))
    return lambda: close_run(run, summary_of(row, config), version_of(row))


@dataclass(frozen=True)
class Pace:
    """How hard W&B is pushed. longest: seconds between attempts at most. attempts: in a row without progress, at most."""

    runs_per_minute: float = 60.0
    first: float = 2.0
    longest: float = 300.0
    attempts: int = 8

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures in a row: doubling up to `longest`, of which half is random."""
        return min(self.longest, self.first * 2.0 ** (failures - 1)) * (0.5 + 0.5 * rng.random())


class Target(Protocol):
    """Where runs are uploaded to."""

    def upload(self, runs: Sequence[tuple[Mapping[str, Any], Sequence[Point]]]) -> str:
        """Send rows and curves; what went wrong, or nothing."""
        ...

    def versions(self, trials: Sequence[str]) -> dict[str, str]:
        """Trial -> the version that has arrived whole. Raises what W&B raises."""
        ...


class Online:
    """W&B's server. Runs that it has confirmed need no local files, so these are temporary. timeout: s, of a question."""

    def __init__(self, wandb: Any, to: Destination, timeout: float) -> None:
        self._wandb, self._to, self._timeout = wandb, to, timeout
        self._api: Any = None

    def upload(self, runs: Sequence[tuple[Mapping[str, Any], Sequence[Point]]]) -> str:
        with tempfile.TemporaryDirectory(prefix="windtunnel-wandb-", ignore_cleanup_errors=True) as folder:
            to = replace(self._to, folder=folder)
            try:
                ends = [started(self._wandb, to, row, points) for row, points in runs]
                with ThreadPoolExecutor(len(ends)) as pool:
                    for done in [pool.submit(end) for end in ends]:
                        done.result()
            except Exception as error:  # W&B raises many kinds
                self._restart()
                return reason_of(error)
        return ""

    def versions(self, trials: Sequence[str]) -> dict[str, str]:
        try:
            self._connect()
            return {
                run.id: str(run.summary.get(RECORDED)) for page in _parts(trials, _PAGE) for run in self._runs(page)
            }
        except BadInput:
            raise
        except Exception:
            self._restart()
            raise

    def _runs(self, trials: Sequence[str]) -> list[Any]:
        entity = self._to.entity or self._api.default_entity
        path, filters = f"{entity}/{self._to.project}", {"name": {"$in": list(trials)}}
        try:
            return list(self._api.runs(path, filters, per_page=_PAGE, lazy=False))
        except ValueError as error:
            if "Could not find project" in str(error):  # it is made with its first run
                return []
            raise

    def _connect(self) -> None:
        """Raises BadInput where there is no key, which no waiting cures."""
        if self._api is None:
            try:
                self._api = self._wandb.Api(timeout=self._timeout)
            except self._wandb.errors.UsageError:
                raise BadInput(
                    "W&B wants a key: run `wandb login`, set WANDB_API_KEY, or write folders with mode=offline"
                ) from None
        self._api.flush()  # it remembers answers

    def _restart(self) -> None:
        """W&B's client is a process of its own, which may have died: the next attempt starts another.

        Asked to end, it first goes on with what it has begun, for hours where the server is down; so it is given `_END`
        seconds, and then killed: what the server has not confirmed is sent again anyway.
        """
        self._api = None
        process = _process_of(self._wandb)
        ended = threading.Thread(target=_tear_down, args=(self._wandb,), daemon=True)
        ended.start()
        ended.join(_END)
        if ended.is_alive() and process is not None:
            process.kill()
            ended.join(_END)


def _tear_down(wandb: Any) -> None:
    with suppress(Exception, SystemExit):
        wandb.teardown(1)


def _process_of(wandb: Any) -> subprocess.Popen[bytes] | None:
    """W&B's client process. The library keeps it to itself: where a later one keeps it elsewhere, there is none to kill."""
    found = wandb.setup()
    for name in ("_connection", "_proc", "_process"):
        found = getattr(found, name, None)
    return found if isinstance(found, subprocess.Popen) else None


class Offline:
    """Offline folders under to.folder/wandb, for `wandb sync` on a machine that has a network."""

    def __init__(self, wandb: Any, to: Destination) -> None:
        self._wandb, self._to = wandb, to
        self._written: dict[str, str] = {}

    def upload(self, runs: Sequence[tuple[Mapping[str, Any], Sequence[Point]]]) -> str:
        for row, points in runs:
            drop_fragments(Path(self._to.folder), row["trial"])
            write(self._wandb, self._to, row, points)
            self._written[row["trial"]] = version_of(row)
        return ""

    def versions(self, trials: Sequence[str]) -> dict[str, str]:
        return {trial: self._written[trial] for trial in trials if trial in self._written}


@dataclass
class Outcome:
    """known: mirrored before. uploaded: now. left: not confirmed, with the last reason."""

    known: int = 0
    uploaded: int = 0
    left: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass
class Sync:
    """Brings a target up to date with a study's records.

    say is told about progress and failures. sleep, clock and rng are replaced in tests.
    """

    root: Path
    target: Target
    destination: str
    pace: Pace = field(default_factory=Pace)
    say: Callable[[str], None] = print
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._journal = Journal(self.root / "wandb")
        self._free_at = self.clock()
        self._outcome = Outcome()

    def run(self, force: bool = False) -> Outcome:
        """Mirror what the target lacks; force: everything. An interruption loses nothing that was confirmed."""
        table = Store(self.root).trials(("trial", "status", "finished_at", "attempt"))
        wanted = {row["trial"]: version_of(row) for row in table.to_pylist()}
        known = {} if force else self._journal.known(self.destination)
        missing = {trial: version for trial, version in wanted.items() if known.get(trial) != version}
        self._outcome.known = len(wanted) - len(missing)
        failures = 0
        first = not force
        while missing:
            before = len(missing)
            try:
                if first or failures:
                    self._confirm(missing)
                first = False
                reason = self._pass(missing)
            except BadInput:
                raise
            except Exception as error:
                reason = reason_of(error)
            if not missing:
                break
            failures = 1 if len(missing) < before else failures + 1
            self._outcome.left, self._outcome.reason = sorted(missing), reason or "the server does not show the runs"
            if failures >= self.pace.attempts:
                return self._outcome
            delay = self.pace.delay(failures, self.rng)
            self.say(f"{len(missing)} runs are not mirrored ({self._outcome.reason}); next attempt in {delay:.0f} s")
            self.sleep(delay)
        self._outcome.left, self._outcome.reason = [], ""
        return self._outcome

    def _pass(self, missing: dict[str, str]) -> str:
        """One batch after the other until one goes wrong; then the reason."""
        for block in _parts(list(missing), _BLOCK):
            for runs in _parts(list(recorded(self.root, block)), _BATCH):
                self._wait_for_turn(len(runs))
                trials = [row["trial"] for row, _ in runs]
                reason = self.target.upload(runs)
                self._confirm(missing, {trial: missing[trial] for trial in trials})
                if reason or any(trial in missing for trial in trials):
                    return reason
                self.say(f"{self._outcome.uploaded} runs mirrored, {len(missing)} to go")
        return ""

    def _confirm(self, missing: dict[str, str], asked: Mapping[str, str] | None = None) -> None:
        """Strike what the target has from `missing`, and enter it in the journal."""
        asked = dict(missing) if asked is None else asked
        arrived = self.target.versions(list(asked))
        confirmed = {trial: version for trial, version in asked.items() if arrived.get(trial) == version}
        self._journal.add(self.destination, confirmed)
        for trial in confirmed:
            del missing[trial]
        self._outcome.uploaded += len(confirmed)

    def _wait_for_turn(self, runs: int) -> None:
        """Keep to the rate: a batch may start when the ones before it are paid for."""
        now = self.clock()
        if self._free_at > now:
            self.sleep(self._free_at - now)
        self._free_at = max(now, self._free_at) + 60.0 * runs / self.pace.runs_per_minute


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
