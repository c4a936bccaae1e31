"""Workers that are killed. A process that has everything imported forks each of them, so that fifty deaths take a minute.

python -m tests.engine.storm kills FOLDER COUNT      a calm run, then COUNT workers killed one after the other, then a last one
python -m tests.engine.storm together FOLDER COUNT   a calm run, then COUNT launchers at once on one study
Each prints what happened as JSON. The parent never touches a device, so the forked workers start JAX from nothing.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.engine import devices
from harness.records.store import Store
from harness.trial import Trial
from tests.trials import run, small_trial
from workloads.regression import Regression

CHUNKS = 6  # of a trial
_LINGER = 0.03  # seconds, of which a chunk with its checkpoint takes some milliseconds, as does recording a pack


def some_trials(count: int) -> list[Trial]:
    """Cheap ones that share a program."""
    trials = [small_trial(seed=seed, evaluations=CHUNKS) for seed in range(count)]
    return [replace(trial, workload=Regression(width=4, batch_size=4)) for trial in trials]


class Tells:
    """An observer that writes a byte to a pipe after every chunk."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def chunk(self, chunk: Any) -> None:
        os.write(self._pipe, b".")

    def begin(self, *_: Any) -> None: ...
    def finished(self, *_: Any) -> None: ...
    def end(self) -> None: ...


def worker(root: Path, trials: Sequence[Trial]) -> tuple[int, int]:
    """Start a process that trains what is missing, with a checkpoint after every chunk; its id and what it tells."""
    heard, told = os.pipe()
    process = os.fork()
    if process:
        os.close(told)
        return process, heard
    code = 1
    try:
        os.close(heard)
        os.dup2(2, 1)  # standard output is for what happened
        finished = sorted(Store(root).finished())
        with (root.parent / "seen.jsonl").open("a") as file:
            file.write(json.dumps(finished) + "\n")
        devices.configure(devices=2)
        run(trials, Store(root), observers=[Tells(told)], pack_size=4, checkpoint_overhead=1e9)
        code = 0
    finally:
        os._exit(code)


def ended(process: int, heard: int) -> int:
    """Wait for a worker; its exit code, negative if a signal ended it."""
    while os.read(heard, 1 << 16):
        pass
    os.close(heard)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kills(folder: Path, count: int) -> dict[str, Any]:
    """Kill workers at random moments: some as they start, the others after some chunks, in the midst of what comes next."""
    rng = random.Random(0)
    trials = some_trials(4 * count + 2)  # packs of 4, and one of 2
    before = time.monotonic()
    calm = ended(*worker(folder / "calm", trials))
    start = min(2.0, time.monotonic() - before)
    codes, training = [], 0
    for _ in range(count):
        process, heard = worker(folder / "stormy", trials)
        chunks = rng.randrange(5)
        for _ in range(chunks):
            os.read(heard, 1)
        time.sleep(rng.uniform(0.0, _LINGER if chunks else start))
        os.kill(process, signal.SIGKILL)
        codes.append(ended(process, heard))
        training += chunks > 0
    left = list((folder / "stormy" / "checkpoints").glob("*.ckpt"))
    return {
        "calm": calm,
        "killed": codes.count(-signal.SIGKILL),
        "while training": training,
        "checkpoints left": len(left),
        "last": ended(*worker(folder / "stormy", trials)),
        "trials": len(trials),
    }


def together(folder: Path, count: int) -> dict[str, Any]:
    trials = some_trials(26)
    calm = ended(*worker(folder / "calm", trials))
    launchers = [worker(folder / "stormy", trials) for _ in range(count)]
    return {"calm": calm, "launchers": [ended(*launcher) for launcher in launchers], "trials": len(trials)}


if __name__ == "__main__":
    mode, where, number = sys.argv[1:]
    print(json.dumps({"kills": kills, "together": together}[mode](Path(where), int(number))))
