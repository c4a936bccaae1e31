"""Roll-forward backtest: how the law would have done before, beside simpler ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.laws.base import Law
from harness.laws.solver import Objective, Solution, predict, solve


def straight_line(size: np.ndarray, loss: np.ndarray, new_size: np.ndarray | float) -> np.ndarray:
    """The simplest extrapolation: the line in log-log through the (mean log) losses of the two largest sizes.

    size, loss: (n,), positive. Returns losses at `new_size`. Needs two distinct sizes.
    """
    last = np.unique(size)[-2:]
    y = np.array([np.mean(np.log(loss[size == s])) for s in last])
    slope = (y[1] - y[0]) / np.log(last[1] / last[0])
    return np.exp(y[1] + slope * np.log(np.asarray(new_size, np.float64) / last[1]))


def folds(law: Law, inputs: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
    """k -> mask (n,) of the points of the k smallest sizes, for every k that can carry the law and has a next size."""
    size, p = inputs[law.inputs[0]], len(law.parameters)
    sizes = np.unique(size)
    least = p if len(law.inputs) == 1 else 2
    masks = {k: size <= sizes[k - 1] for k in range(max(least, 2), sizes.size)}
    return {k: mask for k, mask in masks.items() if mask.sum() >= p}


def fit_subsets(
    law: Law,
    objective: Objective,
    inputs: Mapping[str, np.ndarray],
    loss: np.ndarray,
    weight: np.ndarray,
    masks: Sequence[np.ndarray],
) -> Solution:
    """The law fitted to each subset of the points, from its own starts, in one solver call."""
    starts = [law.start_points({k: v[m] for k, v in inputs.items()}, loss[m]) for m in masks]
    target = np.broadcast_to(objective.transform(loss), (len(masks), loss.size))
    return solve(law, objective, inputs, target, weight * np.stack(masks), np.stack(starts))


def backtest(
    fitted: Mapping[Law, np.ndarray],
    masks: Mapping[int, np.ndarray],
    objective: Objective,
    inputs: Mapping[str, np.ndarray],
    loss: np.ndarray,
) -> dict[str, Any]:
    """Errors at the next size of fits to the k smallest sizes.

    fitted: law -> theta (folds, P), in the order of `masks`. Errors are relative, log(predicted / observed), a signed
    root mean square where several points share the next size; the line through the last two points comes beside.
    {"folds": [{"sizes_fitted", "size_predicted", "error": {law: number}}], "mean_abs_error": {law: number}}.
    """
    if not masks:
        return {"folds": [], "mean_abs_error": {}}
    size = inputs[next(iter(fitted)).inputs[0]]
    sizes = np.unique(size)
    forecast = {law.name: _log_loss(law, objective, inputs, theta) for law, theta in fitted.items()}
    forecast["straight_line"] = np.stack([np.log(straight_line(size[m], loss[m], size)) for m in masks.values()])
    rows: list[dict[str, Any]] = []
    for row, k in enumerate(masks):
        held = size == sizes[k]
        error = {name: _signed_rms(value[row, held] - np.log(loss[held])) for name, value in forecast.items()}
        rows.append({"sizes_fitted": k, "size_predicted": float(sizes[k]), "error": error})
    mean = {name: float(np.mean([abs(r["error"][name]) for r in rows])) for name in forecast}
    return {"folds": rows, "mean_abs_error": mean}


def _log_loss(law: Law, objective: Objective, inputs: Mapping[str, np.ndarray], theta: np.ndarray) -> np.ndarray:
    value = predict(law, objective, inputs, theta)
    return value if objective.space == "log" else np.log(value)


def _signed_rms(error: np.ndarray) -> float:
    return float(np.sign(error.mean()) * np.sqrt(np.mean(error**2)))
