"""What a pack has measured so far, and the rows and curves that are recorded from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from harness.budget import evaluation_steps
from harness.engine.flops import step_flops
from harness.engine.pack import Pack
from harness.trial import Trial

Rows = list[dict[str, Any]]
Evaluation = Mapping[str, Mapping[str, np.ndarray]]
Names = tuple[
    tuple[str, str], ...
]  # of what an evaluation measures: ("validation", "loss"), ("probe", "sharpness") ...

_CURVES = {"validation": "eval", "probe": "probe"}  # what beside loss and metric a curve holds, and its columns' prefix
_ROWS = _CURVES | {"test": "test"}


class Ending(NamedTuple):
    """What the states of a pack's trials end with (see program.State), (trials,) each."""

    step: np.ndarray
    initial_loss: np.ndarray
    diverged_step: np.ndarray


class History:
    """steps: (trials, 2, horizon) training loss and learning rate of every step. scores: (trials, evaluations, names) what
    evaluations measure, in the order of `names`. NaN where nothing was measured, or after a divergence.
    """

    def __init__(self, pack: Pack, names: Names) -> None:
        self.pack = pack
        self.names = names
        self.boundaries = evaluation_steps(pack.horizon, pack.trials[0].evaluations)
        self.steps = np.full((len(pack.trials), 2, pack.horizon), np.nan, np.float32)
        self.scores = np.full((len(pack.trials), len(self.boundaries), len(names)), np.nan, np.float32)

    def leaves(self) -> tuple[np.ndarray, np.ndarray]:
        """The arrays that a checkpoint carries."""
        return self.steps, self.scores

    def restore(self, leaves: tuple[np.ndarray, np.ndarray]) -> None:
        self.steps, self.scores = leaves

    def add(self, start: int, stop: int, steps: np.ndarray, evaluation: Evaluation) -> None:
        """Record a chunk: (trials, 2, stop - start) losses and learning rates, and the evaluation at its end."""
        self.steps[:, :, start:stop] = steps
        columns = [evaluation[group][name] for group, name in self.names]
        self.scores[:, self.boundaries.index(stop)] = np.stack(columns, axis=-1)

    def measured(self, group: str, name: str) -> np.ndarray:
        """(trials, evaluations) of one scalar."""
        found: np.ndarray = self.scores[:, :, self.names.index((group, name))]
        return found

    def _others(self, prefixes: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Column -> (trials, evaluations) of everything but losses and metric."""
        known = ("loss", self.pack.static.workload.metric.name)
        return {
            f"{prefixes[group]}.{name}": self.scores[:, :, k]
            for k, (group, name) in enumerate(self.names)
            if group in prefixes and (group == "probe" or name not in known)
        }

    def rows(self, end: Ending, parameters: int) -> Rows:
        """The trials' own columns: configuration, results and cost. A diverged trial's final loss is NaN: it has none.

        parameters: of a trial's model.
        """
        others = self._others(_ROWS)
        return [
            _configuration(trial)
            | self._results(i, int(end.diverged_step[i]), float(end.initial_loss[i]))
            | _cost(trial, int(end.step[i]), parameters)
            | {name: float(values[i, -1]) if end.diverged_step[i] < 0 else math.nan for name, values in others.items()}
            for i, trial in enumerate(self.pack.trials)
        ]

    def _results(self, i: int, diverged_step: int, initial_loss: float) -> dict[str, Any]:
        metric = self.pack.static.workload.metric
        losses, metrics = self.measured("validation", "loss")[i], self.measured("validation", metric.name)[i]
        tests = self.measured("test", "loss")[i], self.measured("test", metric.name)[i]
        ok = diverged_step < 0
        best = np.nanmin if metric.direction == "minimize" else np.nanmax
        final = [float(values[-1]) if ok else math.nan for values in (losses, *tests, metrics)]
        return {
            "status": "ok" if ok else "diverged",
            "initial_loss": initial_loss,
            "final_loss": final[0],
            "best_loss": float(np.nanmin(losses)) if np.isfinite(losses).any() else math.nan,
            "test_loss": final[1],
            "final_metric": final[3],
            "best_metric": float(best(metrics)) if np.isfinite(metrics).any() else math.nan,
            "test_metric": final[2],
            "diverged_step": None if ok else diverged_step,
        }

    def curves(self, end: Ending, points: int) -> dict[str, dict[str, Any]]:
        """Trial id -> column -> array: training loss averaged since the point before, evaluations where there are any.

        About `points` points a trial, beside the evaluations; a diverged trial's curve ends with its last step.
        """
        horizon = self.pack.horizon
        stride = max(1, math.ceil(horizon / points))
        steps = np.union1d(np.arange(stride, horizon + 1, stride), self.boundaries)
        starts = np.concatenate([[0], steps[:-1]])
        train = np.add.reduceat(self.steps[:, 0], starts, axis=1) / (steps - starts).astype(np.float32)
        rates = self.steps[:, 1][:, steps - 1]
        evaluated = np.isin(steps, self.boundaries)
        return {
            trial.id: self._curve(i, steps, train[i], rates[i], evaluated, int(np.sum(starts < end.step[i])))
            for i, trial in enumerate(self.pack.trials)
        }

    def _curve(
        self, i: int, steps: np.ndarray, train: np.ndarray, rates: np.ndarray, evaluated: np.ndarray, length: int
    ) -> dict[str, Any]:
        named = {
            "eval_loss": self.measured("validation", "loss"),
            "eval_metric": self.measured("validation", self.pack.static.workload.metric.name),
        } | self._others(_CURVES)
        scores = np.zeros((len(named), len(steps)), np.float32)
        scores[:, evaluated] = np.stack([values[i] for values in named.values()])
        masked = np.ma.masked_array(scores, mask=np.broadcast_to(~evaluated, scores.shape))
        columns = {
            "step": steps,
            "tokens": steps * self.pack.trials[i].rates.tokens,
            "lr": rates,
            "train_loss": train,
            **dict(zip(named, masked, strict=True)),
        }
        return {name: column[:length] for name, column in columns.items()}


def _configuration(trial: Trial) -> dict[str, Any]:
    config = trial.config()
    return {**config, "trial": trial.id, "config": json.dumps(config), "data_sha256": trial.data_sha256}


def _cost(trial: Trial, steps: int, size: int) -> dict[str, Any]:
    tokens = steps * trial.rates.tokens
    return {
        "params": size,
        "horizon": trial.horizon,
        "steps": steps,
        "tokens": tokens,
        "flops": steps * step_flops(trial),
        "flops_6nd": 6.0 * size * tokens,
        "matmul_flops": steps * trial.matmul_flops,
    }
