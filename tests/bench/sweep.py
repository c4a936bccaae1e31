"""sweep: 32 trials by one `harness.train -m` against the same trials as separate processes, two at a time."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records.store import Store
from tests.bench.measure import Section, Target, ratios
from tests.bench.setup import ROOT, Setup

SPEED_UP = 5.0
_AT_ONCE = 2
_SAMPLE = (0, 31, 18, 13, 9, 22)  # of the 32 jobs: both widths in turn, rates and seeds spread
_SHOWN_OUTPUT = 2000


@dataclass(frozen=True)
class Sweep:
    """The product of widths, learning rates and seeds, each trial `steps` steps long."""

    widths: Sequence[int] = (32, 64)
    rates: Sequence[float] = tuple(2.0 ** (-9 + k / 2) for k in range(8))
    seeds: Sequence[int] = (0, 1)
    steps: int = 200
    common: Sequence[str] = field(default=("workload=language_model", "optimizer=adamw", "optimizer.b2=0.98"))

    @property
    def jobs(self) -> list[tuple[int, float, int]]:
        return list(itertools.product(self.widths, self.rates, self.seeds))

    def packed(self) -> list[str]:
        """Arguments of the one command that trains all."""
        return [*_words(_commas(self.widths), _commas(self.rates), _commas(self.seeds)), *self._shared(), "-m"]

    def separate(self, job: tuple[int, float, int]) -> list[str]:
        """Arguments of the command that trains one."""
        return [*_words(*(repr(value) for value in job)), *self._shared()]

    def _shared(self) -> list[str]:
        return [*self.common, f"budget.steps={self.steps}"]


def measure(setup: Setup, sweep: Sweep | None = None, sample: Sequence[int] = _SAMPLE) -> Section:
    sweep = sweep or Sweep()
    jobs = [sweep.jobs[i] for i in (range(len(sweep.jobs)) if setup.full else sample)]
    total = len(sweep.jobs)
    section = Section("sweep", f"{total} trials of {sweep.steps} steps, from start to end of the commands")
    train(["--help"], setup.environment)  # the first import of a fresh machine is nobody's cost
    packed, own, shared = [], [], []
    for turn in range(setup.rounds):
        folder = setup.folder / f"sweep_{turn}"
        sides = [
            lambda folder=folder: packed.append(_packed(sweep, setup, folder)),
            lambda folder=folder: own.append(_own_caches(sweep, jobs, setup, folder)),
            lambda folder=folder: shared.append(_shared_cache(sweep, jobs, setup, folder)),
        ]
        for side in sides[:: 1 if turn % 2 == 0 else -1]:
            side()
        assert_same_losses(folder, jobs)
    section.add("one packed command", "s", packed)
    section.add("separate processes, an empty cache each", "s", own)
    section.add("separate processes, one cache, empty at first", "s", shared)
    section.add("separate / packed, an empty cache each", "x", ratios(own, packed), Target("at least", SPEED_UP))
    section.add("separate / packed, one cache", "x", ratios(shared, packed), Target("at least", SPEED_UP))
    section.notes += _notes(len(jobs), total, setup.folder / "sweep_0")
    return section


def _notes(run: int, total: int, folder: Path) -> list[str]:
    extent = "all were run" if run == total else f"{run} of {total} were run, and their time scaled"
    rows = _rows(folder, "shared")
    train, evaluation = (sum(row[f"{clock}_s"] for row in rows) / len(rows) for clock in ("train", "eval"))
    return [
        f"separate processes: {_AT_ONCE} at a time; {extent}; their final losses agreed with the packed command's",
        f"a separate process spent {train:.2f} s in training steps and {evaluation:.2f} s in evaluations (mean)",
        "the packed command starts with an empty compilation cache, too",
    ]


def _packed(sweep: Sweep, setup: Setup, folder: Path) -> float:
    started = time.perf_counter()
    train([*sweep.packed(), *_place(folder, "packed")], setup.with_cache(folder / "cache_packed"))
    return time.perf_counter() - started


def _own_caches(sweep: Sweep, jobs: Sequence[tuple[int, float, int]], setup: Setup, folder: Path) -> float:
    """Seconds for all jobs, every process compiling what it needs."""
    place = _place(folder, "own")
    caches = [setup.with_cache(folder / f"cache_{i}") for i in range(len(jobs))]
    spent = _side_by_side([[*sweep.separate(job), *place] for job in jobs], caches)
    return spent * len(sweep.jobs) / len(jobs)


def _shared_cache(sweep: Sweep, jobs: Sequence[tuple[int, float, int]], setup: Setup, folder: Path) -> float:
    """Seconds for all jobs: the first one of every width compiles, the others find it done."""
    place = _place(folder, "shared")
    commands = [[*sweep.separate(job), *place] for job in jobs]
    first, others = len(sweep.widths), len(sweep.jobs) - len(sweep.widths)
    caches = [setup.with_cache(folder / "cache_shared")] * len(jobs)
    cold = _side_by_side(commands[:first], caches)
    warm = _side_by_side(commands[first:], caches)
    return cold + warm * others / len(commands[first:])


def _side_by_side(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> float:
    """Seconds for the commands, a new one starting whenever one ends."""
    started = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(train, commands, environments))
    return time.perf_counter() - started


def train(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """`python -m harness.train`. Raises RuntimeError with the end of its output if it fails."""
    command = [sys.executable, "-m", "harness.train", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr)[-_SHOWN_OUTPUT:]
        raise RuntimeError(f"harness.train {' '.join(arguments)} ended with code {done.returncode}:\n{output}")


def assert_same_losses(folder: Path, jobs: Sequence[tuple[int, float, int]]) -> None:
    """Both sides must have trained the same trials to the same end."""
    packed = {row["trial"]: row["final_loss"] for row in _rows(folder, "packed")}
    for side in ("own", "shared"):
        rows = _rows(folder, side)
        assert len(rows) == len(jobs), f"{len(rows)} of {len(jobs)} trials were recorded"
        for row in rows:
            expected = packed[row["trial"]]
            assert abs(row["final_loss"] - expected) <= 1e-5 * expected, f"trial {row['trial']} ended differently"


def _rows(folder: Path, study: str) -> list[dict[str, Any]]:
    return Store(folder / "results" / study).trials().to_pylist()


def _place(folder: Path, study: str) -> list[str]:
    return [f"results={folder / 'results'}", f"study_name={study}"]


def _words(width: str, rate: str, seed: str) -> list[str]:
    return [f"workload.width={width}", f"optimizer.learning_rate={rate}", f"seed={seed}"]


def _commas(values: Sequence[float]) -> str:
    return ",".join(map(repr, values))
