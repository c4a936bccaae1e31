"""What the data cannot tell (identifiability) and how the law would have done before (backtest)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.laws.base import Law
from harness.laws.solver import Objective, Solution, predict, solve

LOOSE = 0.5  # a parameter is not determined when its standard error exceeds this fraction of itself
NO_EFFECT = 1e-3  # a positive parameter whose term is below this fraction of the loss everywhere is "at zero"
SAME_OBJECTIVE = 1e-6  # relative difference of objectives that counts as equal
DISTINCT = 0.05  # distance in internal coordinates (a 5 % change) that counts as another minimum


@dataclass(frozen=True)
class Identifiable:
    """Whether the parameters (not the predictions) are determined by the data.

    ok: no parameter loose, no bound hit, no second minimum of equal objective.
    condition_number: of the Jacobian by internal coordinates with columns scaled to one.
    flat_direction: coordinates that can move together, largest = 1, with the standard error of that move.
    loose, bounds_hit: parameter names. equal_minima: other parameter sets with the same objective.
    """

    ok: bool
    condition_number: float
    flat_direction: Mapping[str, float]
    flat_stderr: float
    loose: tuple[str, ...]
    bounds_hit: tuple[str, ...]
    equal_minima: tuple[Mapping[str, float], ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "condition_number": self.condition_number,
            "flat_direction": dict(self.flat_direction),
            "flat_stderr": self.flat_stderr,
            "loose": list(self.loose),
            "bounds_hit": list(self.bounds_hit),
            "equal_minima": [dict(m) for m in self.equal_minima],
            "warnings": list(self.warnings),
        }


def bounds_hit(law: Law, theta: np.ndarray, jac: np.ndarray) -> tuple[str, ...]:
    """Parameters on a bound, and positive ones whose term has vanished from the loss."""
    lower, upper = law.bounds()
    hit = []
    for i, (name, kind) in enumerate(law.parameters.items()):
        if theta[i] <= lower[i] + 1e-9 or (kind.positive and np.max(np.abs(jac[:, i])) < NO_EFFECT):
            hit.append(f"{name} -> {'0' if kind.positive and kind.lower == 0 else kind.lower}")
        elif theta[i] >= upper[i] - 1e-9:
            hit.append(f"{name} -> {kind.upper}")
    return tuple(hit)


def equal_minima(law: Law, solution: Solution) -> tuple[dict[str, float], ...]:
    """Converged minima as low as the best one but elsewhere, in natural units."""
    theta, value = solution.theta[0], solution.objective[0]
    best = int(value.argmin())
    level = value[best] * (1 + SAME_OBJECTIVE) + 1e-24
    found = [theta[best]]
    for candidate in theta[solution.converged[0] & (value <= level)]:
        if all(np.max(np.abs(candidate - other)) > DISTINCT for other in found):
            found.append(candidate)
    return tuple(dict(zip(law.parameters, law.natural(t).tolist(), strict=True)) for t in found[1:])


def identify(
    law: Law, theta: np.ndarray, jac: np.ndarray, covariance: np.ndarray, solution: Solution, warnings: list[str]
) -> Identifiable:
    """The identifiability report. jac (n, P), covariance (P, P) by internal coordinates."""
    size = np.abs(theta)
    positive = np.array([kind.positive for kind in law.parameters.values()])
    allowed = LOOSE * np.where(positive, 1.0, np.maximum(size, 1e-12))
    error = np.sqrt(np.clip(np.diag(covariance), 0, None))
    loose = tuple(n for n, bad in zip(law.parameters, error > allowed, strict=True) if bad)
    norms = np.linalg.norm(jac, axis=0)
    singular = np.linalg.svd(jac / np.where(norms > 0, norms, 1.0), compute_uv=False)
    condition = float(singular[0] / max(singular[-1], 1e-300)) if np.all(norms > 0) else 1e300
    values, vectors = np.linalg.eigh(covariance)
    direction = vectors[:, -1] / vectors[np.argmax(np.abs(vectors[:, -1])), -1]
    hit, minima = bounds_hit(law, theta, jac), equal_minima(law, solution)
    return Identifiable(
        ok=not (loose or hit or minima),
        condition_number=condition,
        flat_direction=dict(zip(law.coordinates(), direction.tolist(), strict=True)),
        flat_stderr=float(np.sqrt(max(values[-1], 0.0)) * np.max(np.abs(vectors[:, -1]))),
        loose=loose,
        bounds_hit=hit,
        equal_minima=minima,
        warnings=tuple(warnings),
    )


def straight_line(size: np.ndarray, loss: np.ndarray, new_size: np.ndarray | float) -> np.ndarray:
    """The simplest extrapolation: the line in log-log through the (mean log) losses of the two largest sizes.

    size, loss: (n,), positive. Returns losses at `new_size`. Needs two distinct sizes.
    """
    last = np.unique(size)[-2:]
    y = np.array([np.mean(np.log(loss[size == s])) for s in last])
    slope = (y[1] - y[0]) / np.log(last[1] / last[0])
    return np.exp(y[1] + slope * np.log(np.asarray(new_size, np.float64) / last[1]))


def backtest(
    law: Law, simple: Law | None, objective: Objective, inputs: Mapping[str, np.ndarray], loss: np.ndarray,
    weight: np.ndarray,
) -> dict[str, Any]:
    """Roll forward: for every k, fit the k smallest sizes and predict the next one.

    Errors are relative (log predicted / observed; rms where several points share the next size), beside those of
    `simple` (a pure power law) and of the straight line through the last two points. {"folds": [...],
    "mean_abs_error": {...}}; no folds where there are too few sizes. All folds are one solver call.
    """
    size = inputs[law.inputs[0]]
    sizes = np.unique(size)
    folds = [k for k in range(2, sizes.size) if np.sum(size <= sizes[k - 1]) >= len(law.parameters) and k >= (
        len(law.parameters) if len(law.inputs) == 1 else 2)]
    if not folds:
        return {"folds": [], "mean_abs_error": {}}
    masks = [size <= sizes[k - 1] for k in folds]
    fitted = {law.name: _forecasts(law, objective, inputs, loss, weight, masks)}
    if simple is not None and simple.name != law.name:
        fitted[simple.name] = _forecasts(simple, objective, inputs, loss, weight, masks)
    fitted["straight_line"] = np.stack([np.log(straight_line(size[m], loss[m], size)) for m in masks])
    rows, errors = [], {name: [] for name in fitted}
    for row, k in enumerate(folds):
        held = size == sizes[k]
        error = {name: value[row, held] - np.log(loss[held]) for name, value in fitted.items()}
        summary = {name: _signed_rms(e) for name, e in error.items()}
        rows.append({"sizes_fitted": k, "size_predicted": float(sizes[k]), "error": summary})
        for name, value in summary.items():
            errors[name].append(abs(value))
    return {"folds": rows, "mean_abs_error": {name: float(np.mean(e)) for name, e in errors.items()}}


def _signed_rms(error: np.ndarray) -> float:
    return float(np.sign(error.mean()) * np.sqrt(np.mean(error**2)))


def _forecasts(
    law: Law, objective: Objective, inputs: Mapping[str, np.ndarray], loss: np.ndarray, weight: np.ndarray,
    masks: list[np.ndarray],
) -> np.ndarray:
    """Predicted log losses (folds, n) of all points from fits to each mask's points."""
    starts = [law.start_points({k: v[m] for k, v in inputs.items()}, loss[m]) for m in masks]
    target = np.broadcast_to(objective.transform(loss), (len(masks), loss.size))
    solution = solve(law, objective, inputs, target, weight * np.stack(masks), np.stack(starts))
    value = predict(law, objective, inputs, solution.best())
    return value if objective.space == "log" else np.log(value)
