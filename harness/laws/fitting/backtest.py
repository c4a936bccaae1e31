"""Backtests: how the law would have done before, beside simpler ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.laws.base import Law
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import Solution, predict, solve

SCREENED = 64  # starts of a subset's fit, and those that are followed to the end on the whole
ROUGH, ROUGH_TOLERANCE = (
    40,
    1e-3,
)  # steps of all starts on the whole, and the promised decrease at which one stops early
MOST_FOLDS = 12  # with more distinct sizes, neighbouring ones are grouped


class Fold(NamedTuple):
    """One split: fitted on `train`, judged on `test`, masks (n,). name: what is held out, as JSON."""

    name: dict[str, Any]
    train: np.ndarray
    test: np.ndarray


def straight_line(size: np.ndarray, loss: np.ndarray, new_size: np.ndarray | float) -> np.ndarray:
    """The simplest extrapolation: the line in log-log through the (mean log) losses of the two largest sizes.

    size, loss: (n,), positive. Returns losses at `new_size`. Needs two distinct sizes.
    """
    last = np.unique(size)[-2:]
    y = np.array([np.mean(np.log(loss[size == s])) for s in last])
    slope = (y[1] - y[0]) / np.log(last[1] / last[0])
    return np.exp(y[1] + slope * np.log(np.asarray(new_size, np.float64) / last[1]))


def roll_forward(size: np.ndarray, inputs: int, parameters: int, down: bool = False) -> list[Fold]:
    """The k smallest sizes predict the next, for every k that can carry `parameters` (one of `inputs` columns is size).

    With more than MOST_FOLDS sizes, neighbours are grouped by equal counts of points. down: the largest predict the next
    smaller one.
    """
    level = _levels(-size if down else size)
    count = int(level.max()) + 1
    least = max(2, parameters if inputs == 1 and count == np.unique(size).size else 2)
    folds = []
    for k in range(least, count):
        train, test = level < k, level == k
        if train.sum() >= parameters and np.unique(size[train]).size >= 2:
            held = float(size[test].max() if down else size[test].min())
            fitted = int(np.unique(size[train]).size)
            folds.append(Fold({"sizes_fitted": fitted, "size_predicted": held}, train, test))
    return folds


def leave_one_out(group: np.ndarray) -> list[Fold]:
    """Each group (a curve, a cell, a seed) is predicted from the others. None with fewer than three groups."""
    names = np.unique(group)
    if names.size < 3:
        return []
    return [Fold({"left_out": str(name)}, group != name, group == name) for name in names]


def folds_of(law: Law, columns: Mapping[str, np.ndarray]) -> list[Fold]:
    """The law's own way of being tested: whole curves or single sizes left out, or sizes rolled forward."""
    if law.whole_curves:
        return leave_one_out(np.asarray(columns["curve"]))
    size = np.asarray(columns[law.inputs[0]], np.float64)
    if law.extrapolates == "between":
        level = _levels(size)
        return [fold for fold in leave_one_out(level) if fold.train.sum() >= len(law.parameters)]
    return roll_forward(size, len(law.inputs), len(law.parameters), down=law.extrapolates == "down")


def fit_subsets(
    law: Law,
    objective: Objective,
    features: Mapping[str, np.ndarray],
    loss: np.ndarray,
    weight: np.ndarray,
    masks: Sequence[np.ndarray],
) -> Solution:
    """The law fitted to each subset of the points, from its own starts, in one solver call.

    Of more than SCREENED starts, each subset descends from those at which its own objective is lowest.
    """
    starts = [law.start_points({k: v[m] for k, v in features.items()}, loss[m]) for m in masks]
    weights = weight * np.stack(masks)
    target = objective.transform(loss)
    if starts[0].shape[0] > SCREENED:
        starts = [
            s[np.argsort(objective_at(law, objective, features, target, w, s), kind="stable")[:SCREENED]]
            for s, w in zip(starts, weights, strict=True)
        ]
    return solve(law, objective, features, np.broadcast_to(target, weights.shape), weights, np.stack(starts))


def fit_all(
    law: Law, objective: Objective, features: Mapping[str, np.ndarray], loss: np.ndarray, weight: np.ndarray
) -> Solution:
    """The law fitted to all points from every one of its starts.

    Of more than SCREENED starts all take up to ROUGH steps, and the SCREENED lowest go on to the end.
    """
    target, starts = objective.transform(loss)[None], law.start_points(features, loss)
    if starts.shape[0] > SCREENED:
        rough = solve(
            law, objective, features, target, weight[None], starts[None], iterations=ROUGH, tolerance=ROUGH_TOLERANCE
        )
        starts = rough.theta[0, np.argsort(rough.objective[0], kind="stable")[:SCREENED]]
    return solve(law, objective, features, target, weight[None], starts[None])


def objective_at(
    law: Law,
    objective: Objective,
    features: Mapping[str, np.ndarray],
    target: np.ndarray,
    weight: np.ndarray,
    theta: np.ndarray,
) -> np.ndarray:
    """The objective (B,) at theta (B, P), infinite where the law has no value."""
    residual = predict(law, objective, features, theta) - target
    value = np.sum(weight * np.asarray(objective.rho(residual)), axis=1)
    return np.where(np.isnan(value), np.inf, value)


def errors(folds: Sequence[Fold], forecast: Mapping[str, np.ndarray], loss: np.ndarray) -> dict[str, Any]:
    """What each forecaster missed. forecast: name -> log losses (folds, n); only the fold's test points are read.

    Errors are relative, log(predicted / observed), a signed root mean square where a fold holds out several points.
    {"folds": [{...name, "error": {law: number}}], "mean_abs_error": {law: number}}.
    """
    if not folds:
        return {"folds": [], "mean_abs_error": {}}
    rows: list[dict[str, Any]] = []
    for row, fold in enumerate(folds):
        missed = {n: _signed_rms(value[row, fold.test] - np.log(loss[fold.test])) for n, value in forecast.items()}
        rows.append({**fold.name, "error": missed})
    mean = {name: float(np.mean([abs(r["error"][name]) for r in rows])) for name in forecast}
    return {"folds": rows, "mean_abs_error": mean}


def log_forecast(law: Law, objective: Objective, features: Mapping[str, np.ndarray], theta: np.ndarray) -> np.ndarray:
    """The law's log losses (folds, n) at theta (folds, P)."""
    value = predict(law, objective, features, theta)
    return value if objective.space == "log" else np.log(value)


def line_forecast(size: np.ndarray, loss: np.ndarray, folds: Sequence[Fold]) -> np.ndarray:
    """The straight line's log losses (folds, n)."""
    return np.stack([np.log(straight_line(size[f.train], loss[f.train], size)) for f in folds])


def _levels(size: np.ndarray) -> np.ndarray:
    """(n,) rank of each point's size, or of the group of neighbouring sizes that it belongs to."""
    sizes, rank, counts = np.unique(size, return_inverse=True, return_counts=True)
    if sizes.size <= MOST_FOLDS:
        return rank
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    group = np.minimum((middle * MOST_FOLDS).astype(int), MOST_FOLDS - 1)
    return np.unique(group, return_inverse=True)[1][rank]


def _signed_rms(error: np.ndarray) -> float:
    return float(np.sign(error.mean()) * np.sqrt(np.mean(error**2)))
