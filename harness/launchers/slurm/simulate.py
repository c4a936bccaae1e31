"""`study simulate`: how a study of any size would run on a cluster of any size. Nothing is trained or submitted.

    python -m harness.study simulate trials=1000000 gpus=1000 steps=10000 step_ms=5.2
    python -m harness.study simulate study=lr_width cluster=gpu trials=1000000 gpus=1000 preemptions=0.2
    python -m harness.study simulate measured=results/bench-scale/bench.json,results/bench/bench.json step='width 128: engine'

With study=NAME (and study.*, cluster.*, engine.* as the study takes them) the packs and their seconds are those of its plan,
repeated until there are as many trials; task_min, max_tasks, time_min, signal_s, retries and task_gpus are its cluster's.
Otherwise a pack takes pack_trials x steps x step_ms. measured: bench.json files, with commas: of `make bench-scale`, from
which all that windtunnel itself costs is taken; and with step=MEASURE one that has such a step time, taken for step_ms.
It prints where GPU time goes and what would break first; out=DIR writes simulation.json. A "GPU" is any device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from harness import cli
from harness.config import StudyConfig, compose_study
from harness.launchers.slurm.simulation import Outcome, Site, grouped, simulate
from harness.launchers.slurm.tasks import cluster_of, plan_tasks
from harness.records.files import read_json, write_json
from harness.records.store import Store
from harness.registry import nearest
from harness.sweep import flatten, points_of, trials_of
from workloads.base import BadInput

FILE = "simulation.json"
_MS = {"s": 1e3, "ms": 1.0, "us": 1e-3}
_FILES = 500  # of one kind before a writer merges them (Store.merge_above)
_FOLDER = 10_000  # files that network file systems still list quickly
_SHARE = 0.05  # of a pack's or task's time that looking and starting may take
_PATIENCE = 600.0  # seconds that a command may plan


@dataclass
class Options:
    """trials, pack_trials, steps, step_ms: the study, step_ms in milliseconds per step of one trial in a full pack.
    gpus: of the cluster. task_gpus: of a task. task_min: minutes of packs that share a task, which are merged further if
    there are more than max_tasks. time_min, signal_s, retries: see conf/cluster. launch_s: the controller's seconds per
    start. latency_s: until a started task runs. compile_s: per attempt. chunk_s: training between two moments at which a task
    can stop. checkpoint_s: to write one; checkpoint_overhead: the share of time they may take. preemptions, with grace_s of
    warning, and failures, without: per GPU-hour. requeue_s: until a requeued task may start. max_array: the site's
    MaxArraySize. start_s, plan_us, read_us, look_ms, look_us, append_ms, merge_ms: windtunnel's own costs: a process's start;
    planning and reading the manifest, per trial; looking at the records, per file and per trial; appending a pack, and merging
    it. seed: of the preemptions and failures.
    """

    trials: int = 1_000_000
    pack_trials: int = 64
    steps: int = 10_000
    step_ms: float = 5.0
    gpus: int = 1000
    task_gpus: int = 1
    task_min: float = 30.0
    max_tasks: int = 1000
    time_min: float = 240.0
    signal_s: float = 120.0
    retries: int = 2
    launch_s: float = 0.02
    latency_s: float = 2.0
    compile_s: float = 20.0
    chunk_s: float = 30.0
    checkpoint_s: float = 1.0
    checkpoint_overhead: float = 0.03
    preemptions: float = 0.05
    grace_s: float = 60.0
    failures: float = 0.002
    requeue_s: float = 120.0
    max_array: int = 1001
    start_s: float = 10.0
    plan_us: float = 500.0
    read_us: float = 10.0
    look_ms: float = 1.0
    look_us: float = 1.0
    append_ms: float = 20.0
    merge_ms: float = 5.0
    measured: str | None = None
    step: str | None = None
    seed: int = 0
    out: str | None = None


# What windtunnel costs: option -> the benchmark's measure.
MEASURES = {
    "start_s": "start of a worker",
    "plan_us": "plan, a trial",
    "read_us": "read the manifest, a trial",
    "look_ms": "look at the records, a file",
    "look_us": "look at the records, a trial",
    "append_ms": "append a pack",
    "merge_ms": "merge, a pack",
}


@dataclass(frozen=True)
class Plan:
    """Packs: seconds of training and numbers of trials, (n,) each. edges: the tasks. wanted: tasks without max_tasks."""

    seconds: np.ndarray
    trials: np.ndarray
    edges: list[int]
    wanted: int


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, Options))
        return 0
    names = {part.name for part in dataclasses.fields(Options)}
    own = [word for word in argv if word.partition("=")[0] in names]
    rest = [word for word in argv if word not in own]
    options = cli.parse(own if any(word.startswith("study=") for word in rest) else argv, Options)
    given = {word.partition("=")[0] for word in own}
    options = dataclasses.replace(options, **_not_given(_measured(options), given))
    config = compose_study(rest) if rest else None
    if config is not None:
        options = dataclasses.replace(options, **_not_given(_of_cluster(config), given))
    _check(options)
    packs = None
    if config is not None:
        packs = _study_packs(config, options.trials if "trials" in given else None)
        options = dataclasses.replace(options, trials=int(packs[1].sum()))
    content = simulated(options, packs)
    content["arguments"] = [word for word in argv if not word.startswith("out=")]
    show(Console(), content)
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(options.out) / FILE, content)
    return 0


def simulated(options: Options, packs: tuple[np.ndarray, np.ndarray] | None = None) -> dict[str, Any]:
    """simulation.json. packs: their seconds of training and numbers of trials; by default even ones, as the options say."""
    plan = _planned(*(packs or _even_packs(options)), options)
    return summary(options, plan, simulate(plan.seconds, plan.trials, plan.edges, site_of(options), options.seed))


def _not_given(values: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in given}


def _measured(options: Options) -> dict[str, float]:
    """The options that benchmarks tell. Raises BadInput if they do not tell the step time that is asked for."""
    found: dict[str, tuple[float, str]] = {}
    for path in options.measured.split(",") if options.measured else ():
        content = read_json(Path(path))
        try:
            measures = [measure for section in content["sections"] for measure in section["measures"]]
            found |= {str(measure["name"]): (float(measure["median"]), str(measure["unit"])) for measure in measures}
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"measured={path} is not a bench.json of `make bench` ({error}); write it again") from None
    told = {option: found[name][0] for option, name in MEASURES.items() if name in found}
    if options.step is not None:
        times = {name: median * _MS[unit] for name, (median, unit) in found.items() if unit in _MS}
        if options.step not in times:
            raise BadInput(f"measured={options.measured} has no time '{options.step}'. {nearest(options.step, times)}")
        told["step_ms"] = times[options.step]
    return told


def _of_cluster(config: DictConfig) -> dict[str, Any]:
    cluster = cluster_of(config)
    names = ("task_min", "max_tasks", "time_min", "signal_s", "retries")
    return {"task_gpus": max(1, cluster.gpus), **{name: getattr(cluster, name) for name in names}}


def _check(options: Options) -> None:
    least = {"trials": 1, "pack_trials": 1, "steps": 1, "gpus": 1, "task_gpus": 1, "max_tasks": 1, "max_array": 2}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            raise BadInput(f"{name}={getattr(options, name)} must be at least {bound}")
    for name in ("step_ms", "checkpoint_overhead"):
        if not getattr(options, name) > 0:
            raise BadInput(f"{name}={getattr(options, name)} must be positive")
    if options.gpus < options.task_gpus:
        raise BadInput(f"gpus={options.gpus} must be at least task_gpus={options.task_gpus}")


def _even_packs(options: Options) -> tuple[np.ndarray, np.ndarray]:
    count = -(-options.trials // options.pack_trials)
    trials = np.full(count, options.pack_trials)
    trials[-1] = options.trials - (count - 1) * options.pack_trials
    return trials * (options.steps * options.step_ms / 1e3 / options.task_gpus), trials


def _study_packs(config: DictConfig, wanted: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and trials of the packs of a study's sweep, repeated until there are `wanted` trials."""
    study: StudyConfig = OmegaConf.to_object(config.study)  # type: ignore[assignment]
    study.base = flatten(study.base)
    points = points_of(flatten(study.sweep), study.also)
    tasks, estimate, _ = plan_tasks(trials_of(study, points), config, Store(Path(config.results) / study.name))
    packs = [pack for task in tasks for pack in task]
    seconds, trials = np.array([pack.seconds for pack in packs]), np.array([len(pack.trials) for pack in packs])
    if estimate.guessed:
        print("nothing of this study is recorded yet: its packs' seconds are a guess (cluster.work_rate)")
    copies = 1 if wanted is None else -(-wanted // int(trials.sum()))
    return np.tile(seconds, copies), np.tile(trials, copies)


def _planned(seconds: np.ndarray, trials: np.ndarray, options: Options) -> Plan:
    target = min(options.task_min * 60.0, options.time_min * 60.0 - options.signal_s)
    wanted = len(grouped(seconds, target, len(seconds))) - 1
    return Plan(seconds, trials, grouped(seconds, target, options.max_tasks), wanted)


def site_of(options: Options) -> Site:
    """What the simulation is told."""
    every = max(options.chunk_s, options.checkpoint_s / options.checkpoint_overhead)
    return Site(
        slots=options.gpus // options.task_gpus,
        gpus=options.task_gpus,
        launch_s=options.launch_s,
        latency_s=options.latency_s,
        start_s=options.start_s + options.read_us * 1e-6 * options.trials,
        compile_s=options.compile_s,
        look_s=options.look_ms * 1e-3 * _FILES,
        look_row_s=options.look_us * 1e-6,
        record_s=(options.append_ms + options.merge_ms) * 1e-3,
        chunk_s=options.chunk_s,
        checkpoint_s=options.checkpoint_s,
        checkpoint_every_s=every,
        limit_s=options.time_min * 60.0,
        signal_s=options.signal_s,
        preemptions=options.preemptions,
        grace_s=options.grace_s,
        failures=options.failures,
        requeue_s=options.requeue_s,
        retries=options.retries,
    )


def summary(options: Options, plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """simulation.json. uses: shares of all the GPUs' time from the first start to the last end. limits: nearest first."""
    whole = outcome.makespan * (options.gpus // options.task_gpus) * options.task_gpus
    uses = {name: value / whole for name, value in {**outcome.spent, **outcome.idle}.items()}
    bottleneck = max((name for name in uses if name != "useful"), key=lambda name: uses[name])
    limits = sorted(_limits(options, plan, outcome), key=lambda limit: limit["trials"])
    return {
        "options": {key: value for key, value in dataclasses.asdict(options).items() if key != "out"},
        "trials": int(plan.trials.sum()),
        "packs": len(plan.seconds),
        "tasks": len(plan.edges) - 1,
        "finished_packs": int((outcome.finished == 1).sum()),
        "doubled_packs": int((outcome.finished > 1).sum()),
        "given_up_tasks": outcome.given_up,
        "attempts": dict(sorted(outcome.ended.items())),
        "makespan_h": outcome.makespan / 3600.0,
        "ideal_h": float(plan.seconds.sum()) / (options.gpus // options.task_gpus) / 3600.0,
        "gpu_hours": outcome.allocated / 3600.0,
        "utilisation": outcome.spent["useful"] / outcome.allocated,
        "uses": uses,
        "bottleneck": bottleneck,
        "advice": ADVICE[bottleneck],
        "plan_s": options.plan_us * 1e-6 * options.trials,
        "merge_s": options.merge_ms * 1e-3 * len(plan.seconds),
        "limits": limits,
    }


ADVICE = {
    "start": "fewer, longer tasks (task_min)",
    "compile": "fewer, longer tasks (task_min), and a compilation cache that all nodes share",
    "records": "larger packs (engine.pack_size)",
    "checkpoint": "rarer checkpoints (engine.checkpoint_overhead)",
    "lost": "shorter chunks (evaluations), or a longer warning before a preemption",
    "launching": "fewer, longer tasks (task_min), or a faster controller",
    "requeued": "a shorter wait before a requeued job starts again (AuthInfo=cred_expire)",
    "no work left": "more, shorter tasks (max_tasks, task_min), which end at about the same time",
}


def _limits(options: Options, plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
    """What may get too much, by how much it is here, the most it may be, and the number of trials at which it is (all else
    equal; null: it does not depend on it).
    """
    pack_s, task_s = float(plan.seconds.mean()), float(plan.seconds.sum()) / (len(plan.edges) - 1)
    starts = sum(outcome.ended.values()) / outcome.makespan
    constant = options.look_ms * 1e-3 * _FILES
    rows: list[
        tuple[str, str, float, float, float]
    ] = [  # what, unit, the part that grows with trials, limit, the fixed part
        ("array tasks of task_min each", "tasks", plan.wanted, min(options.max_tasks, options.max_array - 1), 0.0),
        ("planning", "s", options.plan_us * 1e-6 * options.trials, _PATIENCE, 0.0),
        ("a task reads the manifest", "s", options.read_us * 1e-6 * options.trials, _SHARE * task_s, 0.0),
        (
            "a task looks at the records, per pack",
            "s",
            options.look_us * 1e-6 * options.trials,
            _SHARE * pack_s,
            constant,
        ),
        ("merging every pack once", "s", options.merge_ms * 1e-3 * len(plan.seconds), _PATIENCE, 0.0),
        ("starts of tasks, with this number of GPUs", "1/s", 0.0, 1.0 / max(options.launch_s, 1e-9), starts),
        (
            "record files in a folder before they are merged",
            "files",
            0.0,
            _FOLDER,
            _FILES + options.gpus / options.task_gpus,
        ),
    ]

    def reached(grows: float, most: float, fixed: float) -> float:
        return options.trials * max(0.0, most - fixed) / grows if grows else math.inf

    return [
        {"what": what, "unit": unit, "here": grows + fixed, "limit": most, "trials": reached(grows, most, fixed)}
        for what, unit, grows, most, fixed in rows
    ]


def show(console: Console, content: Mapping[str, Any]) -> None:
    """Print simulation.json as tables."""
    console.print(
        f"{content['trials']} trials in {content['packs']} packs, {content['tasks']} tasks: {content['makespan_h']:.2f} h on "
        f"{content['options']['gpus']} GPUs ({content['ideal_h']:.2f} h if nothing were lost), "
        f"{content['gpu_hours']:.0f} GPU-hours, {100 * content['utilisation']:.1f}% of them useful",
        highlight=False,
    )
    ended = ", ".join(f"{count} {cause}" for cause, count in content["attempts"].items())
    console.print(f"attempts: {ended}; {content['given_up_tasks']} tasks given up", highlight=False)
    table = Table("GPU time", "share", title="Where GPU time goes")
    for name, share in content["uses"].items():
        table.add_row(name, f"{100 * share:.2f}%")
    console.print(table)
    console.print(f"bottleneck: {content['bottleneck']}; {content['advice']}", highlight=False)
    console.print(
        f"besides: planning {content['plan_s']:.0f} s, merging all records {content['merge_s']:.0f} s", highlight=False
    )
    table = Table("what grows", "here", "limit", "reached at, trials", title="What breaks first")
    for limit in content["limits"]:
        reached = limit["trials"]
        at = "-" if reached is None or math.isinf(reached) else f"{reached:.3g}"
        table.add_row(
            limit["what"], f"{limit['here']:.3g} {limit['unit']}", f"{limit['limit']:.3g} {limit['unit']}", at
        )
    console.print(table)
