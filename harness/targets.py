"""Set a workload's targets as AlgoPerf does: tune four algorithms, run the best one again, take the median.

    python -m harness.targets workload=ctr
    python -m harness.targets workload=ctr algorithms=adamw,nadamw,nesterov,momentum points=20 seeds=5
    python -m harness.targets workload=ctr variant=layernorm
    python -m harness.targets workload=language_model fields.width=64 steps=400 on=loss relax=0.01 out=my_targets
    python -m harness.targets workload=ctr hit_only=true seeds=20

workload: a family; variant: one of its named modifications, which may be drawn as a held-out workload; fields.NAME: other
settings. steps: the horizon (default: the family's own). algorithms: of the registry, each with as many quasi-random points of
its search space. on: metric, or loss where the metric is too coarse; tuning looks at it, too. relax: share by which the target
is made easier (of the median's distance from the trivial predictor, or where that is unknown of its size).

The validation target is the median of the best configuration's seeds, the test target the worst test value of the half that met
it. Targets are in steps, which no device changes. How likely a run is to hit them is measured on as many further seeds
(hit_seeds), on which that configuration trains as in a competition: hit_probability is the share that reach the validation
target at any of the evaluations that harness.compete looks at, hit_bests the best value of each. In files without hit_seeds it
is the share of the seeds that set the target, of which half or more reach their own median, whatever others would do.
hit_only=true measures it for targets that are set (of `workload`, or else all in OUT), on the first `seeds` further seeds, and
changes nothing else in their files.

Trials are recorded under results/targets; writes OUT/<workload>.json, or OUT/<workload>_<variant>.json. OUT is out=DIR, by
default conf/targets, where `python -m harness.compete` finds the targets of the embedded workloads; it takes those of another
folder with targets=DIR. A file with the targets of other fields, steps, or another metric is never replaced.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import cli
from harness.config import CONFIG_DIR, WORKLOADS, schema
from harness.engine.environment import code_version
from harness.goals import Goal, goal_of, read_goal, read_goals
from harness.judging.contest import Arena, Rows, Setting, Tuned, tune
from harness.optimizers.user import is_file
from harness.records.files import read_json, write_json
from harness.registry import nearest
from harness.rulesets import ExternalTuning, trial_of
from harness.submissions import Submission, load_submission
from harness.transfer.plain import plain
from harness.trial import Trial
from harness.workplace import HELP, Workplace, split_words
from workloads.base import BadInput, Workload

ALGORITHMS = "adamw,nadamw,nesterov,momentum"
_EVALUATIONS = 10  # in a horizon of those that set a target, which looks at its end
_FIRST_FURTHER = 500  # seeds from here on measure hit probabilities; those that set targets, and compete's, are others
_SATURATED = 1e-3  # share of the way to the best possible metric that a target leaves


@dataclass
class TargetsConfig:
    workload: str = ""
    variant: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    steps: int | None = None
    algorithms: str = ALGORITHMS
    points: int = 20
    seeds: int = 5
    on: str = "metric"
    relax: float = 0.0
    hit_only: bool = False
    out: str = ""


_OF_THE_FILE = ("fields", "steps", "algorithms", "points", "on", "relax")


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, TargetsConfig, HELP))
        return 0
    config = cli.parse(split_words(argv)[0], TargetsConfig)
    _check(config)
    folder = Path(config.out or CONFIG_DIR / "targets").resolve()
    # a job goes on from a copy of the code, whose conf/ is not this one
    words = [*(word for word in argv if not word.startswith("out=")), f"out={folder}"]
    if config.hit_only:
        names = [_name(config)] if config.workload else list(read_goals(folder))
        goals = {path: read_goal(path) for path in (folder / f"{name}.json" for name in names)}
        _check_writable(folder)
        place = Workplace.of("targets", words, "targets")
        return place.run(lambda: _measure(goals, config.seeds, place))
    workload = _workload(config)
    names = list(dict.fromkeys(word.strip() for word in config.algorithms.split(",") if word.strip()))
    if not names or any(is_file(name) for name in names):
        raise BadInput(f"algorithms={config.algorithms} must name registered optimizers, e.g. algorithms={ALGORITHMS}")
    methods = [load_submission(name) for name in names]
    setting = Setting(workload, config.steps or workload.default_steps)
    path = folder / f"{_name(config)}.json"
    _check_replaced(path, setting, config.on)
    _check_writable(folder)
    chunks = min(_EVALUATIONS, setting.steps)
    arena = Arena({workload.name: [setting]}, config.points, 1, config.seeds, chunks=chunks, on=config.on)
    place = Workplace.of("targets", words, "targets")
    return place.run(lambda: _set(config, methods, arena, path, place))


def _check(config: TargetsConfig) -> None:
    """Raise BadInput on words that cannot be meant."""
    if config.on not in ("metric", "loss"):
        raise BadInput(f"on={config.on} must be metric or loss")
    if config.points < 2 or config.seeds < 2:
        raise BadInput(f"points={config.points} and seeds={config.seeds} must be at least 2")
    if not 0 <= config.relax < 1:
        raise BadInput(f"relax={config.relax} is a share of what the targets ask for and must lie in [0, 1)")
    if config.steps is not None and config.steps < 1:
        raise BadInput(f"steps={config.steps} must be at least 1")
    if config.workload or not config.hit_only:
        _family(config)
    elif config.variant:
        raise BadInput(f"variant={config.variant} needs its workload=NAME, too")
    default = TargetsConfig()
    said = [name for name in _OF_THE_FILE if getattr(config, name) != getattr(default, name)]
    if config.hit_only and said:
        raise BadInput(f"hit_only=true trains what the file of targets says; leave out {'=, '.join(said)}=")


def _check_writable(folder: Path) -> None:
    """Make the folder and try it. Raises BadInput where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"cannot write targets to {folder}: {error.strerror}; write them elsewhere with out=DIR, where python -m "
            "harness.compete finds them with targets=DIR"
        ) from None


def _check_replaced(path: Path, setting: Setting, on: str) -> None:
    """Say whose targets will be replaced. Raises BadInput if they are of other fields, steps or metric."""
    if not path.exists():
        return
    goal = read_goal(path)
    old, new = _described(Setting(goal.workload, goal.steps), goal.on), _described(setting, on)
    changed = [f"{key} {old.get(key)} (not {new.get(key)})" for key in old | new if old.get(key) != new.get(key)]
    if changed:
        raise BadInput(
            f"{path} holds the targets of {', '.join(changed)}; write these elsewhere with out=DIR, where python -m "
            "harness.compete finds them with targets=DIR"
        )
    print(f"replaces {path}: {goal.metric} {goal.validation_target:.5g}, set by {goal.algorithm}")


def _described(setting: Setting, on: str) -> dict[str, Any]:
    """What a target is of."""
    workload = setting.workload
    own = {f.name: getattr(workload, f.name) for f in fields(workload)}  # type: ignore[arg-type]
    metric = "loss" if on == "loss" else workload.metric.name
    return {"workload": workload.name, **own, "steps": setting.steps, "metric": metric}


def _set(config: TargetsConfig, methods: Sequence[Submission], arena: Arena, path: Path, place: Workplace) -> int:
    """Tune, train again on fresh seeds, measure the hit probability on others, write the targets."""
    tuned = tune(methods, arena, place.train)
    rows = place.train([trial for one in tuned for trial in one.trials])
    found: dict[str, Any] = {"workload": config.workload, "variant": config.variant or None}
    found |= targets(tuned, rows, config.on, config.relax)
    goal = goal_of(found, path)
    trials = further_trials(goal, config.seeds)
    found |= hits(goal, trials, place.train(trials))
    place.settle("the targets")
    goal = _written(path, found)
    if config.on == "metric" and found["oracle"] is not None:
        left = abs(found["oracle"] - goal.validation_target) / abs(found["oracle"] - found["trivial"])
        if left < _SATURATED:
            print(
                f"that is the best possible {goal.metric} ({found['oracle']:.5g}); on=loss sets a target that tells more"
            )
    return 0


def _measure(goals: Mapping[Path, Goal], count: int, place: Workplace) -> int:
    """The hit probabilities of targets that are set, into their files."""
    trials = {path: further_trials(goal, count) for path, goal in goals.items()}
    rows = place.train([trial for mine in trials.values() for trial in mine])
    place.settle("the hit probabilities")
    for path, goal in goals.items():
        _written(path, read_json(path) | hits(goal, trials[path], rows))
    return 0


def _written(path: Path, found: Mapping[str, Any]) -> Goal:
    goal = goal_of(found, path)
    write_json(path, found)
    print(f"{path}: validation target {goal.validation_target:.5g}, reached by {goal.reached_by}")
    return goal


def further_trials(goal: Goal, count: int) -> list[Trial]:
    """What set the targets, as a competition trains it, on `count` seeds that did not set them."""
    further = (seed for seed in itertools.count(_FIRST_FURTHER) if seed not in goal.seeds)
    submission = load_submission(goal.algorithm)
    return [
        trial_of(submission, goal, ExternalTuning(), goal.configuration, seed)
        for seed in itertools.islice(further, count)
    ]


def hits(goal: Goal, trials: Sequence[Trial], rows: Rows) -> dict[str, Any]:
    """How many of these trials reach the validation target at any evaluation, plain JSON types, and what measured it."""
    bests = [_value(rows[trial.id], f"best_{goal.on}") for trial in trials]
    return {
        "hit_probability": sum(map(goal.met_by, bests)) / len(bests),
        "hit_seeds": [trial.seed for trial in trials],
        "hit_bests": plain(bests),
        "hit_code": code_version(),
        "hit_date": datetime.now(UTC).date().isoformat(),
    }


def _family(config: TargetsConfig) -> type[Workload]:
    if not config.workload:
        raise BadInput(f"name a workload: workload=NAME, one of {', '.join(WORKLOADS)}")
    cls = WORKLOADS[config.workload]
    if config.variant and config.variant not in cls.variants:
        raise BadInput(f"{cls.name} has no variant '{config.variant}'. {nearest(config.variant, list(cls.variants))}")
    return cls


def _name(config: TargetsConfig) -> str:
    return f"{config.workload}_{config.variant}" if config.variant else config.workload


def _workload(config: TargetsConfig) -> Workload:
    cls = _family(config)
    node = OmegaConf.structured(schema(cls, named=False))  # type: ignore[arg-type]
    try:
        for key, value in [*cls.variants.get(config.variant, {}).items(), *config.fields.items()]:
            OmegaConf.update(node, key, value)
        values = OmegaConf.to_container(node)
    except OmegaConfBaseException as error:
        raise BadInput(f"fields: {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    workload = cls(**{str(key): value for key, value in values.items()})
    workload.validate()
    return workload


def targets(tuned: Sequence[Tuned], rows: Rows, on: str, relax: float) -> dict[str, Any]:
    """The targets of one setting with their provenance, plain JSON types; how likely they are hit is yet to be measured.

    Raises BadInput if every algorithm diverged.
    """
    workload, steps = tuned[0].setting.workload, tuned[0].setting.steps
    minimize = on == "loss" or workload.metric.direction == "minimize"
    finals = {one.method.name: [_value(rows[t.id], f"final_{on}") for t in one.trials] for one in tuned}
    middle = {name: _median(values, minimize) for name, values in finals.items()}
    usable = {name: value for name, value in middle.items() if math.isfinite(value)}
    if not usable:
        raise BadInput(f"every algorithm diverged on {workload.name}; widen their search spaces or set more points")
    best = (min if minimize else max)(usable, key=usable.__getitem__)
    trivial = workload.trivial_metric() if on == "metric" else None
    slack = relax * abs(usable[best] - trivial if trivial is not None else usable[best])
    target = usable[best] + slack if minimize else usable[best] - slack
    chosen = next(one for one in tuned if one.method.name == best)

    def met(value: float) -> bool:
        return value <= target if minimize else value >= target

    tests = [_value(rows[t.id], f"test_{on}") for t in chosen.trials if met(_value(rows[t.id], f"final_{on}"))]
    result: dict[str, Any] = plain(
        {
            "workload": workload.name,
            "fields": {key: value for key, value in chosen.trials[0].config().items() if key.startswith("workload.")},
            "steps": steps,
            "metric": "loss" if on == "loss" else workload.metric.name,
            "direction": "minimize" if minimize else "maximize",
            "validation_target": target,
            "test_target": (max if minimize else min)(tests),
            "relax": relax,
            "trivial": workload.trivial_metric(),
            "oracle": workload.oracle_metric(),
            "algorithm": best,
            "algorithms": {
                one.method.name: {
                    "configuration": dict(one.best),
                    "at_edge": dict(one.edges),
                    "finals": finals[one.method.name],
                    "tests": [_value(rows[trial.id], f"test_{on}") for trial in one.trials],
                    "gap_closed": _gap_closed(
                        [_value(rows[trial.id], "final_metric") for trial in one.trials], workload
                    ),
                }
                for one in tuned
            },
            "points": len(chosen.points),
            "seeds": [trial.seed for trial in chosen.trials],
            "code": code_version(),
            "date": datetime.now(UTC).date().isoformat(),
        }
    )
    return result


def _gap_closed(metrics: Sequence[float], workload: Workload) -> float:
    """Share of the way from the trivial to the best possible predictor's metric that the median seed went; NaN: not known."""
    trivial, oracle = workload.trivial_metric(), workload.oracle_metric()
    if trivial is None or oracle is None:
        return math.nan
    return (_median(metrics, workload.metric.direction == "minimize") - trivial) / (oracle - trivial)


def _value(row: Mapping[str, Any], column: str) -> float:
    value = row[column]
    return math.nan if value is None else float(value)


def _median(values: Sequence[float], minimize: bool) -> float:
    """Of an even number the worse of the two in the middle; NaN if half or more are."""
    finite = sorted((value for value in values if math.isfinite(value)), reverse=not minimize)
    lost = len(values) - len(finite)
    middle = len(values) // 2
    return finite[middle] if middle < len(finite) and lost < len(values) / 2 else math.nan


if __name__ == "__main__":
    sys.exit(cli.run(main))
