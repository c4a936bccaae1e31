"""What a contest found: from the fresh seeds' rows and curves to scores, speed-ups, laws and overheads.

A study's fresh run stands for all that the study did, so every interval over studies is over the luck of tuning, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from harness.engine.cost import StepTime
from harness.engine.update_flops import update_flops
from harness.judging.charged import Charged, charged
from harness.judging.contest import Arena, Rows, Setting, Tuned, best_of
from harness.judging.fixed import Fixed, Untuned, untuned
from harness.judging.joint import Joint, Point, fit_joint
from harness.judging.rates import Rates, Sweep, rates_of
from harness.judging.speedup import Losses, Overall, SpeedUp, overall, speed_ups, survives_scale
from harness.judging.target import AtTarget, Target, at_target
from harness.records.curves import Evaluations, evaluations
from harness.scoring import RULES, Scores, Trials, Workloads, leaderboard, study_times
from harness.scoring.hits import first_hit
from harness.transfer.plain import plain
from harness.trial import Trial
from workloads.base import BadInput

MOMENTS = (0.25, 0.5, 0.75, 1.0)  # shares of the horizon at which methods are ranked
EXTRAPOLATED = (1, 4, 16)  # times the largest size
FIRST_TARGET = 800  # of a setting's seeds, those from here on set its target
TARGET_SEEDS = 2  # of each study


@dataclass(frozen=True)
class Cost:
    """Of one step of a method. step: its time, isolated, on this device. flops_share: the optimizer's own FLOPs over 6 N x the
    batch's tokens. state: bytes of optimizer state over bytes of parameters.
    """

    step: StepTime
    flops_share: float
    state: float

    def to_json(self) -> dict[str, float]:
        return {**self.step._asdict(), "flops_share": self.flops_share, "state": self.state}


@dataclass(frozen=True)
class Goal:
    """Validation loss to reach on a workload, whose runs it is of, and the share of that baseline's scored runs that do."""

    loss: float
    baseline: str
    hit_probability: float


@dataclass(frozen=True)
class Verdict:
    """One workload: speed-ups at every size and horizon, over all of them, and with size."""

    workload: str
    sizes: tuple[tuple[SpeedUp, ...], ...]
    overall: Overall
    scale: tuple[str, str]
    joint: Joint | None
    note: str

    @property
    def speed_ups(self) -> tuple[SpeedUp, ...]:
        return tuple(one for size in self.sizes for one in size)


@dataclass(frozen=True)
class Findings:
    """tuned: every method at every setting. losses: (method, setting name) -> studies' final losses (K,), NaN: diverged.

    methods: the baselines first, the judged one last. moments: setting name -> (moments, methods, K) losses along the way.
    to_target: (method, workload) -> median over studies of the steps and the seconds to the target.
    """

    methods: tuple[str, ...]
    tuned: tuple[Tuned, ...]
    losses: Mapping[tuple[str, str], np.ndarray]
    verdicts: tuple[Verdict, ...]
    overall: Overall
    scores: Scores
    step_scores: Scores
    targets: Mapping[str, Goal]
    to_target: Mapping[tuple[str, str], tuple[float, float]]
    costs: Mapping[tuple[str, str], Cost]
    moments: Mapping[str, np.ndarray]
    rates: tuple[Rates, ...]
    untuned: Untuned | None
    target: Target | None
    at_target: tuple[AtTarget, ...]
    charged: tuple[Charged, ...]

    @property
    def judged(self) -> str:
        return self.methods[-1]

    @property
    def lead(self) -> str:
        return (
            f"{self.judged} against equally tuned {', '.join(self.methods[:-1])}: in steps to the loss of {self.methods[0]}, "
            f"{self.overall.verdict}. {self.overall.reason}"
        )

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = plain(
            {
                "judged": self.judged,
                "baselines": list(self.methods[:-1]),
                "overall": self.overall.to_json(),
                "workloads": {
                    one.workload: {
                        "overall": one.overall.to_json(),
                        "with_size": {"verdict": one.scale[0], "reason": one.scale[1]},
                        "speed_ups": [entry.to_json() for entry in one.speed_ups],
                        "joint_law": None if one.joint is None else one.joint.to_json(),
                        "joint_law_doubts": [] if one.joint is None else list(one.joint.doubts),
                        "note": one.note,
                    }
                    for one in self.verdicts
                },
                "targets": {name: vars(goal) for name, goal in self.targets.items()},
                "to_target": [
                    {"method": method, "workload": name, "steps": steps, "seconds": seconds}
                    for (method, name), (steps, seconds) in self.to_target.items()
                ],
                "scores_in_steps": self.step_scores.to_json(),
                "tuning": [
                    {
                        "method": one.method.name,
                        "setting": one.setting.name,
                        "best": dict(one.best),
                        "at_edge": dict(one.edges),
                        "studies": [[loss for _, loss in study.points] for study in one.studies],
                        "fresh_losses": self.losses[one.method.name, one.setting.name],
                    }
                    for one in self.tuned
                ],
                "tuning_charged": [one.to_json() for one in self.charged],
                "costs": {f"{method}, {setting}": cost.to_json() for (method, setting), cost in self.costs.items()},
                "target": None if self.target is None else vars(self.target),
                "at_target": [vars(one) for one in self.at_target],
                "learning_rates": [one.to_json() for one in self.rates],
                "hyperparameter_free": None if self.untuned is None else self.untuned.to_json(),
            }
        )
        return result


def judge(
    tuned: Sequence[Tuned],
    rows: Rows,
    curves: pa.Table,
    times: Mapping[str, Sequence[StepTime]],
    aims: Mapping[tuple[str, str], Sequence[Trial]],
    relax: float,
    sweeps: Sequence[Sweep] = (),
    fixed: Sequence[Fixed] = (),
    target: Target | None = None,
) -> Findings:
    """Everything that is reported, from fresh seeds.

    times: a step's, of each group of `timed`. aims: of `target_runs`; the target is what the worst of the best baseline's
    reaches, relaxed by this share. rows: also of the trials of aims, of sweeps (other learning rates) and of fixed (one
    configuration for all workloads).
    """
    methods = tuple(dict.fromkeys(one.method.name for one in tuned))
    losses = {
        (one.method.name, one.setting.name): np.array(
            [np.mean([_final(rows[trial.id]) for trial in study.trials]) for study in one.studies]
        )
        for one in tuned
    }
    sizes = {o.setting.workload: float(rows[o.trials[0].id]["params"]) for o in tuned}
    workloads = dict.fromkeys(one.setting.workload.name for one in tuned)
    rng = np.random.default_rng(0)
    verdicts = tuple(_verdict(name, methods, tuned, losses, sizes, rng) for name in workloads)
    evaluated = evaluations(curves, "eval_loss")
    scored = _scored(tuned)
    costs = {}
    for name, setting in scored.items():
        here = [one for one in tuned if one.setting == setting]
        for one, step in zip(here, times[name], strict=True):
            costs[one.method.name, setting.name] = _cost(one, sizes[setting.workload], step)
    targets = _targets(aims, rows, losses, methods, scored, relax)
    scores = _scores(tuned, scored, targets, evaluated, {key: cost.step for key, cost in costs.items()})
    step_scores = _scores(tuned, scored, targets, evaluated, _examples(tuned))
    asked = (
        [
            at_target(target, one.method.name, one.setting.workload, one.trials[0].optimizer, verdict.joint)
            for verdict in verdicts
            for one in tuned
            if one.setting == scored[verdict.workload]
        ]
        if target
        else []
    )
    return Findings(
        methods=methods,
        tuned=tuple(tuned),
        losses=losses,
        verdicts=verdicts,
        overall=_whole(verdicts, methods, tuned),
        scores=scores,
        step_scores=step_scores,
        targets=targets,
        to_target=_to_target(scores, step_scores),
        costs=costs,
        moments={s.name: _moments(methods, tuned, s, evaluated) for s in dict.fromkeys(o.setting for o in tuned)},
        rates=tuple(rates_of(sweep, rows) for sweep in sweeps),
        untuned=untuned(fixed, rows, _reference(losses, methods, scored), methods[-1]) if fixed else None,
        target=target,
        at_target=tuple(asked),
        charged=tuple(charged(tuned)),
    )


def target_runs(tuned: Sequence[Tuned], arena: Arena) -> dict[tuple[str, str], tuple[Trial, ...]]:
    """(baseline, workload) -> runs at the setting where it is scored that set its target: every study's best point on seeds
    that do not report. The last method is the judged one.
    """
    judged, scored = tuned[-1].method.name, _scored(tuned)
    return {
        (one.method.name, name): tuple(
            arena.trial(
                one.method, setting, study.points[0][0], setting.first_seed + FIRST_TARGET + TARGET_SEEDS * i + k
            )
            for i, study in enumerate(one.studies)
            for k in range(TARGET_SEEDS)
        )
        for name, setting in scored.items()
        for one in tuned
        if one.setting == setting and one.method.name != judged
    }


def timed(tuned: Sequence[Tuned]) -> dict[str, list[Sequence[Trial]]]:
    """Workload -> each method's trials at the setting where it is scored: their steps' times are compared."""
    return {name: [one.trials for one in tuned if one.setting == setting] for name, setting in _scored(tuned).items()}


def _scored(tuned: Sequence[Tuned]) -> dict[str, Setting]:
    """Workload -> where it is scored: its first setting."""
    found: dict[str, Setting] = {}
    for one in tuned:
        found.setdefault(one.setting.workload.name, one.setting)
    return found


def _reference(
    losses: Mapping[tuple[str, str], np.ndarray], methods: Sequence[str], scored: Mapping[str, Setting]
) -> dict[str, float]:
    """Workload -> the first baseline's median loss, or if it diverged the best baseline's, of those that have one."""
    found = {}
    for name, setting in scored.items():
        mine = {method: losses[method, setting.name] for method in methods[:-1]}
        first = mine[methods[0]]
        found[name] = first if np.isfinite(first).any() else mine[_best_baseline(mine)]
    return {name: float(np.nanmedian(values)) for name, values in found.items() if np.isfinite(values).any()}


def expected_best(one: Tuned) -> list[float]:
    """Expected best loss of k = 1, 2, ... points."""
    values = [loss for _, loss in one.points]
    return [best_of(values, k) for k in range(1, len(values) + 1)]


def _final(row: Mapping[str, Any]) -> float:
    value = row["final_loss"]
    return float(value) if row["status"] == "ok" and value is not None else math.nan


def _verdict(
    name: str,
    methods: Sequence[str],
    tuned: Sequence[Tuned],
    losses: Mapping[tuple[str, str], np.ndarray],
    sizes: Mapping[Any, float],
    rng: np.random.Generator,
) -> Verdict:
    """Speed-ups of the judged method over the first baseline on one workload."""
    settings = list(dict.fromkeys(one.setting for one in tuned if one.setting.workload.name == name))
    found: dict[str, tuple[SpeedUp, ...]] = {}
    notes = []
    for workload in dict.fromkeys(setting.workload for setting in settings):
        mine = sorted((s for s in settings if s.workload == workload), key=lambda s: s.steps)
        tokens = {(one.method.name, one.setting): float(one.tokens) for one in tuned}
        ours, baseline = (
            Losses(np.array([tokens[m, s] for s in mine]), np.stack([losses[m, s.name] for s in mine]))
            for m in (methods[-1], methods[0])
        )
        size = f"{sizes[workload]:,.0f} parameters"
        try:
            found[size] = tuple(speed_ups(sizes[workload], ours, baseline, rng))
        except BadInput as error:
            found[size] = ()
            notes.append(f"width {workload.width}: {error}")
    joint = None
    try:
        joint = fit_joint(_points(name, methods, tuned, losses, sizes), methods[0], rng)
    except BadInput as error:
        notes.append(f"joint law: {error}")
    whole = overall({size: [ups] for size, ups in found.items()})
    whole = _doubted(whole, methods, [one for one in tuned if one.setting.workload.name == name])
    scale = survives_scale([one for ups in found.values() for one in ups])
    return Verdict(name, tuple(found.values()), whole, scale, joint, "; ".join(notes))


def _points(
    name: str,
    methods: Sequence[str],
    tuned: Sequence[Tuned],
    losses: Mapping[tuple[str, str], np.ndarray],
    sizes: Mapping[Any, float],
) -> list[Point]:
    mine = [one for one in tuned if one.setting.workload.name == name]
    table = np.array([np.log(losses[one.method.name, one.setting.name]) for one in mine])
    spread = table[np.isfinite(table).all(axis=1)].var(axis=1, ddof=1)  # of studies
    noise = math.sqrt(float(spread.mean()) / table.shape[1]) if spread.size else math.nan
    return [
        Point(
            one.method.name,
            sizes[one.setting.workload],
            float(one.tokens),
            float(losses[one.method.name, one.setting.name].mean()),
            noise,
        )
        for one in mine
    ]


def _targets(
    aims: Mapping[tuple[str, str], Sequence[Trial]],
    rows: Rows,
    losses: Mapping[tuple[str, str], np.ndarray],
    methods: Sequence[str],
    scored: Mapping[str, Setting],
    relax: float,
) -> dict[str, Goal]:
    """Of every workload, from runs that are not scored: what the worst of the best baseline's reaches, relaxed.

    Without the workloads on which every baseline diverged; raises BadInput if these are all. At the median half of its runs,
    and of an equal's, would miss, and scores of few studies would be tosses of a coin.
    """
    found = {}
    for name, setting in scored.items():
        finals = {m: np.array([_final(rows[trial.id]) for trial in aims[m, name]]) for m in methods[:-1]}
        best = _best_baseline(finals)
        if np.isfinite(finals[best]).any():
            target = float(np.nanmax(finals[best])) * (1 + relax)
            found[name] = Goal(target, best, float(np.mean(losses[best, setting.name] <= target)))
    if not found:
        raise BadInput(f"every baseline diverged on {', '.join(scored)}; choose other baselines=, or set more points=")
    return found


def _best_baseline(finals: Mapping[str, np.ndarray]) -> str:
    """The one with the least median loss of those that have one; the first, if none has."""
    return min(finals, key=lambda name: np.nanmedian(finals[name]) if np.isfinite(finals[name]).any() else math.inf)


def _to_target(scores: Scores, step_scores: Scores) -> dict[tuple[str, str], tuple[float, float]]:
    """(method, workload) -> median over studies of the steps and the seconds to the target; infinite: missed."""
    return {
        (method, name): (float(step_scores.medians[i, c]), float(scores.medians[i, c]))
        for i, method in enumerate(scores.submissions)
        for c, name in enumerate(scores.base)
    }


def _whole(verdicts: Sequence[Verdict], methods: Sequence[str], tuned: Sequence[Tuned]) -> Overall:
    """Over all workloads; of one its own."""
    if len(verdicts) == 1:
        return verdicts[0].overall
    found = overall({one.workload: one.sizes for one in verdicts})
    untuned = [one.workload for one in verdicts if one.overall.doubted]
    if found.verdict == "mixed" and untuned:
        why = f"But on {', '.join(untuned)} the one that lost may not be tuned."
        return replace(found, verdict="undecided", reason=f"{found.reason} {why}", doubted=True)
    return _doubted(found, methods, tuned)


def _doubted(found: Overall, methods: Sequence[str], tuned: Sequence[Tuned]) -> Overall:
    """Undecided where the one that lost was not tuned to the end: its best learning rates lie at an end of their axis."""
    loser = {"faster": methods[0], "slower": methods[-1]}.get(found.verdict)
    stuck = [one.setting.name for one in tuned if one.method.name == loser and "learning_rate" in one.edges]
    if not stuck:
        return found
    why = f"best learning rates of {loser} lie at the end of their axis, extended as it was, at {', '.join(stuck)}"
    reason = f"{found.reason} But {why}: it may not be tuned."
    return replace(found, verdict="undecided", reason=reason, doubted=True)


def _examples(tuned: Sequence[Tuned]) -> dict[tuple[str, str], StepTime]:
    """(method, setting name) -> what a step counts as, in steps of the workload's batch size."""
    return {
        (one.method.name, one.setting.name): StepTime(
            one.trials[0].workload.batch_size / one.setting.workload.batch_size
        )
        for one in tuned
    }


def _scores(
    tuned: Sequence[Tuned],
    scored: Mapping[str, Setting],
    targets: Mapping[str, Goal],
    evaluated: Evaluations,
    times: Mapping[tuple[str, str], StepTime],
) -> Scores:
    """Time to target of every study, scored; times: of a step, or what it counts as."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("submission", "study", "workload", "trial", "hit_index", "seconds", "time_rel_stderr")
    }
    for one in tuned:
        name = one.setting.workload.name
        if name not in targets or one.setting != scored[name]:
            continue
        step = times[one.method.name, one.setting.name]
        for k, trial in enumerate(one.trials, 1):
            steps, values = evaluated.get(trial.id, (np.zeros(0), np.zeros(0)))
            hit = first_hit(values, steps * step.seconds, targets[name].loss, "minimize")
            entry = (one.method.name, f"study_{k}", name, "trial_1", hit.index, hit.time, step.rel_stderr)
            for key, value in zip(columns, entry, strict=True):
                columns[key].append(value)
    table = Trials(**{key: np.array(values) for key, values in columns.items()})
    rules = RULES["exact"]()
    baseline = tuned[0].method.name
    return leaderboard(study_times(table, Workloads(tuple(targets)), rules), rules, baseline=baseline)


def _cost(one: Tuned, size: float, step: StepTime) -> Cost:
    trial = one.trials[0]
    optimizer, workload = trial.optimizer, trial.workload
    params = jax.eval_shape(workload.init, jax.random.key(0))
    state = jax.eval_shape(optimizer.build(np.float32(optimizer.learning_rate)).init, params)
    bytes_of = [sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for tree in (state, params)]
    tokens = workload.batch_size * workload.tokens_per_example
    return Cost(step, update_flops(optimizer, params) / (6 * size * tokens), bytes_of[0] / bytes_of[1])


def _moments(methods: Sequence[str], tuned: Sequence[Tuned], setting: Setting, evaluated: Evaluations) -> np.ndarray:
    """(moments, methods, K) validation loss of every study at shares of the horizon; NaN where it has none."""
    runs = max(len(one.trials) for one in tuned if one.setting == setting)
    found = np.full((len(MOMENTS), len(methods), runs), np.nan)
    for one in tuned:
        if one.setting != setting:
            continue
        for i, share in enumerate(MOMENTS):
            for k, trial in enumerate(one.trials):
                steps, losses = evaluated.get(trial.id, (np.zeros(0), np.zeros(0)))
                at = np.flatnonzero(steps <= share * trial.horizon + 0.5)
                ended = steps.size and steps[-1] < trial.horizon and share * trial.horizon > steps[-1]  # it diverged
                found[i, methods.index(one.method.name), k] = losses[at[-1]] if at.size and not ended else np.nan
    return found
