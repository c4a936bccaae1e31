"""Every applicable law side by side: chosen on inner backtests, reported on an outer one that took no part in the choice.

What is held out is `design`'s, how errors choose and weigh is `combine`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.laws.base import LAWS, Law
from harness.laws.fitting.backtest import (
    MOST_FOLDS,
    errors,
    fit_subsets,
    line_forecast,
    log_forecast,
)
from harness.laws.fitting.combine import Combination, combine, prequential
from harness.laws.fitting.design import Design, curve_design, size_design
from harness.laws.fitting.fit import Points, checked, columns_of
from harness.laws.fitting.likelihood import information
from harness.laws.fitting.objective import Objective
from workloads.base import BadInput

MOST_FITS = MOST_FOLDS + 2  # all points, the outer backtest, the inner ones


@dataclass(frozen=True)
class Candidate:
    """One law's line of the comparison. Errors are relative (rms of log(predicted / observed)).

    objective, aic: of the fit to all points. inner_error: recency-weighted mean over the inner backtests; outer_error: on
    the outer one. weight: its share of the average. reason: why the law was not compared; then all but `law` and
    `parameters` are empty.
    """

    law: str
    parameters: int
    objective: float | None = None
    aic: float | None = None
    inner_error: float | None = None
    outer_error: float | None = None
    weight: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """The comparison of laws, best inner error first, inapplicable ones last.

    chosen: the law for parameters and intervals (`fit` it). recommended: the extrapolator for point forecasts, "average" of
    the laws or "choice", whichever forecast the inner backtests better when only earlier ones decided it (`inner`:
    both errors). outer: the errors of both on the outer backtest. reach: as asked and as backtested.
    """

    rows: tuple[Candidate, ...]
    chosen: str
    recommended: str
    inner: dict[str, float]
    outer: dict[str, float]
    reach: dict[str, float]
    backtest: dict[str, Any]
    objective: Objective
    n: int
    warnings: tuple[str, ...]
    fitted: tuple[tuple[Law, np.ndarray, float], ...]

    def forecast(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Responses (m,) of the recommended extrapolator at new `inputs`, (m,) each. Raises BadInput on bad inputs."""
        total: Any = 0.0
        for law, theta, weight in self.fitted:
            share = weight if self.recommended == "average" else float(law.name == self.chosen)
            if share > 0:
                features = law.features(columns_of(law, inputs))
                total = total + share * log_forecast(law, self.objective, features, theta[None])[0]
        return np.exp(total)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "n": self.n,
            "objective": self.objective.to_json(),
            "laws": [asdict(row) for row in self.rows],
            "chosen": self.chosen,
            "recommended": self.recommended,
            "inner_error": self.inner,
            "outer_error": self.outer,
            "reach": self.reach,
            "backtest": self.backtest,
            "warnings": list(self.warnings),
        }


class _Entry(NamedTuple):
    """A fitted law. own: which fits it could carry itself. forecast: log responses (fits, n). theta (P,): of all points."""

    law: Law
    points: Points
    own: np.ndarray
    forecast: np.ndarray
    theta: np.ndarray
    objective: float


def select(
    laws: Iterable[str | Law] | None,
    columns: Mapping[str, Any],
    loss: Any,
    *,
    response: str = "loss",
    size: str | None = None,
    reach: float = 2.0,
    stderr: Any = None,
    weights: Any = None,
    objective: Objective | None = None,
) -> Selection:
    """Compare `laws` (names or instances; None: all registered) on n points and choose one.

    columns: name -> (n,); loss: (n,), the column `response`. size: the column along which to extrapolate (the first of N, D
    and the given ones). reach: how many times the largest size will be asked for. Tables with columns curve and step
    compare laws of whole curves, leaving curves out (the longest one is the outer backtest). One objective for
    all laws. A backtest with too few points for a law is forecast by the largest of its simpler laws that they carry, else
    by the straight line through the two largest sizes.
    Raises BadInput where no law applies or where the sizes are too few to hold out any twice.
    """
    if not (np.isfinite(reach) and reach >= 1):
        raise BadInput(f"reach={reach} must be at least 1: the size to forecast / the largest size of the table")
    objective = objective or Objective()
    asked = [LAWS[law]() if isinstance(law, str) else law for law in (LAWS if laws is None else laws)]
    curves = "curve" in columns and "step" in columns
    along = size or next((name for name in ("N", "D", *columns) if name in columns), "")
    if not curves and along not in columns:
        raise BadInput(f"no column '{along}' to extrapolate along; columns: {', '.join(sorted(columns))}")
    kept, reasons = _applicable(asked, columns, loss, stderr, weights, response, None if curves else along)
    points = next(iter(kept.values()))[1]
    if curves:
        design = curve_design(points.columns["curve"], points.columns["step"])
    else:
        design = size_design(np.asarray(points.columns[along], np.float64), reach)
    fitted = {name: _fit_all(law, objective, its, design) for name, (law, its) in kept.items()}
    if not curves:
        fitted = _stand_in(fitted, line_forecast(points.columns[along], points.loss, design.folds))
    names = {law.name for law in asked}
    entries = {name: entry for name, entry in fitted.items() if name in names}
    reasons |= {name: why for name, entry in entries.items() if (why := _untested(entry, design))}
    entries = {name: entry for name, entry in entries.items() if name not in reasons}
    if not entries:
        raise BadInput("no law can be backtested: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
    return _report(asked, entries, reasons, design, objective, points.loss, reach)


def _applicable(
    asked: Sequence[Law],
    columns: Mapping[str, Any],
    loss: Any,
    stderr: Any,
    weights: Any,
    response: str,
    along: str | None,
) -> tuple[dict[str, tuple[Law, Points]], dict[str, str]]:
    """Checked points of the laws that apply and of their simpler laws, and why the others do not."""
    pool = {other.name: other for law in asked for other in law.simpler_laws()} | {law.name: law for law in asked}
    kept, reasons = {}, {}
    for name, law in pool.items():
        try:
            if law.response != response:
                raise BadInput(f"predicts {law.response}, not {response}")
            if law.whole_curves != (along is None):
                raise BadInput("a law of whole curves" if law.whole_curves else "a law of points, not of whole curves")
            if along is not None and along not in law.inputs:
                raise BadInput(f"does not read {along}, along which the backtests extrapolate")
            kept[name] = (law, checked(law, columns, loss, stderr, weights))
        except BadInput as error:
            reasons[name] = str(error)
    reasons = {law.name: reasons[law.name] for law in asked if law.name in reasons}
    if len(reasons) == len(asked):
        raise BadInput("no law applies: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
    return kept, reasons


def _fit_all(law: Law, objective: Objective, points: Points, design: Design) -> _Entry:
    """The law fitted to all points and to every backtest's, in one solver call; each takes its best variant."""
    masks = design.fits(points.loss.size)
    own = np.array([_carries(law, points, mask) for mask in masks])
    feasible = [mask if carried else masks[0] for mask, carried in zip(masks, own, strict=True)]
    forms = law.variants()
    found = [_padded_fit(form, objective, points, feasible) for form in forms]
    best = np.stack([fits.value for fits in found]).argmin(0)
    chosen = [found[form] for form in best]
    forecast = np.stack([fits.forecast[row] for row, fits in enumerate(chosen)])
    forecast[~own] = np.nan
    return _Entry(forms[best[0]], points, own, forecast, chosen[0].theta[0], float(chosen[0].value[0]))


class _Fits(NamedTuple):
    theta: np.ndarray  # (fits, P)
    value: np.ndarray  # (fits,), the objective
    forecast: np.ndarray  # (fits, n), log responses


def _padded_fit(law: Law, objective: Objective, points: Points, masks: list[np.ndarray]) -> _Fits:
    """The law fitted to each mask. Padded with left-out points and repeated fits: similar tables share one program."""
    n, fits = points.loss.size, len(masks)
    rows = np.concatenate([np.arange(n), np.zeros(max(32, 1 << (n - 1).bit_length()) - n, int)])
    real = np.arange(rows.size) < n
    padded = [mask[rows] & real for mask in masks + masks[-1:] * (MOST_FITS - fits)]
    features = {name: value[rows] for name, value in points.features.items()}
    solution = fit_subsets(law, objective, features, points.loss[rows], points.weight[rows], padded)
    forecast = log_forecast(law, objective, features, solution.best())
    return _Fits(solution.best()[:fits], solution.objective.min(1)[:fits], forecast[:fits, :n])


def _carries(law: Law, points: Points, mask: np.ndarray) -> bool:
    """Whether the points can be fitted with one left over to disagree."""
    columns = [column[mask].tolist() for column in points.columns.values()]
    return len(set(zip(*columns, strict=True))) > len(law.parameters)


def _stand_in(entries: dict[str, _Entry], line: np.ndarray) -> dict[str, _Entry]:
    """Forecasts of the backtests that a law cannot carry, from the largest of its simpler laws that can, or the line's."""
    filled = {}
    for name, entry in entries.items():
        forecast = entry.forecast.copy()
        forecast[1:] = np.where(entry.own[1:, None], forecast[1:], line)
        simpler = sorted((entries[s] for s in entry.law.simpler if s in entries), key=lambda e: len(e.law.parameters))
        for other in simpler:
            forecast = np.where((other.own & ~entry.own)[:, None], other.forecast, forecast)
        filled[name] = entry._replace(forecast=forecast)
    return filled


def _untested(entry: _Entry, design: Design) -> str:
    """Why the law cannot be compared, or nothing."""
    if not entry.own[:2].all() or entry.own[2:].sum() < min(2, (len(design.inner) + 1) // 2):
        carried = f"{int(entry.own[2:].sum())} of {len(design.inner)} inner backtests"
        return f"its {len(entry.law.parameters)} parameters can be fitted in only {carried}"
    tested = [entry.forecast[row + 1, fold.test] for row, fold in enumerate(design.folds)]
    if not np.isfinite(np.concatenate(tested)).all():
        return "no finite forecast of every backtest"
    return ""


def _report(
    asked: Sequence[Law],
    entries: dict[str, _Entry],
    reasons: dict[str, str],
    design: Design,
    objective: Objective,
    loss: np.ndarray,
    reach: float,
) -> Selection:
    names = list(entries)
    count = np.array([len(entry.law.parameters) for entry in entries.values()])
    missed = np.stack([entry.forecast for entry in entries.values()]) - np.log(loss)  # (laws, fits, n)
    inner = [missed[:, row + 2, fold.test] for row, fold in enumerate(design.inner)]
    outer = missed[:, 1, design.outer.test]
    found = combine(inner, design.weight, count)
    rolled = prequential(inner, design.weight, count)
    recommended = "average" if rolled["average"] < rolled["choice"] else "choice"
    alone = np.sqrt(np.mean(outer**2, axis=1))
    rows = [_candidate(entries[n], objective, found, i, float(alone[i])) for i, n in enumerate(names)]
    rest = [Candidate(law.name, len(law.parameters), reason=reasons[law.name]) for law in asked if law.name in reasons]
    chosen = names[found.choice]
    reported = {
        "choice": float(alone[found.choice]),
        "average": float(np.sqrt(np.mean((found.weight @ outer) ** 2))),
    }
    forecasts = {name: entry.forecast[2:] for name, entry in entries.items()}
    return Selection(
        rows=(*sorted(rows, key=lambda row: (row.inner_error or 0.0, row.parameters)), *rest),
        chosen=chosen,
        recommended=recommended,
        inner=rolled,
        outer=reported,
        reach={"asked": float(reach), "backtested": design.reach},
        backtest={"outer": design.outer.name, "inner": errors(design.inner, forecasts, loss)["folds"]},
        objective=objective,
        n=loss.size,
        warnings=tuple(_warnings(design, reach, found, reported[recommended])),
        fitted=tuple((e.law, e.theta, float(w)) for e, w in zip(entries.values(), found.weight, strict=True)),
    )


def _candidate(entry: _Entry, objective: Objective, found: Combination, row: int, outer: float) -> Candidate:
    points = entry.points
    residual = entry.forecast[0] - np.log(points.loss)
    if objective.space == "linear":
        residual = np.exp(entry.forecast[0]) - points.loss
    count = len(entry.law.parameters)
    facts = information(objective, residual, points.weight, count + (len(entry.law.variants()) > 1))
    return Candidate(
        law=entry.law.name,
        parameters=count,
        objective=entry.objective,
        aic=facts.get("aic"),
        inner_error=float(found.error[row]),
        outer_error=outer,
        weight=float(found.weight[row]),
    )


def _warnings(design: Design, reach: float, found: Combination, outer: float) -> list[str]:
    said = []
    if design.reach < 0.9 * reach and "left_out" not in design.outer.name:
        said.append(
            f"the sizes span too little to backtest a forecast {reach:g} times ahead: backtests reach "
            f"{design.reach:.3g} times, so errors at {reach:g} times may be larger than reported"
        )
    if len(design.inner) < 5:
        said.append(f"the choice rests on {len(design.inner)} inner backtest{'s' * (len(design.inner) > 1)}")
    if outer > 3 * found.error.min() and outer > 1e-6:
        said.append(
            f"the outer backtest's error, {outer:.2%}, is far above the inner ones': the curve changes its form"
        )
    return said
