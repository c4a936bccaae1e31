"""Train submissions as AlgoPerf does, on the embedded workloads, and score them by the time to each workload's target.

    python -m harness.compete submissions=adamw,nadamw,nesterov workloads=ctr,graph
    python -m harness.compete submissions=adamw,my_optimizer.py:make studies=5 trials=5 held_out_seed=3
    python -m harness.compete submissions=my_optimizer.py:make,adamw ruleset=self_tuning

submissions: registered optimizers, FILE.py:FUNCTION, or FILE.py with the functions of an AlgoPerf submission
(init_optimizer_state, update_params, …), which is run step by step, unpacked. ruleset: external_tuning (each study draws
`trials` quasi-random points from the submission's search space) or self_tuning (one trial a study with the submission's
defaults). workloads: those of the targets (default: all). held_out_seed: draws one variant of each workload that has targets
for some; who misses it loses the workload; null: none. targets: a folder that python -m harness.targets wrote. relax: share by
which they are made easier: they are medians of well-tuned runs, which half of these very runs miss.

No run is longer than 4/3 of the one that targets were set with (self_tuning: twice as long). Packed trials are timed by their
steps' isolated time on this device, compilation excluded; what took longer than the longest run allows of the reference's steps
does not count. An AlgoPerf submission's own time holds what starting every step costs; enter its baselines in that form, or
compare it in steps. Trials are recorded under results/<name>: the same command goes on where it stopped. Writes
submissions.csv and targets.json, which `python -m harness.score logs=results/<name>` reads, the scores, and report.html; steps/
holds the scores in steps.
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
from harness.budget import Budget
from harness.config import CONFIG_DIR
from harness.engine.cost import compare_step_seconds
from harness.goals import Goal, drawn, read_goals
from harness.optimizers.user import load_optimizer
from harness.parametrizations import PARAMETRIZATIONS
from harness.records.curves import evaluations
from harness.records.files import atomic_write_bytes, own_folder, write_json
from harness.records.store import Store
from harness.report.document import Section, Table
from harness.report.terminal import print_section
from harness.rulesets import RULESETS, Ruleset
from harness.scoring.hits import Hit, first_hit
from harness.scoring.targets import Workloads
from harness.session import Workplace
from harness.submissions import Submission, load_submission
from harness.trial import Trial
from workloads.base import BadInput

EVALUATIONS = 50  # at least, in the horizon that targets were set with
_TIMINGS = 10  # runs that a step time is the fastest of


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
    rules: str = "exact"
    name: str = "competition"
    results: str = "results"
    devices: int | None = None


Entrant = Submission | algoperf.AlgoPerfSubmission


@dataclass(frozen=True)
class Entry:
    """One trial's row of the table that scores are made from: the evaluation that met the target (negative, infinite: none).

    time_to_target_s is infinite, too, if that was later than the longest run allows. test_target_met: at its end.
    """

    submission: str
    study: str
    workload: str
    trial: str
    hit_eval_index: int
    time_to_target_s: float
    steps_to_target: float
    test_target_met: bool


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, CompeteConfig))
        return 0
    config = cli.parse(argv, CompeteConfig)
    entrants = _entrants(config)
    ruleset = _ruleset(config)
    goals = read_goals(Path(config.targets) if config.targets else CONFIG_DIR / "targets")
    bases = _words(config.workloads) or [name for name, goal in goals.items() if not goal.base]
    if not 0 <= config.relax < 1:
        raise BadInput(f"relax={config.relax} is a share of what the targets ask for and must lie in [0, 1)")
    goals = {name: goal.relaxed(config.relax) for name, goal in goals.items()}
    workloads, columns = drawn(goals, bases, config.held_out_seed)
    place = Workplace.of(config.results, config.name, config.devices)
    store = place.store
    print(_plan(entrants, ruleset, workloads, store))
    packed = [one for one in entrants if isinstance(one, Submission)]
    entries = _packed(packed, ruleset, columns, place) if packed else []
    for one in entrants:
        if isinstance(one, algoperf.AlgoPerfSubmission):
            entries += _unpacked(one, ruleset, columns, store)
    _write(store.root, entries, workloads, goals, config)
    print_section(_reached(entries, columns))
    _score(store.root, config.rules)
    return 0


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
            raise BadInput(f"two submissions are called {one.name}; enter each once, or give its function another name")
        found.append(one)
    return found


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


def trial_of(submission: Submission, goal: Goal, ruleset: Ruleset, values: Mapping[str, float], seed: int) -> Trial:
    """One training run under a ruleset. Batch sizes of a submission's own see as many examples."""
    workload = submission.workload(goal.workload)
    share = submission.horizon * goal.workload.batch_size / workload.batch_size
    steps = max(1, round(ruleset.longest(goal.steps) * share))
    return Trial(
        workload=workload,
        optimizer=submission.optimizer(**values),
        schedule=submission.schedule,
        parametrization=PARAMETRIZATIONS["sp"](),
        budget=Budget(steps=steps),
        seed=seed,
        evaluations=_evaluations(steps * workload.batch_size, goal),
    )


def _evaluations(examples: int, goal: Goal) -> int:
    return max(EVALUATIONS, round(EVALUATIONS * examples / (goal.steps * goal.workload.batch_size)))


def _seed(study: int, trial: int) -> int:
    """Every submission sees the same initialisation and batches in the same trial of the same study."""
    return 1000 * (study + 1) + trial


def _packed(
    submissions: Sequence[Submission], ruleset: Ruleset, columns: Sequence[Goal], place: Workplace
) -> list[Entry]:
    trials = {
        (one.name, goal.name, study, index): trial_of(one, goal, ruleset, values, _seed(study, index))
        for one in submissions
        for goal in columns
        for study in range(ruleset.studies)
        for index, values in enumerate(ruleset.points(one, study))
    }
    rows = place.train(list(trials.values()))
    recorded = place.store.curves(rows)
    curves = {on: evaluations(recorded, f"eval_{on}") for on in ("loss", "metric")}
    place.store.compact()
    seconds = _calibrated(submissions, trials, columns)
    entries = []
    for (name, column, study, index), trial in trials.items():
        goal = next(one for one in columns if one.name == column)
        steps, values = curves[goal.on].get(trial.id, (np.zeros(0), np.zeros(0)))
        step, reference = seconds[name, column], seconds["", column]
        hit = first_hit(values, steps * step, goal.validation_target, goal.direction)
        if hit.time > ruleset.longest(goal.steps) * reference:
            hit = replace(hit, time=math.inf)
        tested = rows[trial.id][f"test_{goal.on}"]
        entries.append(_entry(name, column, study, index, hit, steps, _met(tested, goal)))
    return entries


def _calibrated(
    submissions: Sequence[Submission], trials: Mapping[tuple[str, str, int, int], Trial], columns: Sequence[Goal]
) -> dict[tuple[str, str], float]:
    """(submission, column) -> isolated seconds of a step; ("", column) of the algorithm that set the target."""
    found: dict[tuple[str, str], float] = {}
    for goal in columns:
        first = {one.name: trials[one.name, goal.name, 0, 0] for one in submissions}
        reference = replace(
            next(iter(first.values())),
            workload=goal.workload,
            optimizer=load_optimizer(goal.algorithm)(**goal.configuration),
        )
        seconds = compare_step_seconds([reference, *first.values()], _TIMINGS)
        found |= {(name, goal.name): value for name, value in zip(("", *first), seconds, strict=True)}
    return found


def _unpacked(
    submission: algoperf.AlgoPerfSubmission, ruleset: Ruleset, columns: Sequence[Goal], store: Store
) -> list[Entry]:
    """An AlgoPerf-style submission, a run after the other. Its logs stay under logs/, where no finished run is repeated."""
    entries = []
    for goal in columns:
        for study in range(ruleset.studies):
            for index, values in enumerate(_points(submission, ruleset, study)):
                place = own_folder(store.root / "logs") / submission.name / f"study_{study + 1}"
                folder = place / f"{goal.name}_jax" / f"trial_{index + 1}"
                steps = ruleset.longest(goal.steps)
                task = algoperf.Task(
                    submission,
                    goal.workload,
                    values,
                    steps,
                    _evaluations(steps * goal.workload.batch_size, goal),
                    _seed(study, index),
                )
                run = algoperf.logged(task, folder, goal.workload.metric.name)
                taken = np.array([one.step for one in run.evaluations], np.float64)
                seconds = np.array([one.seconds for one in run.evaluations])
                reached = np.array([getattr(one, goal.on) for one in run.evaluations])
                hit = first_hit(reached, seconds, goal.validation_target, goal.direction)
                tested = run.test_loss if goal.on == "loss" else run.test_metric
                entries.append(_entry(submission.name, goal.name, study, index, hit, taken, _met(tested, goal)))
                print(
                    f"{submission.name} on {goal.name}, study {study + 1}, trial {index + 1}: {run.steps} steps",
                    flush=True,
                )
    return entries


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
    return algoperf.read_points(path, ruleset.trials, study)


def _met(value: float | None, goal: Goal) -> bool:
    if value is None or not math.isfinite(value):
        return False
    return value <= goal.test_target if goal.direction == "minimize" else value >= goal.test_target


def _entry(name: str, column: str, study: int, index: int, hit: Hit, steps: np.ndarray, tested: bool) -> Entry:
    return Entry(
        submission=name,
        study=f"study_{study + 1}",
        workload=column,
        trial=f"trial_{index + 1}",
        hit_eval_index=hit.index,
        time_to_target_s=hit.time,
        steps_to_target=float(steps[hit.index]) if hit.index >= 0 else math.inf,
        test_target_met=tested,
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
    for name in dict.fromkeys(entry.submission for entry in entries):
        for goal in columns:
            mine = [entry for entry in entries if (entry.submission, entry.workload) == (name, goal.name)]
            hits = [entry for entry in mine if entry.hit_eval_index >= 0]
            tested = sum(entry.test_target_met for entry in hits)
            fastest = min((entry.steps_to_target for entry in hits), default=math.inf)
            rows.append((name, goal.name, f"{len(hits)} of {len(mine)}", f"{tested} of {len(hits)}", fastest))
            if len(hits) >= 3 and not tested:
                odd.append(f"{name} on {goal.name}")
    header = (
        "submission",
        "workload",
        "trials that met the validation target",
        "of these the test target",
        "fewest steps",
    )
    text = "The test target is looked at after the end of training."
    if odd:
        text += f" Met in validation and never in test, as if trained on the validation data: {', '.join(odd)}."
    return Section("Targets", text, (), (Table("Targets reached", header, tuple(rows)),))


def _score(root: Path, rules: str) -> None:
    words = [f"logs={root}", f"rules={rules}"]
    score.main([*words, f"out={root}"])
    print("\nIn steps:")
    score.main([*words, "columns.time_to_target_s=steps_to_target", f"out={root / 'steps'}"])


if __name__ == "__main__":
    sys.exit(cli.run(main))
