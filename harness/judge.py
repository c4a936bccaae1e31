"""Judge an optimizer: is it faster than equally tuned baselines, on which workloads, and does the gain survive scale?

    python -m harness.judge optimizer=my_optimizer.py:make
    python -m harness.judge optimizer=lion baselines=adamw,nadamw profile=standard
    python -m harness.judge optimizer=my_optimizer.py:make space=space.yaml workloads=language_model points=16 studies=5
    python -m harness.judge optimizer=lion profile=full hydra/launcher=slurm cluster=gpu     # trains as SLURM job arrays

optimizer: FILE.py:FUNCTION, a function (learning_rate, b1=0.9, ...) that returns an optax transformation, or a registered
name. baselines: registered names; the first is what speed-ups are over. space: YAML of the optimizer's search space, such as
`learning_rate: {log: [1e-4, 1e-1]}` (default: by its family, and of that the profile's axes), or a list of its points: of
one, such as `[{learning_rate: 1.0}]`, for an optimizer that tunes itself. profile: quick (10 minutes on 2 CPU cores),
standard, full, or a YAML file like conf/judge/quick.yaml. workloads: which of the profile's. points, studies: instead of the
profile's. relax: the target is the loss that all runs of the best baseline that set it reach, times 1 + relax.
hyperparameter_free: also train every method with one configuration for all workloads: its literature's default, where there is
one (of a user's function: where learning_rate has a default), and one calibrated on the other workloads. target_params,
target_tokens, target_batch: the run to be decided about (tokens it sees, and in a step): what the joint law says of it, and
what share of the model's FLOPs the optimizer's own would be there.

At every workload, width and horizon every method goes through as many studies: each draws its own quasi-random points, as many
for all, and trains the best again on a fresh seed, and only these report. So intervals know of the luck of tuning, too. Targets
are set by further runs of the baselines, which are not scored. The optimizer and the first baseline also train at learning
rates around their best, at every width: does it carry over, and what does a wrong one cost? Trials are recorded under
results/<name>: the same command goes on where it stopped.
Writes judge.json, scores.json, report.html, and step_seconds.json, by which steps are timed once only. Exit code 1: the
optimizer is slower than the first baseline.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from harness import cli
from harness.config import CONFIG_DIR, WORKLOADS, schema
from harness.judging.contest import Arena, Setting, tune
from harness.judging.findings import TARGET_SEEDS, judge, target_runs, timed
from harness.judging.fixed import fixed_runs
from harness.judging.rates import OCTAVES, sweeps
from harness.judging.sections import sections_of
from harness.judging.target import Target
from harness.records.files import write_json
from harness.records.store import Store
from harness.registry import nearest
from harness.report.document import write_document
from harness.report.terminal import print_section
from harness.submissions import Submission, load_submission
from harness.tuning import DEFAULT_AXES, Points, Space, default_space
from harness.workplace import HELP, Workplace, split_words
from workloads.base import BadInput

PROFILES = ("quick", "standard", "full")


@dataclass
class JudgeConfig:
    optimizer: str = ""
    baselines: str = "adamw,nadamw"
    space: str = ""
    profile: str = "quick"
    workloads: str = ""
    points: int | None = None
    studies: int | None = None
    relax: float = 0.01
    hyperparameter_free: bool = False
    target_params: float | None = None
    target_tokens: float | None = None
    target_batch: float | None = None
    name: str = ""


@dataclass
class Entrant:
    """One workload of a profile: its widths, horizons in steps, and other fields.

    rate_widths: at which learning rates are swept, three or more for a verdict (default: widths).
    """

    workload: str = ""
    widths: list[int] = field(default_factory=list)
    rate_widths: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Profile:
    """axes: of default search spaces, those that are searched (none named: all); a space of one's own is searched whole."""

    axes: list[str] = field(default_factory=list)
    points: int = 8
    studies: int = 3
    workloads: list[Entrant] = field(default_factory=list)


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, JudgeConfig, HELP))
        return 0
    config = cli.parse(split_words(argv)[0], JudgeConfig)
    if not (math.isfinite(config.relax) and config.relax >= 0):
        raise BadInput(f"relax={config.relax} is how much easier targets are made, as a share of the loss: 0 or more")
    profile = _profile(config.profile)
    methods = [_searched(method, profile.axes) for method in _methods(config)]
    arena = _arena(config, profile)
    arena.validate(methods)
    if config.hyperparameter_free and len(arena.settings) < 2:
        raise BadInput("hyperparameter_free=true calibrates on the other workloads, so it takes at least two")
    _target(config)
    which = "" if config.profile == JudgeConfig.profile else f"_{Path(config.profile).stem}"
    name = config.name or "judge_" + "".join(c if c.isalnum() else "_" for c in methods[-1].name) + which
    place = Workplace.of("judge", argv, name)
    print(_plan(methods, arena, place.store))
    return place.run(lambda: _judge(config, methods, arena, place))


def _judge(config: JudgeConfig, methods: Sequence[Submission], arena: Arena, place: Workplace) -> int:
    """Tune, train again on fresh seeds and around the best learning rates, judge, report; returns the exit code."""
    store = place.store
    tuned = tune(methods, arena, place.train)
    around = sweeps(tuned, arena, (methods[0].name, methods[-1].name))
    fixed = fixed_runs(tuned, arena, place.train) if config.hyperparameter_free else []
    fresh = [trial for one in tuned for trial in one.trials]
    swept = [trial for sweep in around for trial in sweep.trials.values()]
    aims = target_runs(tuned, arena)
    aimed = [trial for trials in aims.values() for trial in trials]
    rows = place.train([*fresh, *aimed, *swept, *(trial for one in fixed for trial in one.trials)])
    place.settle("step times and the report", measures=not place.is_timed(timed(tuned)))
    times = place.step_times(timed(tuned))
    curves = store.curves([trial.id for trial in fresh])
    found = judge(tuned, rows, curves, times, aims, config.relax, around, fixed, _target(config))
    store.compact()
    sections = sections_of(found)
    write_json(store.root / "judge.json", found.to_json())
    write_json(store.root / "scores.json", found.scores.to_json())
    for section in sections:
        print_section(replace(section, text=""))
    command = "python -m harness.judge " + shlex.join(place.arguments)
    print(write_document(store.root, f"Judging {methods[-1].name}", found.lead, sections, command), file=sys.stderr)
    return int(found.overall.verdict == "slower")


def _target(config: JudgeConfig) -> Target | None:
    """The run to be decided about, if one is named. Raises BadInput on half of one."""
    given = {key: getattr(config, f"target_{key}") for key in ("params", "tokens", "batch")}
    if all(value is None for value in given.values()):
        return None
    for key, value in given.items():
        if value is None or not (math.isfinite(value) and value > 0):
            raise BadInput(
                f"target_{key}={value} must be a positive number; target_params, target_tokens and target_batch (tokens a "
                "step) go together, e.g. target_params=7e9 target_tokens=1.4e11 target_batch=4e6"
            )
    return Target(**given)


def _methods(config: JudgeConfig) -> list[Submission]:
    """The baselines, then the optimizer that is judged."""
    if not config.optimizer:
        raise BadInput(
            "name the optimizer to judge: optimizer=FILE.py:FUNCTION or a registered name, e.g. optimizer=lion"
        )
    names = [word.strip() for word in config.baselines.split(",") if word.strip()]
    if not names:
        raise BadInput("baselines= names none; speed-ups need one, e.g. baselines=adamw")
    found = [load_submission(name) for name in dict.fromkeys(names)]
    for one in found:
        if sum(one.name == other.name for other in found) > 1:
            raise BadInput(f"two baselines are called {one.name}; name each once, or rename one's file or function")
    judged = load_submission(config.optimizer, config.space)
    while judged.name in {method.name for method in found}:
        judged = replace(judged, name=f"{judged.name} (judged)")
    return [*found, judged]


def _searched(method: Submission, axes: Sequence[str]) -> Submission:
    """With these axes of its space alone, if that is the default one. Raises BadInput on axes that no default space has."""
    known = ["learning_rate", *DEFAULT_AXES]
    for name in axes:
        if name not in known:
            raise BadInput(f"axes: no default search space has '{name}'. {nearest(name, known)}")
    if axes and "learning_rate" not in axes:
        raise BadInput("axes: learning_rate is not among them; every method tunes it")
    if not axes or method.space != default_space(method.optimizer()):
        return method
    assert isinstance(method.space, Space)
    return replace(method, space=Space({name: axis for name, axis in method.space.axes.items() if name in axes}))


def _arena(config: JudgeConfig, profile: Profile) -> Arena:
    if not profile.workloads:
        raise BadInput(f"profile '{config.profile}' has no workloads; write it like conf/judge/quick.yaml")
    chosen = [word.strip() for word in config.workloads.split(",") if word.strip()]
    known = [entrant.workload for entrant in profile.workloads]
    for name in known:
        if known.count(name) > 1:
            raise BadInput(
                f"profile '{config.profile}' has workload {name} twice; give its widths and steps in one entry"
            )
    for name in chosen:
        if name not in known:
            raise BadInput(f"workload '{name}' is not in profile '{config.profile}'. {nearest(name, known)}")
    settings = {e.workload: _settings(e) for e in profile.workloads if not chosen or e.workload in chosen}
    points = profile.points if config.points is None else config.points
    studies = profile.studies if config.studies is None else config.studies
    if points < 2 or studies < 2:
        raise BadInput(f"points={points} and studies={studies} must be at least 2")
    widths = {entrant.workload: entrant.rate_widths or entrant.widths for entrant in profile.workloads}
    return Arena(settings, points, studies, rate_widths=widths)


def _profile(name: str) -> Profile:
    path = CONFIG_DIR / "judge" / f"{name}.yaml" if name in PROFILES else Path(name)
    if not path.is_file():
        raise BadInput(
            f"there is no profile '{name}'. {nearest(name, PROFILES)} Or give a YAML file like conf/judge/quick.yaml."
        )
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Profile), yaml.safe_load(path.read_text())))
    except Exception as error:  # YAML and OmegaConf have many
        raise BadInput(f"{path}: {str(error).splitlines()[0]}; write it like conf/judge/quick.yaml") from None
    assert isinstance(found, Profile)
    return found


def _settings(entrant: Entrant) -> list[Setting]:
    """Every width at every horizon; the largest width at the longest horizon comes first, where it is scored."""
    cls = WORKLOADS[entrant.workload]
    if not entrant.widths or len(set(entrant.steps)) < 3 or min(entrant.steps) < 1:
        raise BadInput(
            f"workload {entrant.workload}: give widths and at least three horizons (steps, 1 or more), for the baseline's law"
        )
    node = OmegaConf.structured(schema(cls, named=False))  # type: ignore[arg-type]
    try:
        values = OmegaConf.to_container(OmegaConf.merge(node, entrant.fields))
    except Exception as error:
        raise BadInput(f"workload {entrant.workload}: {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    workload = cls(**{str(key): value for key, value in values.items()})
    return [
        Setting(workload.replace(width=width), steps)
        for width in sorted(set(entrant.widths), reverse=True)
        for steps in sorted(set(entrant.steps), reverse=True)
    ]


def _plan(methods: Sequence[Submission], arena: Arena, store: Store) -> str:
    settings = len(arena.all)
    tuned = [len(m.space.listed) if isinstance(m.space, Points) else arena.points for m in methods]
    tuning, fresh = sum(tuned) * settings * arena.studies, len(methods) * settings * arena.studies
    fresh += (len(methods) - 1) * len(arena.settings) * arena.studies * TARGET_SEEDS
    widths = sum(len(arena.rate_widths[name]) for name in arena.settings)
    around = 2 * widths * len(OCTAVES) * arena.studies
    lists = {method.name: len(method.space.listed) for method in methods if isinstance(method.space, Points)}
    free = "".join(f"; {name} lists {count} of its own" for name, count in lists.items())
    return (
        f"{', '.join(method.name for method in methods)} at {settings} settings of {', '.join(arena.settings)}: {tuning} "
        f"trials to tune{free}, {fresh} on fresh seeds, {around} at other learning rates, and a quarter more tuning for each "
        f"edge of an axis where an optimum lies; records in {store.root}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
