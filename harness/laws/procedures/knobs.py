"""From a table of sweeps to rules of the best knobs: the estimate that `hyperparameters` and `power_scheduler` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from harness.laws.procedures import knob_tables as tables
from harness.laws.procedures.base import Estimate, Settings
from harness.laws.procedures.findings import Found, Sweeps, find, intervals
from harness.laws.procedures.rules import Rule
from harness.registry import nearest
from workloads.base import BadInput


def estimate(name: str, sweeps: Sweeps, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
    """The rules by every estimator, with intervals, regrets, verdicts on the reference and a recommendation.

    Raises BadInput on bad columns or options, and where too few cells have an optimum.
    """
    found = find(sweeps, columns, settings)
    statements = [_recommendation(found), *_reference_statements(found)]
    at = _recommend_at(found, sweeps.at)
    return Estimate(
        procedure=name,
        n=found.optima.n,
        values={
            "rules": [rule.equation for rule in sweeps.rules],
            "cells": [tables.cell_json(o) for o in found.cells.optima],
            "refused_cells": [{**c.scales, "reason": why} for c, why in found.optima.refused],
            "laws": {key: tables.law_json(found, key) for key in found.estimators},
            "reference": None if found.reference is None else tables.reference_json(found),
            "constant": tables.regret_json(found.regrets["constant"]),
            "recommended": {"law": found.chosen, "regret": tables.summary(found.nested)},
            "at": at,
            "regret_is": tables.INTERPOLATION,
            "statements": statements,
        },
        tables=(tables.law_table(found), tables.regret_table(found), tables.cell_table(found)),
        plots=(*tables.optimum_plots(found), tables.regret_plot(found)),
        warnings=(*(s for s in statements if "do not support" in s), *_warnings(found, sweeps.at)),
        dropped=found.optima.dropped,
    )


def _recommendation(found: Found) -> str:
    values = dict(zip(found.cells.design.parameters, found.cells.design.shown(_beta(found, found.chosen)), strict=True))
    rule = "; ".join(f"{r.equation} with {_named(r, values)}" for r in found.cells.design.rules)
    text = (
        f"recommended: {rule} ({found.chosen}). On cells it did not see it loses {tables.percent(found.nested)} on average, "
        f"one setting for all cells {tables.percent(found.regrets['constant'].left_out)}"
    )
    if found.reference is None:
        return text + "."
    return f"{text}, the reference {tables.percent(found.regrets['reference'].left_out)}."


def _beta(found: Found, name: str) -> np.ndarray:
    return found.cells.design.natural(found.estimators[name].beta)


def _named(rule: Rule, values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={values[name]:.3g}" for name in rule.parameters)


def _reference_statements(found: Found) -> list[str]:
    if found.reference is None:
        return []
    statements = []
    names = found.cells.design.parameters
    for rule in found.cells.design.rules:
        for scale, name in rule.exponents.items():
            verdict = found.verdicts[name]
            center, _, interval = intervals(found.cells, found.estimators[verdict["judge"]])
            i = names.index(name)
            told = f"{center[i]:.3f} with 95% interval [{interval[0, i]:.3f}, {interval[1, i]:.3f}]"
            others = _others(found, name, verdict)
            does = "do not contradict" if verdict["supported"] else "do not support"
            statements.append(
                f"the data {does} the reference's {scale} exponent of {rule.knob}, {name}={verdict['reference']:.3g}: "
                f"{verdict['judge']} gives {told}{others}"
            )
    return [*statements, _difference(found)]


def _others(found: Found, name: str, verdict: Mapping[str, Any]) -> str:
    """What the less precise estimates say where they say otherwise."""
    i = found.cells.design.parameters.index(name)
    differ = [
        f"{key} [{interval[0, i]:.3f}, {interval[1, i]:.3f}]"
        for key, e in found.estimators.items()
        if (key in verdict["excluded_by"]) == verdict["supported"]
        for interval in [intervals(found.cells, e)[2]]
    ]
    word = "excluded" if verdict["supported"] else "not excluded"
    return f" ({word} by the less precise {', '.join(differ)})" if differ else ""


def _difference(found: Found) -> str:
    gap = found.regrets["reference"].left_out - found.nested
    known = gap[np.isfinite(gap)]
    if known.size < 3:
        return f"the reference's recommendation lies outside the runs of {gap.size - known.size} of {gap.size} cells"
    half = stats.t.ppf(0.975, known.size - 1) * known.std(ddof=1) / np.sqrt(known.size)
    low, high = known.mean() - half, known.mean() + half
    sure = "no clear difference" if low <= 0 <= high else "a clear difference"
    return (
        f"the reference loses {known.mean():+.3%} [{low:+.3%}, {high:+.3%}] more than the refit on {known.size} cells "
        f"that the refit did not see: {sure}"
    )


def _recommend_at(found: Found, at: Mapping[str, float]) -> dict[str, Any] | None:
    """Recommended knobs at new scales with 95% intervals of the best knob."""
    if not at:
        return None
    for name in at:
        if name not in found.cells.scales:
            raise BadInput(f"at.{name} is no scale of the rules. {nearest(name, found.cells.scales)}")
    missing = [name for name in found.cells.scales if name not in at]
    if missing or not all(np.isfinite(v) and v > 0 for v in at.values()):
        raise BadInput(f"at needs positive {', '.join(found.cells.scales)}; given {dict(at)}")
    point = {name: np.array([float(at[name])]) for name in found.cells.scales}
    matrix, offset = found.cells.design.matrix(point)[0], found.cells.design.offset(point)[0]
    estimator = found.estimators[found.chosen]
    center = matrix @ estimator.beta + offset
    error, quantile = estimator.jackknife(matrix)
    half = quantile * error
    knobs = {
        rule.knob: {"value": float(np.exp(c)), "ci95": [float(np.exp(c - h)), float(np.exp(c + h))]}
        for rule, c, h in zip(found.cells.design.rules, center, half, strict=True)
    }
    return {**{name: float(v[0]) for name, v in point.items()}, **knobs}


def _warnings(found: Found, at: Mapping[str, float]) -> list[str]:
    out = [f"cell {cell.label} has no optimum: {why}" for cell, why in found.optima.refused]
    out += [f"cell {o.cell.label} has no parabola: {o.why}" for o in found.cells.optima if not o.parabola]
    truncated = [f"{o.cell.label} ({', '.join(o.truncated)})" for o in found.cells.optima if o.truncated]
    if truncated:
        out.append(
            "near-optimal runs reach the edge of the sweep, which pulls their mean inward: " + "; ".join(truncated)
        )
    for name, value in at.items():
        smallest, largest = found.cells.scales[name].min(), found.cells.scales[name].max()
        if value > largest:
            out.append(f"{name}={value:.3g} is {value / largest:.3g} times the largest cell: an extrapolation")
        elif value < smallest:
            out.append(f"{name}={value:.3g} is {value / smallest:.3g} times the smallest cell: an extrapolation")
    return out
