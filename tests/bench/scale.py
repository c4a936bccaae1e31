"""scale: what a study of 10,000 trials costs before and after its training: submitting, looking at it, merging its records."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import cli, study
from harness.launchers.slurm import training
from harness.launchers.slurm.manifest import NAME, Manifest, read, submissions
from harness.launchers.slurm.simulate import MEASURES, Options, simulated
from harness.records.store import Store
from tests.bench.measure import Section, Target, timed
from tests.bench.setup import Setup
from tests.bench.worker import Worker, serve
from tests.launchers.fake_slurm import FakeSlurm
from tests.records.bench_listing import curve, row

SUBMIT, STATUS, MERGE, SIMULATION = 5.0, 2.0, 5.0, 60.0  # seconds
_ROUNDS = 3
UNITS = {  # of what the simulation wants to know
    "start_s": "s",
    "plan_us": "us",
    "read_us": "us",
    "look_ms": "ms",
    "look_us": "us",
    "append_ms": "ms",
    "merge_ms": "ms",
}
_POINTS = 256  # of a curve: engine.curve_points
_ARRAY = "101"  # the job id that the stand-in for sbatch gives first


@dataclass(frozen=True)
class Size:
    """seeds: of the sweep, times 5 widths, 10 learning rates and 2 parametrizations. per_pack: trials of a pack."""

    seeds: int = 100
    per_pack: int = 10

    @property
    def trials(self) -> int:
        return 100 * self.seeds

    @property
    def packs(self) -> int:
        return self.trials // self.per_pack

    def command(self, results: Path) -> list[str]:
        """Of `study`, after which every pack is a task of a job array."""
        return [
            "study=quickstart",
            "study.sweep.workload.width=[16,24,32,48,64]",
            "study.sweep.optimizer.learning_rate={log2: [-9, -4.5, 0.5]}",
            f"study.sweep.seed={{range: [0, {self.seeds - 1}]}}",
            "study.also=[]",
            "hydra/launcher=slurm",
            "cluster=cpu",
            "cluster.task_min=0",
            "engine.devices=2",
            f"engine.pack_size={self.per_pack}",
            f"results='{results}'",
        ]


def measure(setup: Setup, size: Size = Size(), points: int = _POINTS) -> Section:
    return section_of(
        size, points, [_measured(setup, size, points, turn) for turn in range(min(setup.rounds, _ROUNDS))]
    )


def section_of(size: Size, points: int, answers: Sequence[dict[str, float]]) -> Section:
    """The section of what `run` returned, round by round."""
    section = Section("scale", f"a study of {size.trials} trials in {size.packs} packs, one array task each")

    def add(name: str, unit: str, key: str, target: Target | None = None) -> None:
        section.add(name, unit, [answer[key] for answer in answers], target)

    add(f"plan, pack and write the manifest of {size.trials} trials", "s", "submit", Target("at most", SUBMIT))
    add("plan ...: processor time", "s", "submit_cpu")
    add("the manifest", "MB", "manifest_mb")
    for option, unit in UNITS.items():
        add(MEASURES[option], unit, option)
    add(f"status of {size.trials} trials, half of them recorded", "s", "status", Target("at most", STATUS))
    add("status: processor time", "s", "status_cpu")
    add(f"merge {size.packs} pack files", "s", "merge", Target("at most", MERGE))
    add("merge: processor time", "s", "merge_cpu")
    add("trials lost by any of it", "trials", "lost", Target("exactly", 0.0))
    _add_simulation(section)
    section.notes += [
        "plan ...: `study` with hydra/launcher=slurm as a whole, in a fresh process after its imports, until sbatch has "
        "the array; sbatch, squeue and sacct are scripts that answer at once",
        f"status: `study status` as a whole; every recorded pack is a file, a quarter of the tasks runs, {size.packs} lines "
        "of squeue",
        f"merge: of {size.packs} files of {size.per_pack} trials and of {size.packs} files of their curves, {points} points "
        "each; trials.parquet written",
        "processor time: of this process, which another program's load hardly changes",
        "the others are what `study simulate measured=...` reads",
    ]
    return section


def _add_simulation(section: Section) -> None:
    """A million trials on a thousand GPUs, with what was just measured."""
    medians = {measure.name: measure.median for measure in section.measures}
    costs = {option: medians[name] for option, name in MEASURES.items()}
    found: list[dict[str, Any]] = []
    seconds = timed(lambda: found.append(simulated(Options(**costs))))
    content, name = found[0], "1,000,000 trials on 1,000 GPUs, simulated"
    section.add(f"{name}: time to simulate", "s", [seconds], Target("at most", SIMULATION))
    lost = content["packs"] - content["finished_packs"] + content["doubled_packs"]
    section.add(f"{name}: packs lost or doubled", "packs", [lost], Target("exactly", 0.0))
    section.add(f"{name}: makespan", "h", [content["makespan_h"]])
    section.add(f"{name}: useful GPU time", "%", [100 * content["utilisation"]])
    section.notes.append(f"simulated: the bottleneck is '{content['bottleneck']}': {content['advice']}")


def _measured(setup: Setup, size: Size, points: int, turn: int) -> dict[str, Any]:
    with Worker("tests.bench.scale", setup.environment) as worker:
        root = setup.folder / f"scale_{turn}"
        return worker.ask(seeds=size.seeds, per_pack=size.per_pack, points=points, root=str(root))


def run(size: Size, points: int, root: Path) -> dict[str, float]:
    """Submit the study, look at it half trained, merge it whole. submit, status, merge: seconds."""
    (root / "bin").mkdir(parents=True)
    slurm = FakeSlurm(root / "bin")
    os.environ["PATH"] = f"{slurm.folder}:{os.environ['PATH']}"
    command = size.command(root)
    submit, submit_cpu = _timed(lambda: _call(command))
    store = Store(root / "quickstart")
    store.merge_above = 10 * size.packs  # that it merges by itself is not what is measured
    (folder,) = submissions(store.root)
    started = time.perf_counter()
    manifest = read(folder / NAME)
    reading = time.perf_counter() - started
    packs = [pack.trial_ids for pack in manifest.packs]
    half = len(packs) // 2
    append = timed(lambda: _record(store, packs[:half], points))
    look = timed(store.finished)
    states = ["RUNNING"] * (half // 2) + ["PENDING"] * (len(packs) - half - half // 2)
    lines = [f"{_ARRAY}|{half + i}|{state}|0|None|n{i}\n" for i, state in enumerate(states)]
    slurm.say("squeue", "".join(lines))
    status, status_cpu = _timed(lambda: _call(["status", *command]))
    _record(store, packs[half:], points)
    merge, merge_cpu = _timed(store.compact)
    look_merged = timed(store.finished)
    return {
        "start_s": timed(lambda: subprocess.run([sys.executable, "-c", f"import {training.__name__}"], check=True)),
        "plan_us": 1e6 * submit / size.trials,
        "read_us": 1e6 * reading / size.trials,
        "look_ms": 1e3 * look / half,
        "look_us": 1e6 * look_merged / size.trials,
        "append_ms": 1e3 * append / half,
        "merge_ms": 1e3 * merge / size.packs,
        "submit": submit,
        "submit_cpu": submit_cpu,
        "manifest_mb": (folder / NAME).stat().st_size / 1e6,
        "status": status,
        "status_cpu": status_cpu,
        "merge": merge,
        "merge_cpu": merge_cpu,
        "lost": float(_lost(size, manifest, Store(store.root))),
    }


def _lost(size: Size, manifest: Manifest, store: Store) -> int:
    """Trials that are not planned, or have no record or no curve at the end."""
    planned = {trial for pack in manifest.packs for trial in pack.trial_ids}
    curves = set(store.curves()["trial"].unique().to_pylist())
    return size.trials - len(planned & store.finished() & curves)


def _call(words: Sequence[str]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.run(study.main, words)
    if code:
        raise RuntimeError(f"study {' '.join(words)} ended with code {code}: {printed.getvalue()}")


def _record(store: Store, packs: Sequence[Sequence[str]], points: int) -> None:
    """A file of rows and a file of curves for every pack, as the engine writes them."""
    random = np.random.default_rng(0)
    for index, trials in enumerate(packs):
        rows = [row(index, random) | {"trial": trial} for trial in trials]
        store.append(rows, {trial: curve(random, points) for trial in trials})


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process's processors."""
    before = time.process_time()
    seconds = timed(call)
    return seconds, time.process_time() - before


def main() -> None:
    def answer(question: dict[str, Any]) -> dict[str, Any]:
        """{seeds, per_pack, points, root} -> what `run` returns."""
        size = Size(question["seeds"], question["per_pack"])
        return run(size, question["points"], Path(question["root"]))

    serve(answer)


if __name__ == "__main__":
    main()
