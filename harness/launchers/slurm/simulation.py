"""A job array without training: which task runs when, what preemptions and failures cost, and where GPU time goes.

A discrete-event simulation. An attempt at a task is one event: when it starts, the times of its next preemption and failure
are drawn, and all that it does until the earliest end follows. Its rules are those of `tasks.py`, `training.py`,
`attempts.py` and the job script.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

import numpy as np

from workloads.base import BadInput


@dataclass(frozen=True)
class Site:
    """The cluster and what running costs on it. Times in seconds, rates per GPU-hour.

    slots: tasks at once (%K). gpus: of a task. launch_s: the controller's time for every start; latency_s: from then to the
    task's first instruction. start_s: interpreter, imports, manifest; compile_s: once an attempt, from a warm cache or not.
    look_s, look_row_s: before every pack, to see what is recorded, and that per recorded trial; record_s: after every pack.
    chunk_s: training between two moments at which a task can stop; checkpoint_s: of writing one, every checkpoint_every_s of
    training. limit_s, signal_s: the time limit, and how long before it a task is told. preemptions: with grace_s of warning;
    failures: without any. requeue_s: until a task that came back may start again. retries: attempts without progress that
    are followed by another, not counting preempted ones.
    """

    slots: int = 1000
    gpus: int = 1
    launch_s: float = 0.0
    latency_s: float = 0.0
    start_s: float = 0.0
    compile_s: float = 0.0
    look_s: float = 0.0
    look_row_s: float = 0.0
    record_s: float = 0.0
    chunk_s: float = 1.0
    checkpoint_s: float = 0.0
    checkpoint_every_s: float = math.inf
    limit_s: float = math.inf
    signal_s: float = 0.0
    preemptions: float = 0.0
    grace_s: float = 0.0
    failures: float = 0.0
    requeue_s: float = 0.0
    retries: int = 2

    def validate(self) -> None:
        """Raise BadInput where a number makes no sense."""
        for part in fields(self):
            if not getattr(self, part.name) >= 0:
                raise BadInput(f"{part.name}={getattr(self, part.name)} must be at least 0")
        for name in ("slots", "gpus", "chunk_s", "checkpoint_every_s"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name}={getattr(self, name)} must be positive")
        if self.limit_s <= self.signal_s + self.start_s + self.compile_s:
            raise BadInput(
                f"limit_s={self.limit_s:g} leaves no time to train between start_s={self.start_s:g}, compile_s="
                f"{self.compile_s:g} and the warning signal_s={self.signal_s:g} before it; raise limit_s"
            )


USES = ("useful", "start", "compile", "records", "checkpoint", "lost")
IDLE = ("launching", "requeued", "no work left")


@dataclass
class Outcome:
    """What came of it. spent: GPU-seconds of tasks by use (`USES`; lost: trained again). idle: of free slots, by reason.

    finished: how often each pack was recorded. ended: how many attempts ended how. rows: recorded trials.
    """

    finished: np.ndarray
    makespan: float = 0.0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(USES, 0.0))
    idle: dict[str, float] = field(default_factory=lambda: dict.fromkeys(IDLE, 0.0))
    ended: dict[str, int] = field(default_factory=dict)
    given_up: int = 0
    rows: int = 0

    @property
    def allocated(self) -> float:
        """GPU-seconds that tasks held."""
        return sum(self.spent.values())


class _Task:
    """Packs `first` to `last` (exclusive); `at`: of the pack `first`, seconds of training in its checkpoint."""

    __slots__ = ("at", "failures", "first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.at, self.failures = first, last, 0.0, 0


def grouped(seconds: np.ndarray, target: float, most: int) -> list[int]:
    """Where tasks begin and end: neighbouring packs together while they take at most `target` seconds; at most `most` tasks."""
    ends = np.cumsum(seconds)
    while True:
        edges = [0]
        while edges[-1] < len(seconds):
            before = ends[edges[-1] - 1] if edges[-1] else 0.0
            edges.append(max(edges[-1] + 1, int(np.searchsorted(ends, before + target * (1 + 1e-9), side="right"))))
        if len(edges) - 1 <= most:
            return edges
        target = max(1.05 * target, float(ends[-1]) / most)


def simulate(seconds: np.ndarray, trials: np.ndarray, edges: Sequence[int], site: Site, seed: int = 0) -> Outcome:
    """Run the array. seconds, trials: of each pack, (n,). edges: see `grouped`. The same seed gives the same outcome."""
    site.validate()
    run = _Run(seconds, trials, site, np.random.default_rng(seed))
    ready = deque(_Task(first, last) for first, last in pairwise(edges))
    events: list[tuple[float, int, bool, _Task]] = []  # (time, order, whether it frees a slot, task)
    free, waiting, order = site.slots, 0, 0
    now = controller = 0.0
    while ready or events:
        while ready and free:
            controller = max(now, controller) + site.launch_s
            begins, task = controller + site.latency_s, ready.popleft()
            run.outcome.idle["launching"] += begins - now
            again, duration = run.attempt(task)
            order, free = order + 1, free - 1
            heapq.heappush(events, (begins + duration, order, True, task))
            run.comes_back[order] = again
        if not events:
            break
        time, number, frees, task = heapq.heappop(events)
        run.outcome.idle["requeued"] += (time - now) * min(free, waiting)
        run.outcome.idle["no work left"] += (time - now) * max(0, free - waiting)
        now = time
        if not frees:
            waiting -= 1
            ready.append(task)
            continue
        free += 1
        run.outcome.makespan = now
        run.outcome.rows += run.recorded.pop(id(task), 0)
        if run.comes_back.pop(number):
            waiting, order = waiting + 1, order + 1
            heapq.heappush(events, (now + site.requeue_s, order, False, task))
    for name in run.outcome.idle:
        run.outcome.idle[name] *= site.gpus
    return run.outcome


class _Run:
    """Attempts at tasks and what they add to the outcome."""

    def __init__(self, seconds: np.ndarray, trials: np.ndarray, site: Site, random: np.random.Generator) -> None:
        self.site, self.random = site, random
        self.outcome = Outcome(np.zeros(len(seconds), np.int64))
        self.comes_back: dict[int, bool] = {}
        self.recorded: dict[int, int] = {}
        self._trained = np.concatenate([[0.0], np.cumsum(seconds)])
        self._rows = np.concatenate([[0], np.cumsum(trials)])
        self._slope = 1.0 + site.checkpoint_s / site.checkpoint_every_s  # wall seconds per second of training
        self._setup = site.start_s + site.compile_s

    def attempt(self, task: _Task) -> tuple[bool, float]:
        """One attempt at a task that starts now: whether another one follows, and how long this one takes."""
        site = self.site
        look = site.look_s + site.look_row_s * self.outcome.rows
        aside = look + site.record_s
        packs, before = task.last - task.first, float(self._trained[task.first]) + task.at
        whole = self._setup + packs * aside + (float(self._trained[task.last]) - before) * self._slope
        cause, cut, grace = self._interruption()
        if whole <= cut:
            return self._end(task, task.last, 0.0, whole, 0.0, packs * aside, "done")
        trained_by = (self._trained[task.first + 1 : task.last + 1] - before) * self._slope
        ends = self._setup + np.arange(1, packs + 1) * aside + trained_by
        done = int(np.searchsorted(ends, cut, side="right"))
        begin = float(ends[done - 1]) if done else self._setup
        current, start = task.first + done, 0.0 if done else task.at
        trained = min(max(0.0, (cut - begin - look) / self._slope), self._length(current) - start)
        apart = done * aside + min(max(0.0, cut - begin), look)
        apart += max(0.0, cut - begin - look - (self._length(current) - start) * self._slope)
        if cut <= begin + look:  # nothing of this pack is trained
            return self._end(task, current, start, cut, 0.0, apart, cause)
        position = start + trained
        boundary = min(math.ceil(position / site.chunk_s - 1e-9) * site.chunk_s, self._length(current))
        extra = (boundary - position) * self._slope + site.checkpoint_s
        if grace and extra <= grace:
            return self._end(task, current, boundary, cut + extra, site.checkpoint_s, apart, cause)
        killed = min(position + grace / self._slope, boundary)  # and then while it writes
        writing = grace - (killed - position) * self._slope
        kept = start
        if math.isfinite(site.checkpoint_every_s):
            kept += math.floor((killed - start) / site.checkpoint_every_s) * site.checkpoint_every_s
        return self._end(task, current, kept, cut + grace, writing, apart, cause, killed - kept)

    def _interruption(self) -> tuple[str, float, float]:
        """What would end an attempt: (what, seconds after its start, seconds of warning)."""
        site = self.site
        found = ("time limit", site.limit_s - site.signal_s, site.signal_s)
        for name, rate, grace in (("preempted", site.preemptions, site.grace_s), ("failed", site.failures, 0.0)):
            if rate:
                cut = self.random.standard_exponential() * 3600.0 / (rate * site.gpus)
                found = min(found, (name, cut, grace), key=lambda entry: entry[1])
        return found

    def _end(
        self,
        task: _Task,
        current: int,
        kept: float,
        duration: float,
        extra: float,
        apart: float,
        cause: str,
        lost: float = 0.0,
    ) -> tuple[bool, float]:
        """Book an attempt that left pack `current` with `kept` seconds in its checkpoint, and all before it recorded."""
        site, outcome = self.site, self.outcome
        if current < task.last and kept >= self._length(current):
            current, kept = current + 1, 0.0
        useful = float(self._trained[current] - self._trained[task.first]) + kept - task.at
        progress = current > task.first or kept > task.at
        start = min(duration, site.start_s)
        uses = {
            "useful": useful,
            "start": start,
            "compile": min(duration - start, site.compile_s),
            "records": apart,
            "checkpoint": (useful + lost) * (self._slope - 1.0) + extra,
            "lost": lost,
        }
        rest = duration - sum(uses.values())
        assert abs(rest) < 1e-6 * max(1.0, duration), (cause, duration, uses)
        for name, value in uses.items():
            outcome.spent[name] += value * site.gpus
        outcome.finished[task.first : current] += 1
        self.recorded[id(task)] = int(self._rows[current] - self._rows[task.first])
        outcome.ended[cause] = outcome.ended.get(cause, 0) + 1
        task.first, task.at = current, kept
        if current == task.last:
            return False, duration
        if progress:
            task.failures = 0
        elif cause != "preempted":
            task.failures += 1
        if task.failures > site.retries:
            outcome.given_up += 1
            return False, duration
        return True, duration

    def _length(self, pack: int) -> float:
        return float(self._trained[pack + 1] - self._trained[pack])
