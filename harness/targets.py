"""Set a workload's targets as AlgoPerf does: tune four algorithms, run the best one again, take the median.

    python -m harness.targets workload=image_mlp
    python -m harness.targets workload=ctr algorithms=adamw,nadamw,nesterov,momentum points=20 seeds=5
    python -m harness.targets workload=ctr variant=layernorm
    python -m harness.targets workload=language_model fields.width=64 steps=400 on=loss relax=0.01

workload: a family; variant: one of its named modifications, which may be drawn as a held-out workload; fields.NAME: other
settings. steps: the horizon (default: the family's own). algorithms: of the registry, each with as many quasi-random points of
its search space. on: metric, or loss where the metric is too coarse; tuning looks at it, too. relax: share by which the target
is made easier (of the median's distance from the trivial predictor, or where that is unknown of its size).

The validation target is the median of the best configuration's seeds, the test target the worst test value of the half that met
it. Targets are in steps, which no device changes; the hit probability says how many of the seeds reach the target, which for
an unrelaxed median is about half. Trials are recorded under results/targets; writes OUT/<workload>.json, or
OUT/<workload>_<variant>.json (out=DIR; default conf/targets). `python -m harness.compete` scores submissions by them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import cli
from harness.config import CONFIG_DIR, WORKLOADS, schema
from harness.engine.environment import code_version
from harness.judging.contest import Arena, Rows, Setting, Tuned, tune
from harness.optimizers.user import is_file
from harness.records.files import write_json
from harness.registry import nearest
from harness.submissions import Submission, load_submission
from harness.transfer.plain import plain
from harness.workplace import HELP, Workplace, split_words
from workloads.base import BadInput, Workload

ALGORITHMS = "adamw,nadamw,nesterov,momentum"
EVALUATIONS = 10  # in a horizon; targets look at its end
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
    out: str = ""


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, TargetsConfig, HELP))
        return 0
    config = cli.parse(split_words(argv)[0], TargetsConfig)
    if config.on not in ("metric", "loss"):
        raise BadInput(f"on={config.on} must be metric or loss")
    if config.points < 2 or config.seeds < 2:
        raise BadInput(f"points={config.points} and seeds={config.seeds} must be at least 2")
    if not 0 <= config.relax < 1:
        raise BadInput(f"relax={config.relax} is a share of what the targets ask for and must lie in [0, 1)")
    if config.steps is not None and config.steps < 1:
        raise BadInput(f"steps={config.steps} must be at least 1")
    workload = _workload(config)
    names = list(dict.fromkeys(word.strip() for word in config.algorithms.split(",") if word.strip()))
    if not names or any(is_file(name) for name in names):
        raise BadInput(f"algorithms={config.algorithms} must name registered optimizers, e.g. algorithms={ALGORITHMS}")
    methods = [load_submission(name) for name in names]
    setting = Setting(workload, config.steps or workload.default_steps)
    chunks = min(EVALUATIONS, setting.steps)
    arena = Arena({workload.name: [setting]}, config.points, config.seeds, chunks=chunks, on=config.on)
    place = Workplace.of("targets", argv, "targets")
    return place.run(lambda: _set(config, methods, arena, workload, place))


def _set(
    config: TargetsConfig, methods: Sequence[Submission], arena: Arena, workload: Workload, place: Workplace
) -> int:
    """Tune, train again on fresh seeds, write the targets."""
    tuned = tune(methods, arena, place.train)
    rows = place.train([trial for one in tuned for trial in one.trials])
    place.settle("the targets")
    found = targets(tuned, rows, config.on, config.relax)
    found = {"workload": workload.name, "variant": config.variant or None} | found
    name = f"{workload.name}_{config.variant}" if config.variant else workload.name
    path = Path(config.out or CONFIG_DIR / "targets") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    shown = f"{found['validation_target']:.5g} ({found['algorithm']}), hit by {found['hit_probability']:.0%}"
    print(f"validation target {shown}; {path}")
    if config.on == "metric" and found["oracle"] is not None:
        left = abs(found["oracle"] - found["validation_target"]) / abs(found["oracle"] - found["trivial"])
        if left < _SATURATED:
            print(
                f"that is the best possible {found['metric']} ({found['oracle']:.5g}); on=loss sets a target that tells more"
            )
    return 0


def _workload(config: TargetsConfig) -> Workload:
    if not config.workload:
        raise BadInput(f"name a workload: workload=NAME, one of {', '.join(WORKLOADS)}")
    cls = WORKLOADS[config.workload]
    if config.variant and config.variant not in cls.variants:
        raise BadInput(f"{cls.name} has no variant '{config.variant}'. {nearest(config.variant, list(cls.variants))}")
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
    """The targets of one setting with their provenance, plain JSON types. Raises BadInput if every algorithm diverged."""
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
    reached = [met(_value(rows[t.id], f"best_{on}")) for t in chosen.trials]
    result: dict[str, Any] = plain(
        {
            "workload": workload.name,
            "fields": {key: value for key, value in chosen.trials[0].config().items() if key.startswith("workload.")},
            "steps": steps,
            "metric": "loss" if on == "loss" else workload.metric.name,
            "direction": "minimize" if minimize else "maximize",
            "validation_target": target,
            "test_target": (max if minimize else min)(tests),
            "hit_probability": sum(reached) / len(reached),
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
