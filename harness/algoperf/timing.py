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
_TRACING, _LOWERING = f"{_COMPILING}jaxpr_trace_duration", f"{_COMPILING}jaxpr_to_mlir_module_duration"
_COMPILED_CALLS = 16
_TRACED = 6.0  # times lowering; AdamW on our workloads: 2 to 5
_LOADED_SECONDS = 0.5  # a run; AdamW on our workloads: 0.02 to 0.6, beside another run on the same cores
_LOADED_CALLS = 100  # a run, of the slowest kind; AdamW on our workloads: 10 to 85


class Mark(NamedTuple):
    """A moment: seconds of the calls until then that compiled nothing, and the number of those that did."""

    seconds: float
    compiled: int


class Stopwatch:
    """Adds up the seconds of what runs in `with watch.timed(KIND):`, which must wait for its results.

    Compilation is left out, a declared deviation from AlgoPerf: a call in which JAX traced, lowered or compiled anything
    counts as what it took beside that. Tracing runs the submission's own Python, so no more of it is left out than 6 times what
    lowering took. The first run of a new program loads it, which takes many times a usual call: what such calls took beyond
    the median call of their kind that compiled nothing is left out, too, up to half a second or 100 usual calls a run,
    whichever is less; that much work could hide there, and no more. Only 16 calls may compile (a first step, a first
    evaluation, the step after it, ...): a submission that compiles for ever is charged for it from then on.

    JAX itself says when it compiles, in the submission's process: who reports spans that are none, or has other threads or the
    accelerator work while it compiles, must be caught by reading.
    """

    def __init__(self) -> None:
        self._clean = 0.0
        self._sorted: defaultdict[str, list[float]] = defaultdict(list)
        self._compiled: list[tuple[str, float]] = []
        self._spans: list[tuple[str, float, float]] = []

    def __enter__(self) -> Stopwatch:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(AssertionError, ValueError):  # the submission may have cleared the listeners
            jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith(_COMPILING):
            now = time.perf_counter()
            self._spans.append((event, now - duration_secs, now))

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
            if self._spans and len(self._compiled) < _COMPILED_CALLS:
                self._compiled.append((kind, ended - begun - _compiling(self._spans, begun, ended)))
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
        compiled = self._compiled[: mark.compiled]
        beyond = sum(max(0.0, rest - self._usual(kind, rest)) for kind, rest in compiled)
        longest = max((self._usual(kind, 0.0) for kind in self._sorted), default=0.0)
        return mark.seconds + sum(rest for _, rest in compiled) - min(beyond, _LOADED_SECONDS, _LOADED_CALLS * longest)

    def _usual(self, kind: str, otherwise: float) -> float:
        known = self._sorted[kind]
        return known[len(known) // 2] if known else otherwise


def _compiling(spans: Sequence[tuple[str, float, float]], begun: float, ended: float) -> float:
    """Seconds of [begun, ended] that are left out. spans: event, start, end."""

    def seconds(*events: str, without: tuple[str, ...] = ()) -> float:
        chosen = [span[1:] for span in spans if (not events or span[0] in events) and span[0] not in without]
        return covered(chosen, begun, ended)

    beside_tracing = seconds(without=(_TRACING,))
    return beside_tracing + min(seconds() - beside_tracing, _TRACED * seconds(_LOWERING))


def covered(spans: Sequence[tuple[float, float]], begun: float, ended: float) -> float:
    """How much of [begun, ended] the spans cover together; they may overlap (functions are traced within functions)."""
    total, reached = 0.0, begun
    for start, stop in sorted(spans):
        total += max(0.0, min(stop, ended) - max(start, reached))
        reached = max(reached, stop)
    return total
