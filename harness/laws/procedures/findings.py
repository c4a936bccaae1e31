"""What sweeps of knobs show: optima, rules by every estimator, their regrets and the verdicts on a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.laws.procedures.base import Settings
from harness.laws.procedures.cells import Optima, find_cells, find_optima
from harness.laws.procedures.rules import (
    DECIDES,
    Cells,
    Draws,
    Estimator,
    Regret,
    Rule,
    bootstrap,
    checked_reference,
    choose,
)
from workloads.base import BadInput


@dataclass(frozen=True)
class Sweeps:
    """What to estimate from. scales: columns whose distinct values are the cells; rules: one a knob, which is a column.

    reference: a published rule's parameters, or none. at: scales at which to recommend, or none. tolerance, window: see
    `find_optima`.
    """

    scales: tuple[str, ...]
    rules: tuple[Rule, ...]
    tolerance: float
    window: float
    reference: Mapping[str, float] = field(default_factory=dict)
    at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Everything estimated, before it is written down."""

    cells: Cells
    optima: Optima
    estimators: dict[str, Estimator]
    regrets: dict[str, Regret]
    draws: dict[str, Draws]
    reference: dict[str, float] | None
    chosen: str
    nested: np.ndarray
    verdicts: dict[str, dict[str, Any]]


def find(sweeps: Sweeps, columns: Mapping[str, np.ndarray], settings: Settings) -> Found:
    knobs = [rule.knob for rule in sweeps.rules]
    optima = find_optima(find_cells(columns, sweeps.scales, knobs), sweeps.tolerance, sweeps.window)
    if not optima.found:
        reasons = "; ".join(f"{cell.label}: {why}" for cell, why in optima.refused[:3])
        raise BadInput(f"no cell has an optimum inside its sweep ({reasons})")
    cells = Cells.of(optima.found, sweeps.rules)
    reference = checked_reference(cells.design, sweeps.reference)
    estimators = cells.estimators()
    regrets = {name: cells.regret(e) for name, e in estimators.items()}
    regrets["constant"] = cells.constant_regret()
    if reference is not None:
        regrets["reference"] = cells.fixed_regret(cells.design.beta(reference))
    chosen, nested = choose(cells, estimators)
    draws = bootstrap(cells, estimators, sweeps.tolerance, settings)
    verdicts = {} if reference is None else _verdicts(cells, estimators, reference)
    return Found(cells, optima, estimators, regrets, draws, reference, chosen, nested, verdicts)


def intervals(cells: Cells, estimator: Estimator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters (p,), standard errors (p,) and 95% jackknife interval (2, p); coefficients in logs."""
    to_natural = cells.design.natural(np.eye(estimator.beta.size)).T
    error, quantile = estimator.jackknife(to_natural)
    center = cells.design.natural(estimator.beta)
    return center, error, np.stack([center - quantile * error, center + quantile * error])


def _verdicts(
    cells: Cells, estimators: Mapping[str, Estimator], reference: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Parameter -> reference, whether each estimator's interval excludes it, and what the most precise one says."""
    judge = DECIDES if DECIDES in estimators else "near_optimal"
    ends = {name: cells.design.shown(intervals(cells, e)[2]) for name, e in estimators.items()}
    out = {}
    for i, name in enumerate(cells.design.parameters):
        excluded = {key: not bool(ci[0, i] <= reference[name] <= ci[1, i]) for key, ci in ends.items()}
        out[name] = {"reference": reference[name], "judge": judge, "supported": not excluded[judge]}
        out[name]["excluded_by"] = [key for key, out_of in excluded.items() if out_of]
    return out
