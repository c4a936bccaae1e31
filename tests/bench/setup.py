"""What every section is given: the devices, the user's environment, and how long to measure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.engine.devices import Devices

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Setup:
    """environment: as the user gave it, without the engine's XLA flags, for processes that set up their own.

    folder: scratch space. rounds: repeats of every comparison. seconds: of one timing. full: nothing is extrapolated.
    """

    devices: Devices
    environment: Mapping[str, str]
    folder: Path
    rounds: int = 5
    seconds: float = 1.0
    full: bool = False

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    def with_cache(self, cache: Path) -> dict[str, str]:
        """The environment with the compilation cache at `cache`."""
        return {**self.environment, "JAX_COMPILATION_CACHE_DIR": str(cache)}
