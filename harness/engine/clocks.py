"""Separate clocks for what a pack spends its time on; device work is waited for before a clock is read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Name = Literal["compile", "data", "train", "eval", "checkpoint", "records"]


class Clocks:
    """Seconds by activity. What runs inside `with clocks("train")` must end synchronised with the device."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: dict[Name, float] = dict.fromkeys(Name.__args__, 0.0)  # type: ignore[attr-defined]

    @contextmanager
    def __call__(self, name: Name) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - before

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    @property
    def host(self) -> float:
        """Seconds on no clock: Python between the calls."""
        return self.elapsed - sum(self.seconds.values())
