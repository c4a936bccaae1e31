"""A submission's time: what its calls take, without compiling."""

from __future__ import annotations

import gc
import time
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import jax

_COMPILING = "/jax/core/compile/"
_FREE = 16  # calls


class Mark(NamedTuple):
    """A moment: seconds of the calls until then that compiled nothing, and the number of those that did."""

    seconds: float
    compiled: int


class Stopwatch:
    """Adds up the seconds of what runs in `with watch.timed(KIND):`, which must wait for its results.

    Compilation is left out, a declared deviation from AlgoPerf: a call in which JAX traced, lowered or compiled anything
    counts as the median call of its kind that did not, at most as what it took beside compiling (loading a new program takes
    a while, too). Only the first 16 such calls do (a first step, a first evaluation, the step after it, ...): a submission that
    compiles for ever is charged for it from then on.
    """

    def __init__(self) -> None:
        self._clean = 0.0
        self._sorted: defaultdict[str, list[float]] = defaultdict(list)
        self._compiled: list[tuple[str, float]] = []
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> Stopwatch:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AssertionError, ValueError):  # the submission may have cleared the listeners
            jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith(_COMPILING):
            now = time.perf_counter()
            self._spans.append((now - duration_secs, now))

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time a call, and let Python's garbage be collected outside. kind: of the calls that take as long as this one."""
        self._spans.clear()
        collecting = gc.isenabled()
        gc.disable()
        begun = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            if collecting:
                gc.enable()
            if self._spans and len(self._compiled) < _FREE:
                self._compiled.append((kind, ended - begun - covered(self._spans, begun, ended)))
            else:
                self._clean += ended - begun
                insort(self._sorted[kind], ended - begun)

    @property
    def seconds(self) -> float:
        """Up to now, as far as is known now."""
        return self.at(self.mark())

    def mark(self) -> Mark:
        return Mark(self._clean, len(self._compiled))

    def at(self, mark: Mark) -> float:
        """The submission's seconds up to a mark, by all calls there have been."""
        return mark.seconds + sum(min(rest, self._usual(kind, rest)) for kind, rest in self._compiled[: mark.compiled])

    def _usual(self, kind: str, otherwise: float) -> float:
        known = self._sorted[kind]
        return known[len(known) // 2] if known else otherwise


def covered(spans: Sequence[tuple[float, float]], begun: float, ended: float) -> float:
    """How much of [begun, ended] the spans cover together; they may overlap (functions are traced within functions)."""
    total, reached = 0.0, begun
    for start, stop in sorted(spans):
        total += max(0.0, min(stop, ended) - max(start, reached))
        reached = max(reached, stop)
    return total
