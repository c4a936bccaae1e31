"""What a fitted law, a choice between laws, or a procedure says to a reader: sections of the page and of the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.laws import Fit
from harness.laws.allocation import Allocation
from harness.laws.fitting.select import Selection
from harness.laws.plots import Plot
from harness.laws.procedures import Estimate, Table
from harness.report.document import Section


def law_sections(fit: Fit, plots: tuple[Plot, ...]) -> tuple[Section, ...]:
    """Parameters, pictures, what the data determine, and backtests of one fitted law."""
    return (_parameters(fit), _determined(fit), _backtest(fit.backtest), Section("Pictures", plots=plots))


def _parameters(fit: Fit) -> Section:
    profiled = {name: tuple(found["ci95"]) for name, found in fit.profile.items()}
    rows = tuple(
        (name, value, fit.stderr[name], fit.bootstrap_stderr[name], *fit.ci95[name], *profiled.get(name, (None, None)))
        for name, value in fit.params.items()
    )
    header = ("parameter", "value", "sandwich SE", "bootstrap SE", "95% low", "95% high", "profile low", "profile high")
    width = 8 if profiled else 6
    loss, refits = fit.loss, fit.refits
    kind = f"{loss.kind}({loss.delta:g})" if loss.kind == "huber" else loss.kind
    skew = "" if loss.asymmetry == 0.5 else f", asymmetry {loss.asymmetry:g}"
    facts = [
        ("law", inspect.getdoc(fit.law).splitlines()[0] if inspect.getdoc(fit.law) else fit.law.name),  # type: ignore[union-attr]
        ("points", str(fit.n)),
        ("objective", f"{fit.objective:.8g}, sum of {kind} on {loss.space} residuals{skew}"),
        ("starts", "{count}; of the {finished} followed to the end {at_best} reached the minimum".format(**fit.starts)),
        ("intervals", f"{refits.kind}, {refits.theta.shape[0]} refits of {refits.groups} {_grouped(refits.kind)}"),
        ("residuals", f"root mean square {fit.residuals['rms']:.3g}, median {fit.residuals['median_abs']:.3g}"),
    ]
    if fit.information:
        scores = ", ".join(f"{k.upper()} {fit.information[k]:.6g}" for k in ("aic", "bic"))
        facts.append(("information", f"{scores} under {fit.information['likelihood']}"))
    if fit.variants:
        facts.append(("profiled form", ", ".join(f"{form}: {value:.8g}" for form, value in fit.variants.items())))
    tables = (Table("Parameters", header[:width], tuple(row[:width] for row in rows)),)
    return Section("Fit", facts=tuple(facts), tables=tables, warnings=fit.warnings)


def _grouped(kind: str) -> str:
    return "clusters" if kind in ("cluster", "jackknife") else "points"


def _determined(fit: Fit) -> Section:
    report = fit.identifiable
    flat = sorted(report.flat_direction.items(), key=lambda item: -abs(item[1]))
    loosest = ", ".join(f"{name} {share:+.2f}" for name, share in flat if abs(share) > 0.05)
    facts = [
        ("condition number", f"{report.condition_number:.3g}"),
        ("flattest direction", f"{loosest} (standard error {report.flat_stderr:.3g})"),
        ("not determined", ", ".join(report.loose) or "none"),
        ("at a bound", ", ".join(report.bounds_hit) or "none"),
        ("other minima as low", str(len(report.equal_minima)) if report.equal_minima else "none"),
    ]
    text = (
        "The data determine every parameter."
        if report.ok
        else "The data do not determine every parameter; predictions may be sound all the same, coefficients are not."
    )
    return Section("What the data determine", text=text, facts=tuple(facts))


def _backtest(backtest: Mapping[str, Any]) -> Section:
    if not backtest["folds"]:
        return Section("Backtest", text="Too few sizes (or curves) to hold any out.")
    names = list(backtest["mean_abs_error"])
    rows = [(_fold(fold), *(100 * fold["error"][name] for name in names)) for fold in backtest["folds"]]
    mean = ("mean of absolute errors", *(100 * backtest["mean_abs_error"][name] for name in names))
    header = ("held out", *(f"{name}, %" for name in names))
    text = "Each fit saw only the points before (or the other curves); errors are relative, of what was held out."
    return Section("Backtest", text=text, tables=(Table("Errors of predictions", header, (*rows, mean)),))


def _fold(fold: Mapping[str, Any]) -> str:
    if "left_out" in fold:
        return str(fold["left_out"])
    return f"{fold['size_predicted']:.4g} from {fold['sizes_fitted']} smaller"


def held_out_section(found: Mapping[str, Any]) -> Section:
    facts = (
        ("points", str(found["n"])),
        ("root mean square error", f"{100 * found['rms']:.3g} % of the loss"),
        ("mean error", f"{100 * found['mean']:+.3g} %"),
        ("inside the 95% interval", f"{100 * found['covered']:.0f} %"),
    )
    return Section("Held-out points", text=f"Rows with {found['condition']} took no part in the fit.", facts=facts)


def predictions_section(rows: list[dict[str, float]]) -> Section:
    header = tuple(rows[0])
    return Section(
        "Predictions",
        text="The interval holds the loss of one new run with 95%: parameters and noise.",
        tables=(Table("Predictions", header, tuple(tuple(row.values()) for row in rows)),),
    )


def allocation_section(found: Allocation) -> Section:
    """Compute-optimal sizes."""
    entry = found.to_json()
    header = ("FLOPs", "N", "N low", "N high", "D", "D low", "D high", "loss", "loss low", "loss high")
    rows = tuple(
        (row["compute"], *(v for key in ("N", "D", "loss") for v in (row[key], *row[f"{key}_ci95"])))
        for row in entry["budgets"]
    )
    facts = tuple(
        (f"{name}* ~ compute^", f"{one.value:.4g}, 95% [{one.ci95[0]:.4g}, {one.ci95[1]:.4g}], SE {one.stderr:.2g}")
        for name, one in found.exponents.items()
    )
    return Section(
        "Compute-optimal sizes",
        facts=facts,
        tables=(Table("Budgets", header, rows),),
        plots=(found.plot(),) if len(rows) > 1 else (),
        warnings=found.warnings,
    )


def selection_section(found: Selection) -> Section:
    """Laws side by side, chosen on inner backtests and reported on an outer one."""
    header = ("law", "parameters", "objective", "AIC", "inner error, %", "outer error, %", "weight", "left out because")
    rows = tuple(
        (row.law, row.parameters, row.objective, row.aic, _percent(row.inner_error), _percent(row.outer_error), row.weight,
         row.reason)
        for row in found.rows
    )  # fmt: skip
    by = {name: 100 * value for name, value in found.outer.items()}
    text = (
        "Laws are ranked, and one is chosen, by errors on inner backtests; the outer backtest took no part in the choice. "
        "Among laws that the inner backtests cannot tell apart, fewer parameters win."
    )
    facts = (
        ("chosen law", found.chosen),
        ("recommended for forecasts", f"the {found.recommended}"),
        ("outer error", ", ".join(f"{name} {value:.3g} %" for name, value in by.items())),
        (
            "forecast",
            f"{found.reach['asked']:g} times the largest size; backtested at {found.reach['backtested']:.3g} times",
        ),
    )
    return Section(
        "Laws side by side", text=text, facts=facts, tables=(Table("Laws", header, rows),), warnings=found.warnings
    )


def _percent(error: float | None) -> float | None:
    return None if error is None else 100 * error


def estimate_sections(found: Estimate) -> tuple[Section, ...]:
    """A procedure's tables and pictures, then the laws fitted on the way."""
    dropped = tuple((f"left out: {reason}", str(count)) for reason, count in found.dropped.items())
    first = Section(
        found.procedure, facts=(("rows", str(found.n)), *dropped), tables=found.tables, plots=found.plots,
        warnings=found.warnings,
    )  # fmt: skip
    laws = []
    for name, fit in found.fits.items():
        part = _parameters(fit)
        laws.append(
            Section(
                name if name == fit.law.name else f"{name}: {fit.law.name}",
                "",
                part.facts,
                part.tables,
                (),
                part.warnings,
            )
        )
    return (first, *laws)


def data_section(data: Mapping[str, Any]) -> Section:
    """Which rows were used, and why the others were not."""
    facts = [("table", str(data["source"])), ("rows", f"{data['rows_used']} used of {data['rows_read']} read")]
    facts += [(f"left out: {reason}", str(count)) for reason, count in data["dropped"].items()]
    facts += [(f"columns.{name}", column) for name, column in data["columns"].items()]
    facts += [("note", note) for note in data["notes"]]
    return Section("Data", facts=tuple(facts))


def held_out_errors(fit: Fit, held: Mapping[str, np.ndarray], condition: str) -> dict[str, Any]:
    """{"n", "rms", "mean", "covered"} of log(predicted / observed) on rows that took no part."""
    predicted = fit.predict({name: held[name] for name in fit.law.inputs})
    observed = held[fit.law.response]
    error = np.log(predicted.mean / observed)
    return {
        "condition": condition,
        "n": int(observed.size),
        "rms": float(np.sqrt(np.mean(error**2))),
        "mean": float(error.mean()),
        "covered": float(np.mean((predicted.low <= observed) & (observed <= predicted.high))),
    }
