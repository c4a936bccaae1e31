"""What of a call that compiles counts: all that is not compiling, but for what a new program takes to load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from jax import monitoring

from harness.algoperf import timing
from harness.algoperf.timing import Stopwatch, covered

TRACE, LOWER, COMPILE = "jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration"


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, *parts: float | tuple[str, float]) -> None:
        """Seconds, and (event, seconds) of which JAX reports that they were compiling."""
        for part in parts:
            event, seconds = part if isinstance(part, tuple) else ("", part)
            self.now += seconds
            if event:
                monitoring.record_event_duration_secs(f"/jax/core/compile/{event}", seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


@pytest.fixture
def charged(clock: Clock) -> Iterator[Callable[..., float]]:
    """The seconds of calls, of which each is what `Clock.run` takes."""

    def charged(*calls: tuple[float | tuple[str, float], ...]) -> float:
        with Stopwatch() as watch:
            for call in calls:
                with watch.timed("step"):
                    clock.run(*call)
            return watch.seconds

    return charged


USUAL = [(0.01,)] * 10
HONEST = ((TRACE, 0.3), (LOWER, 0.1), (COMPILE, 2.0))


def test_compiling_and_loading_are_free(charged: Callable[..., float]) -> None:
    assert charged((*HONEST, 0.2), *USUAL) == pytest.approx(11 * 0.01)
    assert charged((*HONEST, 0.005), *USUAL) == pytest.approx(0.005 + 10 * 0.01)


@pytest.mark.parametrize("extra", [3.0, 60.0])
def test_work_beside_compiling_is_charged(charged: Callable[..., float], extra: float) -> None:
    assert charged((*HONEST, extra), *USUAL) == pytest.approx(10 * 0.01 + extra - timing._LOADED_SECONDS)


def test_loading_is_free_once_in_a_run(charged: Callable[..., float]) -> None:
    many = charged(*[(*HONEST, 0.3)] * 10, *USUAL)
    assert many == pytest.approx(10 * 0.3 + 10 * 0.01 - timing._LOADED_SECONDS)


def test_loading_is_free_up_to_some_usual_calls(charged: Callable[..., float]) -> None:
    found = charged((*HONEST, 0.4), *[(0.0001,)] * 10)
    assert found == pytest.approx(0.4 + 0.001 - timing._LOADED_CALLS * 0.0001)


def test_tracing_is_free_as_long_as_lowering_warrants_it(charged: Callable[..., float]) -> None:
    slow = ((TRACE, 5.0), (LOWER, 0.1), (COMPILE, 2.0))
    expected = 10 * 0.01 + 5.0 - timing._TRACED * 0.1 - timing._LOADED_SECONDS
    assert charged(slow, *USUAL) == pytest.approx(expected)


def test_who_compiles_for_ever_is_charged_for_it(charged: Callable[..., float]) -> None:
    assert charged(*[HONEST] * 20) == pytest.approx(4 * 2.4)


def test_overlapping_spans_count_once() -> None:
    assert covered([(1.0, 3.0), (0.0, 2.0), (2.5, 2.6), (5.0, 9.0)], 0.5, 6.0) == pytest.approx(3.5)
    assert covered([], 0.0, 1.0) == 0.0
