"""Train submissions as AlgoPerf does, on the embedded workloads, and score them by the time to each workload's target.

    python -m harness.compete submissions=adamw,nadamw,nesterov workloads=ctr,graph
    python -m harness.compete submissions=adamw,my_optimizer.py:make studies=5 trials=5 held_out_seed=3
    python -m harness.compete submissions=my_optimizer.py:make,adamw ruleset=self_tuning
    python -m harness.compete submissions=adamw,lion targets=my_targets             # set by harness.targets out=my_targets
    python -m harness.compete submissions=adamw,lion hydra/launcher=slurm cluster=gpu   # trains as a SLURM job array

submissions: registered optimizers, FILE.py:FUNCTION, or FILE.py with the functions of an AlgoPerf submission
(init_optimizer_state, update_params, …), which is run step by step, unpacked. ruleset: external_tuning (each study draws
`trials` quasi-random points from the submission's search space, others than targets were set with) or self_tuning (one trial a
study with the one point that the submission lists, or its literature's default). targets: the folder that `python -m
harness.targets workload=NAME out=FOLDER` wrote (default: conf/targets, those of the embedded workloads); all of its files are
taken, and none of another folder. workloads: of the targets (default: all). held_out_seed: draws one variant of each workload
that has targets for some; who misses it loses the workload; null: none. relax: share by which targets are made easier: they are
medians of well-tuned runs, of which about half miss them. test_curve: look at the test split at every evaluation, not only
after training, so that the time to the test target is reported, too; it counts for nothing, and evaluating takes as much longer
as the test split is larger.

No run is longer than 4/3 of the one that targets were set with (self_tuning: twice as long). Packed trials are timed by
the mean time of a step of the submission's best trial, trained again alone on this device, compilation excluded; equal programs
have one time. What took longer than the longest run allows of the reference's steps, and 5% for noise, does not count. An
AlgoPerf submission's own time holds what starting every step costs, and so does its limit, 1.5 times the reference's time with
steps started one by one; enter its baselines in that form, or compare it in steps. What it raises in the middle breaks a run
off; what that reached before counts.
Steps are timed once, step_seconds.json keeps their times; a batch size of a submission's own makes other steps, which are
counted in those of the workload's batch size. Trials are recorded under results/<name>: the same command goes on where it
stopped. Writes submissions.csv and targets.json, which `python -m harness.score logs=results/<name>` reads, the scores, and
report.html; steps/ holds the scores in steps.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import algoperf, cli, score
from harness.config import CONFIG_DIR
from harness.engine.cost import StepTime
from harness.goals import Goal, drawn, read_goals
from harness.records.curves import evaluations
from harness.records.files import atomic_write_bytes, own_folder, write_json
from harness.records.store import Store
from harness.report.document import Section, Table
from harness.report.terminal import print_section
from harness.rulesets import FIRST_POINTS, RULESETS, Ruleset, evaluations_of, trial_of
from harness.scoring import RULES
from harness.scoring.hits import first_hit
from harness.scoring.targets import Workloads
from harness.submissions import Submission, load_submission
from harness.trial import Trial
from harness.workplace import HELP, Workplace, split_words
from workloads.base import BadInput

_NOISE = (
    1.05  # in the limit of packed trials, of which some plan for all of it: step times measured again differ that much
)
_SLACK = 1.5  # in the limit of runs that take no turns with the reference: seconds of a shared machine differ that much


@dataclass
class CompeteConfig:
    submissions: str = ""
    ruleset: str = "external_tuning"
    trials: int | None = None
    studies: int | None = None
    workloads: str = ""
    held_out_seed: int | None = 0
    targets: str = ""
    relax: float = 0.0
    test_curve: bool = False
    rules: str = "exact"
    name: str = "competition"


Entrant = Submission | algoperf.AlgoPerfSubmission


@dataclass(frozen=True)
class Entry:
    """One trial's row of the table that scores are made from: the evaluation that met the target (negative, infinite: none).

    time_to_target_s is infinite, too, if that was later than the longest run allows. Steps are of the workload's batch size.
    test_target_met: at its end; None where an error left nothing to look at. steps_to_test_target, time_to_test_target_s: None
    where the test split was looked at after training only. error: what a submission raised in the middle of training.
    time_rel_stderr: relative standard error of the step time behind the seconds, measured once for all of a workload's trials.
    """

    submission: str
    study: str
    workload: str
    trial: str
    hit_eval_index: int
    time_to_target_s: float
    steps_to_target: float
    test_target_met: bool | None
    steps_to_test_target: float | None = None
    time_to_test_target_s: float | None = None
    error: str = ""
    time_rel_stderr: float = 0.0


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, CompeteConfig, HELP))
        return 0
    config = cli.parse(split_words(argv)[0], CompeteConfig)
    _check(config)
    entrants = _entrants(config)
    ruleset = _ruleset(config)
    goals = read_goals(Path(config.targets) if config.targets else CONFIG_DIR / "targets")
    bases = _words(config.workloads) or [name for name, goal in goals.items() if not goal.base]
    goals = {name: goal.relaxed(config.relax) for name, goal in goals.items()}
    workloads, columns = drawn(goals, bases, config.held_out_seed)
    place = Workplace.of("compete", argv, config.name)
    print(_plan(entrants, ruleset, workloads, place.store))

    def stages() -> int:
        entries = _entries(entrants, ruleset, columns, place, config.test_curve)
        _write(place.store.root, entries, workloads, goals, config)
        print_section(_reached(entries, columns))
        _score(place.store.root, config.rules)
        return 0

    return place.run(stages)


def _entries(
    entrants: Sequence[Entrant], ruleset: Ruleset, columns: Sequence[Goal], place: Workplace, test_curve: bool
) -> list[Entry]:
    """Train every trial that is not recorded; the rows of all of them."""
    packed = [one for one in entrants if isinstance(one, Submission)]
    trials = {
        (one.name, goal.name, study, index): trial_of(one, goal, ruleset, values, _seed(study, index), test_curve)
        for one in packed
        for goal in columns
        for study in range(ruleset.studies)
        for index, values in enumerate(ruleset.points(one, study))
    }
    runs = [
        run
        for one in entrants
        if isinstance(one, algoperf.AlgoPerfSubmission)
        for run in _runs(one, ruleset, columns, place.store, test_curve)
    ]
    references = {
        goal.name: trial_of(load_submission(goal.algorithm), goal, ruleset, goal.configuration, 0) for goal in columns
    }
    for reference in references.values():
        reference.validate()
    rows = place.train(list(trials.values())) if trials else {}
    alike: dict[tuple[str, str], list[Trial]] = {}
    for (name, column, *_), trial in trials.items():
        alike.setdefault((name, column), []).append(trial)
    timed = {
        goal.name: [[references[goal.name]], *(alike[one.name, goal.name] for one in packed)]
        for goal in (columns if packed else ())
    }
    left = [run for run in runs if not algoperf.is_logged(run.task, run.folder)]
    what = f"{len(left)} AlgoPerf-style runs, " if left else ""
    loose = {f"{name}, step by step": [[reference]] for name, reference in references.items()} if runs else {}
    place.settle(f"{what}step times and the scores", measures=bool(left) or not place.is_timed(timed | loose))
    times = place.step_times(timed)
    entries = _packed(trials, rows, {goal.name: goal for goal in columns}, ruleset, times, place, test_curve)
    slow = place.step_times(loose, lambda trials: [StepTime(seconds) for seconds in algoperf.step_seconds(trials)])
    for run in runs:
        (step,) = slow[f"{run.goal.name}, step by step"]
        entries.append(_unpacked(run, _SLACK * ruleset.longest(run.goal.steps) * step.seconds, test_curve))
    return entries


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _entrants(config: CompeteConfig) -> list[Entrant]:
    words = _words(config.submissions)
    if not words:
        raise BadInput("name the submissions: submissions=adamw,my_optimizer.py:make")
    found: list[Entrant] = []
    for word in words:
        one = algoperf.load(Path(word)) if _is_algoperf(word) else load_submission(word)
        if one.name in {other.name for other in found}:
            raise BadInput(
                f"two submissions are called {one.name}; enter each once, or rename one's file (or function)"
            )
        found.append(one)
    return found


def _check(config: CompeteConfig) -> None:
    """Raise BadInput on words that would be found wrong only after training."""
    if not 0 <= config.relax < 1:
        raise BadInput(f"relax={config.relax} is a share of what the targets ask for and must lie in [0, 1)")
    if config.held_out_seed is not None and config.held_out_seed < 0:
        raise BadInput(f"held_out_seed={config.held_out_seed} must be 0 or more, or null for no held-out variants")
    RULES[config.rules]


def _is_algoperf(word: str) -> bool:
    return word.endswith(".py") and algoperf.is_algoperf_style(Path(word))


def _ruleset(config: CompeteConfig) -> Ruleset:
    asked = {"trials": config.trials, "studies": config.studies}
    ruleset = RULESETS[config.ruleset](**{key: value for key, value in asked.items() if value is not None})
    for key in asked:
        if getattr(ruleset, key) < 1:
            raise BadInput(f"{key}={getattr(ruleset, key)} must be at least 1")
    return ruleset


def _plan(entrants: Sequence[Entrant], ruleset: Ruleset, workloads: Workloads, store: Store) -> str:
    trials = len(entrants) * len(workloads.columns) * ruleset.studies * ruleset.trials
    held_out = f"; held out: {', '.join(workloads.held_out)}" if workloads.held_out else "; no variant held out"
    return (
        f"{', '.join(one.name for one in entrants)} under {ruleset.name} on {', '.join(workloads.base)}{held_out}: "
        f"{ruleset.studies} studies of {ruleset.trials} trials, {trials} in all; records in {store.root}"
    )


def _seed(study: int, trial: int) -> int:
    """Every submission sees the same initialisation and batches in the same trial of the same study."""
    return 1000 * (study + 1) + trial


Key = tuple[str, str, int, int]  # submission, column, study, number of the trial


def _packed(
    trials: Mapping[Key, Trial],
    rows: Mapping[str, Mapping[str, Any]],
    goals: Mapping[str, Goal],
    ruleset: Ruleset,
    times: Mapping[str, Sequence[StepTime]],
    place: Workplace,
    test_curve: bool,
) -> list[Entry]:
    """Of recorded trials. times: of a step, column -> of the algorithm that set its target, then of each submission."""
    if not trials:
        return []
    recorded = place.store.curves(rows)
    looked_at = [("eval", on) for on in ("loss", "metric")] + [
        ("probe.test", on) for on in ("loss", "metric") if test_curve
    ]
    curves = {(split, on): evaluations(recorded, f"{split}_{on}") for split, on in looked_at}
    place.store.compact()
    names = list(dict.fromkeys(name for name, *_ in trials))
    entries = []
    for (name, column, study, index), trial in trials.items():
        goal = goals[column]
        reference, *all_own = times[column]
        own = all_own[names.index(name)]
        final = rows[trial.id][f"test_{goal.on}"]
        steps, values = curves["eval", goal.on].get(trial.id, (np.zeros(0), np.zeros(0)))
        seen = Seen(
            steps=steps,
            seconds=steps * own.seconds,
            values=values,
            tests=curves["probe.test", goal.on].get(trial.id, (steps, values))[1] if test_curve else None,
            final_test=math.nan if final is None else final,
            batch_size=trial.workload.batch_size,
        )
        longest = _NOISE * ruleset.longest(goal.steps) * reference.seconds
        entry = _entry(name, study, index, goal, seen, longest)
        entries.append(replace(entry, time_rel_stderr=own.rel_stderr))
    return entries


@dataclass(frozen=True)
class AlgoPerfRun:
    """A run of an AlgoPerf-style submission, which is logged under `folder`."""

    task: algoperf.Task
    folder: Path
    study: int
    index: int
    goal: Goal


def _runs(
    submission: algoperf.AlgoPerfSubmission, ruleset: Ruleset, columns: Sequence[Goal], store: Store, test_curve: bool
) -> list[AlgoPerfRun]:
    found = []
    place = own_folder(store.root / "logs") / submission.name
    for goal in columns:
        for study in range(ruleset.studies):
            for index, values in enumerate(_points(submission, ruleset, study)):
                steps = ruleset.longest(goal.steps)
                task = algoperf.Task(
                    submission,
                    goal.workload,
                    values,
                    steps,
                    evaluations_of(steps * goal.workload.batch_size, goal),
                    _seed(study, index),
                    test_curve=test_curve,
                    stretch=ruleset.stretch,
                )
                folder = place / f"study_{study + 1}" / f"{goal.name}_jax" / f"trial_{index + 1}"
                found.append(AlgoPerfRun(task, folder, study, index, goal))
    return found


def _unpacked(one: AlgoPerfRun, longest: float, test_curve: bool) -> Entry:
    """Run it, for at most `longest` seconds, unless it is logged."""
    name, goal = one.task.submission.name, one.goal
    run = algoperf.logged(replace(one.task, max_seconds=longest), one.folder, goal.workload.metric.name)
    which = f"{name} on {goal.name}, study {one.study + 1}, trial {one.index + 1}"
    print(f"{which}: {run.steps} steps{', broken off: ' if run.error else ''}{run.error}", flush=True)
    return _entry(name, one.study, one.index, goal, _seen(run, goal.on, test_curve), longest)


def _points(submission: algoperf.AlgoPerfSubmission, ruleset: Ruleset, study: int) -> list[dict[str, float]]:
    """Hyperparameters of a study's trials, from the search space beside the file; none for a self-tuning submission."""
    if ruleset.name == "self_tuning":
        return [{} for _ in range(ruleset.trials)]
    path = submission.path.parent / algoperf.SPACE_FILE
    if not path.is_file():
        raise BadInput(
            f"{submission.path.name} has no {path.name} beside it, from which external tuning draws hyperparameters; add one, "
            "or use ruleset=self_tuning"
        )
    return algoperf.read_points(path, ruleset.trials, FIRST_POINTS + study)


@dataclass(frozen=True)
class Seen:
    """What a trial's evaluations found, (n,) each. seconds: up to each. tests: None where only final_test was looked at.
    final_test: None where an error left nothing to look at.
    """

    steps: np.ndarray
    seconds: np.ndarray
    values: np.ndarray
    tests: np.ndarray | None
    final_test: float | None
    batch_size: int
    error: str = ""


def _seen(run: algoperf.Run, on: str, test_curve: bool) -> Seen:
    columns = {
        name: np.array([getattr(one, name) for one in run.evaluations], np.float64)
        for name in ("step", "seconds", on, f"test_{on}")
    }
    tests = columns[f"test_{on}"]
    tested = run.test_loss if on == "loss" else run.test_metric
    return Seen(
        columns["step"],
        columns["seconds"],
        columns[on],
        tests if test_curve else None,
        tested,
        run.batch_size,
        run.error,
    )


def _entry(name: str, study: int, index: int, goal: Goal, seen: Seen, longest: float = math.inf) -> Entry:
    """longest: seconds after which a target is no longer met."""
    share = seen.batch_size / goal.workload.batch_size

    def first(values: np.ndarray, target: float) -> tuple[int, float, float]:
        hit = first_hit(values, seen.seconds, target, goal.direction)
        return (
            hit.index,
            share * float(seen.steps[hit.index]) if hit.met else math.inf,
            hit.time if hit.time <= longest else math.inf,
        )

    hit, steps, seconds = first(seen.values, goal.validation_target)
    _, test_steps, test_seconds = (None, None, None) if seen.tests is None else first(seen.tests, goal.test_target)
    met = None
    if seen.final_test is not None:
        met = first_hit(np.array([seen.final_test]), np.zeros(1), goal.test_target, goal.direction).met
    return Entry(
        submission=name,
        study=f"study_{study + 1}",
        workload=goal.name,
        trial=f"trial_{index + 1}",
        hit_eval_index=hit,
        time_to_target_s=seconds,
        steps_to_target=steps,
        test_target_met=met,
        steps_to_test_target=test_steps,
        time_to_test_target_s=test_seconds,
        error=seen.error,
    )


def _write(
    root: Path, entries: Sequence[Entry], workloads: Workloads, goals: Mapping[str, Goal], config: CompeteConfig
) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, [f.name for f in fields(Entry)])
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    atomic_write_bytes(root / score.OWN_TRIALS, table.getvalue().encode())
    content: dict[str, Any] = {
        "benchmark_version": f"windtunnel, {config.ruleset}",
        "base_workloads": list(workloads.base),
        "held_out_workloads": list(workloads.held_out),
        "held_out_seed": config.held_out_seed,
        "relaxed_by": config.relax,
        "workloads": {name: goals[name].to_json() for name in workloads.columns},
    }
    write_json(root / score.OWN_TARGETS, content)


def _reached(entries: Sequence[Entry], columns: Sequence[Goal]) -> Section:
    """How many trials reached the targets, and who reached one that only the validation data can explain."""
    rows, odd = [], []
    with_curves = any(entry.steps_to_test_target is not None for entry in entries)
    for name in dict.fromkeys(entry.submission for entry in entries):
        for goal in columns:
            mine = [entry for entry in entries if (entry.submission, entry.workload) == (name, goal.name)]
            hits = [entry for entry in mine if entry.hit_eval_index >= 0]
            looked = [entry.test_target_met for entry in hits if entry.test_target_met is not None]
            fastest = min((entry.steps_to_target for entry in hits), default=math.inf)
            to_test = [entry.steps_to_test_target for entry in mine if entry.steps_to_test_target is not None]
            cells = (f"{len(hits)} of {len(mine)}", f"{sum(looked)} of {len(looked)}", fastest)
            rows.append((name, goal.name, *cells, *([min(to_test, default=math.inf)] if with_curves else [])))
            if len(looked) >= 3 and not any(looked):
                odd.append(f"{name} on {goal.name}")
    header = (
        "submission",
        "workload",
        "trials that met the validation target",
        "of these the test target at the end",
        "fewest steps",
        *(["fewest steps to the test target"] if with_curves else []),
    )
    text = "Only the validation target counts for the score."
    if not with_curves:
        text += " The test target is looked at after training; test_curve=true looks at every evaluation."
    if odd:
        text += f" Met in validation and never in test, as if trained on the validation data: {', '.join(odd)}."
    blind = [entry for entry in entries if entry.hit_eval_index >= 0 and entry.test_target_met is None]
    if blind:
        names = ", ".join(dict.fromkeys(entry.submission for entry in blind))
        text += f" {len(blind)} runs met the validation target and left nothing to look at in test: {names}."
    broken = [entry for entry in entries if entry.error]
    warnings = (
        [f"{len(broken)} runs were broken off by what their submission raised, for one: {broken[0].error}"]
        if broken
        else []
    )
    facts = tuple(
        (
            goal.name,
            f"{goal.metric} {goal.validation_target:.5g}, reached by {goal.reached_by}",
        )
        for goal in columns
    )
    tables = (Table("Targets reached", header, tuple(rows)),)
    return Section("Targets", text, facts, tables, warnings=tuple(warnings))


def _score(root: Path, rules: str) -> None:
    words = [f"logs={root}", f"rules={rules}"]
    score.main([*words, f"out={root}"])
    print("\nIn steps:")
    score.main([*words, "columns.time_to_target_s=steps_to_target", f"out={root / 'steps'}"])


if __name__ == "__main__":
    sys.exit(cli.run(main))
