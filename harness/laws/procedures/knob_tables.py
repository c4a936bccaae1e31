"""The findings of sweeps of knobs as JSON, tables and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.laws.procedures.cells import Optimum
from harness.laws.procedures.findings import Found, intervals
from harness.laws.procedures.rules import Cells, Regret

INTERPOLATION = (
    "excess log loss at the recommendation over the cell's best run, by linear interpolation between the cell's runs in "
    "log knobs (triangles); the noise of the best run adds alike to every rule. smoothed: by the cell's parabola"
)


def percent(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not known.size:
        return "an unknown share (outside every cell's runs)"
    outside = f" (outside the runs of {values.size - known.size} cells)" if known.size < values.size else ""
    return f"{known.mean():.3%}{outside}"


def cell_json(optimum: Optimum) -> dict[str, Any]:
    cell, parabola = optimum.cell, optimum.parabola
    best = cell.x[cell.y.argmin()]
    entry: dict[str, Any] = {
        **cell.scales,
        "runs": cell.runs,
        "best": {**_knobs(cell.knobs, best), "loss": float(np.exp(cell.y.min()))},
        "near_optimal": {
            **_knobs(cell.knobs, optimum.near),
            "runs": optimum.near_runs,
            "truncated": list(optimum.truncated),
        },
        "quadratic": None if parabola is None else {**_knobs(cell.knobs, parabola.vertex)},
    }
    if parabola is None:
        return {**entry, "no_quadratic": optimum.why}
    error = np.sqrt(np.diag(parabola.covariance))
    entry["quadratic"]["log_stderr"] = dict(zip(cell.knobs, error.tolist(), strict=True))
    return {**entry, "window": parabola.window, "window_runs": parabola.points, "log_noise": parabola.sigma}


def _knobs(names: tuple[str, ...], log: np.ndarray) -> dict[str, float]:
    return dict(zip(names, np.exp(log).tolist(), strict=True))


def law_json(found: Found, name: str) -> dict[str, Any]:
    cells, estimator, draws = found.cells, found.estimators[name], found.draws[name]
    center, error, interval = intervals(cells, estimator)
    values = cells.design.shown(center)
    tails = {"ci95_bootstrap_cells": draws.cells, "ci95_bootstrap_runs": draws.runs}
    percentiles = {key: _percentiles(cells, draw) for key, draw in tails.items()}
    scale = np.where(cells.design.coefficients, values, 1.0)
    return {
        "params": _by_name(cells, values),
        "stderr": _by_name(cells, error * scale),
        "ci95": {n: [float(a), float(b)] for n, a, b in zip(_names(cells), *cells.design.shown(interval), strict=True)},
        **percentiles,
        "cells_used": int(estimator.used.sum()),
        "regret": regret_json(found.regrets[name]),
    }


def _names(cells: Cells) -> tuple[str, ...]:
    return cells.design.parameters


def _by_name(cells: Cells, values: np.ndarray) -> dict[str, float]:
    return dict(zip(_names(cells), values.tolist(), strict=True))


def _percentiles(cells: Cells, draws: np.ndarray) -> dict[str, list[float]] | None:
    known = draws[np.all(np.isfinite(draws), axis=1)]
    if known.shape[0] < 0.5 * draws.shape[0]:
        return None
    low, high = cells.design.shown(np.quantile(known, [0.025, 0.975], axis=0))
    return {name: [float(a), float(b)] for name, a, b in zip(_names(cells), low, high, strict=True)}


def reference_json(found: Found) -> dict[str, Any]:
    regret = regret_json(found.regrets["reference"])
    return {"params": found.reference, "regret": regret, "verdicts": found.verdicts}


def regret_json(regret: Regret) -> dict[str, Any]:
    return {
        "in_sample": summary(regret.in_sample),
        "left_out": summary(regret.left_out),
        "smoothed_left_out": summary(regret.smoothed),
    }


def summary(values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    return {
        "mean": float(known.mean()) if known.size else None,
        "max": float(known.max()) if known.size else None,
        "cells": int(known.size),
        "outside": int(values.size - known.size),
        "per_cell": [float(v) if np.isfinite(v) else None for v in values],
    }


def law_table(found: Found) -> Table:
    rows = []
    for key, estimator in found.estimators.items():
        center, _, interval = intervals(found.cells, estimator)
        columns = found.cells.design.shown(np.stack([center, *interval])).T.tolist()
        rows += [(key, name, *numbers) for name, numbers in zip(_names(found.cells), columns, strict=True)]
    if found.reference is not None:
        rows += [("reference", name, value, None, None) for name, value in found.reference.items()]
    title = "; ".join(rule.equation for rule in found.cells.design.rules)
    return Table(title, ("estimate", "parameter", "value", "95% low", "95% high"), tuple(rows))


def regret_table(found: Found) -> Table:
    rows = []
    for name, regret in found.regrets.items():
        parts = [summary(v) for v in (regret.in_sample, regret.left_out, regret.smoothed)]
        rows.append(
            (
                name,
                *(None if p["mean"] is None else 100 * p["mean"] for p in parts),
                None if parts[1]["max"] is None else 100 * parts[1]["max"],
                parts[1]["outside"],
            )
        )
    header = ("rule", "in sample %", "left out %", "left out, smoothed %", "worst left out %", "outside")
    return Table("Mean excess loss at the rule's recommendation", header, tuple(rows))


def cell_table(found: Found) -> Table:
    knobs = [rule.knob for rule in found.cells.design.rules]
    rows = []
    for optimum in found.cells.optima:
        near = np.exp(optimum.near).tolist()
        vertex = [None] * len(knobs) if optimum.parabola is None else np.exp(optimum.parabola.vertex).tolist()
        rows.append((*optimum.cell.scales.values(), optimum.cell.runs, *near, *vertex))
    header = (*found.cells.scales, "runs", *(f"{k} near-optimal" for k in knobs), *(f"{k} quadratic" for k in knobs))
    return Table("Optimum of each cell", header, tuple(rows))


def optimum_plots(found: Found) -> list[Plot]:
    """Recommended against found, one picture a knob: points on the diagonal are cells that the rule explains."""
    plots = []
    at = found.cells.recommended(found.estimators[found.chosen].beta)
    for k, rule in enumerate(found.cells.design.rules):
        x = np.exp(at[:, k])
        near = np.exp([o.near[k] for o in found.cells.optima])
        has = np.array([o.parabola is not None for o in found.cells.optima])
        fitted = [o.parabola for o in found.cells.optima if o.parabola]
        vertex = np.exp([p.vertex[k] for p in fitted])
        half = np.exp([2 * np.sqrt(p.covariance[k, k]) for p in fitted])
        ends = np.array([x.min(), x.max()])
        layers = [Layer("near-optimal runs", x, near), Layer("the rule", ends, ends, kind="line")]
        if has.any():
            layers.insert(1, Layer("parabola", x[has], vertex, vertex / half, vertex * half))
        alt = f"best {rule.knob} of {found.cells.size} cells against {rule.equation}"
        plots.append(
            Plot(
                f"best_{rule.knob}",
                f"Best {rule.knob} by cell",
                f"{rule.knob} of the rule",
                rule.knob,
                tuple(layers),
                alt=alt,
            )
        )
    return plots


def regret_plot(found: Found) -> Plot:
    cell = np.arange(1, found.cells.size + 1, dtype=np.float64)
    layers = []
    for name, regret in found.regrets.items():
        known = np.isfinite(regret.left_out)
        layers.append(Layer(name, cell[known], 100 * regret.left_out[known]))
    return Plot(
        "regret",
        "Excess loss at the recommendation, in cells that were left out",
        "cell",
        "excess loss, %",
        tuple(layers),
        log_x=False,
        log_y=False,
        caption=INTERPOLATION,
        alt="; ".join(f"{name} {percent(r.left_out)}" for name, r in found.regrets.items()),
    )
