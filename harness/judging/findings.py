"""What a contest found: from the fresh seeds' rows and curves to scores, speed-ups, laws and overheads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from harness.engine.cost import StepTime
from harness.engine.update_flops import update_flops
from harness.judging.charged import Charged, charged
from harness.judging.contest import Rows, Setting, Tuned, best_of
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
class Verdict:
    """One workload: speed-ups at every size and horizon, over all of them, and with size."""

    workload: str
    speed_ups: tuple[SpeedUp, ...]
    overall: Overall
    scale: tuple[str, str]
    joint: Joint | None
    note: str


@dataclass(frozen=True)
class Findings:
    """tuned: every method at every setting. losses: (method, setting name) -> fresh seeds' final losses (K,), NaN: diverged.

    methods: the baselines first, the judged one last. targets: workload -> (target, share of the first baseline's own runs that
    met it). moments: setting name -> (moments, methods) mean losses along the way.
    """

    methods: tuple[str, ...]
    tuned: tuple[Tuned, ...]
    losses: Mapping[tuple[str, str], np.ndarray]
    verdicts: tuple[Verdict, ...]
    overall: Overall
    scores: Scores
    step_scores: Scores
    targets: Mapping[str, tuple[float, float]]
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
                        "note": one.note,
                    }
                    for one in self.verdicts
                },
                "targets": {name: {"target": t, "hit_probability": p} for name, (t, p) in self.targets.items()},
                "tuning": [
                    {
                        "method": one.method.name,
                        "setting": one.setting.name,
                        "best": dict(one.best),
                        "at_edge": dict(one.edges),
                        "losses": [loss for _, loss in one.points],
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
    relax: float,
    sweeps: Sequence[Sweep] = (),
    fixed: Sequence[Fixed] = (),
    target: Target | None = None,
) -> Findings:
    """Everything that is reported, from fresh seeds. relax: how much easier than the best baseline's worst seed targets are.

    times: a step's, of each group of `timed`. rows: also of the trials of sweeps (other learning rates) and of fixed (one
    configuration for all workloads).
    """
    methods = tuple(dict.fromkeys(one.method.name for one in tuned))
    losses = {(o.method.name, o.setting.name): np.array([_final(rows[t.id]) for t in o.trials]) for o in tuned}
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
    targets = _targets(losses, methods, scored, relax)
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
        overall=overall([entry for one in verdicts for entry in one.speed_ups]),
        scores=_scores(tuned, scored, targets, evaluated, {key: cost.step for key, cost in costs.items()}),
        step_scores=_scores(tuned, scored, targets, evaluated, _examples(tuned)),
        targets=targets,
        costs=costs,
        moments={s.name: _moments(methods, tuned, s, evaluated) for s in dict.fromkeys(o.setting for o in tuned)},
        rates=tuple(rates_of(sweep, rows) for sweep in sweeps),
        untuned=untuned(fixed, rows, _reference(losses, methods, scored), methods[-1]) if fixed else None,
        target=target,
        at_target=tuple(asked),
        charged=tuple(charged(tuned)),
    )


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
        first = losses[methods[0], setting.name]
        found[name] = first if np.isfinite(first).any() else _best_baseline(losses, methods, setting)
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
    found: list[SpeedUp] = []
    notes = []
    for workload in dict.fromkeys(setting.workload for setting in settings):
        mine = sorted((s for s in settings if s.workload == workload), key=lambda s: s.steps)
        tokens = {(one.method.name, one.setting): float(one.tokens) for one in tuned}
        ours, baseline = (
            Losses(np.array([tokens[m, s] for s in mine]), np.stack([losses[m, s.name] for s in mine]))
            for m in (methods[-1], methods[0])
        )
        try:
            found += speed_ups(sizes[workload], ours, baseline, rng)
        except BadInput as error:
            notes.append(f"width {workload.width}: {error}")
    joint = None
    try:
        joint = fit_joint(_points(name, methods, tuned, losses, sizes), methods[0], rng)
    except BadInput as error:
        notes.append(f"joint law: {error}")
    return Verdict(name, tuple(found), overall(found), survives_scale(found), joint, "; ".join(notes))


def _points(
    name: str,
    methods: Sequence[str],
    tuned: Sequence[Tuned],
    losses: Mapping[tuple[str, str], np.ndarray],
    sizes: Mapping[Any, float],
) -> list[Point]:
    mine = [one for one in tuned if one.setting.workload.name == name]
    table = np.array([np.log(losses[one.method.name, one.setting.name]) for one in mine])
    spread = table[np.isfinite(table).all(axis=1)].var(axis=1, ddof=1)
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
    losses: Mapping[tuple[str, str], np.ndarray], methods: Sequence[str], scored: Mapping[str, Setting], relax: float
) -> dict[str, tuple[float, float]]:
    """Workload -> (validation loss to reach, share of the best baseline's own runs that do): what the worst of its seeds
    reaches, relaxed. Without the workloads on which every baseline diverged; raises BadInput if these are all.

    At its median half of its own runs, and of an equal's, would miss, and scores of few seeds would be tosses of a coin.
    """
    found = {}
    for name, setting in scored.items():
        best = _best_baseline(losses, methods, setting)
        if np.isfinite(best).any():
            target = float(np.nanmax(best)) * (1 + relax)
            found[name] = target, float(np.mean(best <= target))
    if not found:
        raise BadInput(f"every baseline diverged on {', '.join(scored)}; choose other baselines=, or set more points=")
    return found


def _best_baseline(
    losses: Mapping[tuple[str, str], np.ndarray], methods: Sequence[str], setting: Setting
) -> np.ndarray:
    baselines = [losses[method, setting.name] for method in methods[:-1]]
    return min(baselines, key=lambda values: np.nanmedian(values) if np.isfinite(values).any() else math.inf)


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
    targets: Mapping[str, tuple[float, float]],
    evaluated: Evaluations,
    times: Mapping[tuple[str, str], StepTime],
) -> Scores:
    """Time to target of every fresh seed, each a study, scored; times: of a step, or what it counts as."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("submission", "study", "workload", "trial", "hit_index", "seconds", "time_rel_stderr")
    }
    for one in tuned:
        name = one.setting.workload.name
        if name not in targets or one.setting != scored[name]:
            continue
        step = times[one.method.name, one.setting.name]
        for trial in one.trials:
            steps, values = evaluated.get(trial.id, (np.zeros(0), np.zeros(0)))
            hit = first_hit(values, steps * step.seconds, targets[name][0], "minimize")
            entry = (one.method.name, f"seed {trial.seed}", name, "trial_1", hit.index, hit.time, step.rel_stderr)
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
    """(moments, methods) mean validation loss at shares of the horizon; NaN where a seed has none."""
    found = np.full((len(MOMENTS), len(methods)), np.nan)
    for one in tuned:
        if one.setting != setting:
            continue
        for i, share in enumerate(MOMENTS):
            values = []
            for trial in one.trials:
                steps, losses = evaluated.get(trial.id, (np.zeros(0), np.zeros(0)))
                at = np.flatnonzero(steps <= share * trial.horizon + 0.5)
                ended = steps.size and steps[-1] < trial.horizon and share * trial.horizon > steps[-1]  # it diverged
                values.append(losses[at[-1]] if at.size and not ended else np.nan)
            found[i, methods.index(one.method.name)] = np.mean(values)
    return found
