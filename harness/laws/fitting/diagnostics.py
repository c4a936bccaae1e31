"""What the data cannot tell: the identifiability report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.laws.base import Law
from harness.laws.fitting.solver import Solution

LOOSE = 0.5  # a parameter is not determined when its standard error exceeds this fraction of itself
NO_EFFECT = 1e-3  # a positive parameter whose term is below this fraction of the loss everywhere is "at zero"
SAME_OBJECTIVE = 1e-6  # relative difference of objectives that counts as equal
SINGULAR = 1e7  # condition number beyond which rounding decides: refits then stay where they began
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
    law: Law,
    theta: np.ndarray,
    jac: np.ndarray,
    covariance: np.ndarray,
    solution: Solution,
    warnings: list[str],
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
    if condition > SINGULAR:
        warnings = [*warnings, f"condition number {condition:.0e}: the intervals of {', '.join(loose)} mean nothing"]
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
