"""Fit laws to a table of runs: parameters with honest error bars, what is not identifiable, how it would have predicted.

  python -m harness.fit law=chinchilla runs=points.csv columns.N=params columns.D=tokens outliers.drop_highest=5 out=DIR
  python -m harness.fit law=power_law_offset runs=results/quickstart columns.N=params columns.loss=final_loss
  python -m harness.fit law=all runs=points.csv columns.N=params columns.D=tokens      every applicable law, side by side
  python -m harness.fit law=isoflop runs=points.csv columns.N=params columns.flops=C   a procedure, in several stages
  python -m harness.fit law=my_law.py:law runs=points.csv                              your own form (harness/laws/custom.py)
  python -m harness.fit                                                                lists laws and procedures

runs: CSV, TSV, Parquet, JSONL, JSON (also .gz), a W&B export, a study's folder, or a pattern of files ("curves/*.csv").
columns.N=COLUMN says which column a law's input is; arithmetic is allowed: columns.D="flops / (6 * params)".
where, held_out: SQL conditions; rows of held_out are only predicted. options.KEY: options of a law or procedure.
resample: auto, parametric, points or cluster (with cluster=COLUMN). profile: parameters to profile, or all.
predict.N=1e10,2e10: predictions with intervals. compute=1e21,1e22: compute-optimal sizes, for laws of N and D
(given.U=1e11 for what else the law reads).
out=DIR writes fit.json, report.html and figures/*.png.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.cli import help_text, parse, run, wants_help
from harness.engine.devices import configure
from harness.laws import LAWS, Fit, Law, Objective, fit
from harness.laws.allocation import allocate
from harness.laws.custom import load_law, with_options
from harness.laws.fitting.select import select
from harness.laws.pictures import plots_of
from harness.laws.procedures import PROCEDURES, Procedure, Settings
from harness.points import Points, Source, broadcast_lists, numbers, read_points
from harness.records.files import write_json
from harness.records.listing import show
from harness.registry import nearest
from harness.report.document import Section, write_document
from harness.report.fitted import (
    allocation_section,
    data_section,
    estimate_sections,
    held_out_errors,
    held_out_section,
    law_sections,
    predictions_section,
    selection_section,
)
from harness.report.terminal import print_section
from workloads.base import BadInput


@dataclass
class Minimised:
    """What is minimised; empty: the law's own (usually huber, delta 0.02, log space, symmetric)."""

    kind: str | None = None
    delta: float | None = None
    space: str | None = None
    asymmetry: float | None = None


@dataclass
class FitConfig(Source):
    """law: a law, a procedure, `all`, or FILE.py:NAME."""

    law: str = ""
    options: dict[str, str] = field(default_factory=dict)
    objective: Minimised = field(default_factory=Minimised)
    bootstrap: int = 1000
    resample: str = "auto"
    profile: str = ""
    predict: dict[str, str] = field(default_factory=dict)
    compute: str = ""
    given: dict[str, str] = field(default_factory=dict)
    response: str = "loss"
    seed: int = 0
    out: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run of the command found. document: fit.json; sections: the same for readers; title, lead: of the page."""

    title: str
    lead: str
    document: dict[str, Any]
    sections: tuple[Section, ...]


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if wants_help(argv):
        print(help_text(__doc__, FitConfig))
        return 0
    config = parse(argv, FitConfig)
    if not config.law:
        _list()
        return 0
    configure()
    outcome = _estimate(config)
    for section in outcome.sections:
        print_section(section)
    if config.out:
        command = "python -m harness.fit " + shlex.join(argv)
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(config.out) / "fit.json", {**outcome.document, "command": command})
        print(write_document(Path(config.out), outcome.title, outcome.lead, outcome.sections, command), file=sys.stderr)
    return 0


def _estimate(config: FitConfig) -> Outcome:
    options = {key: yaml.safe_load(str(value)) for key, value in config.options.items()}
    if config.law == "all":
        return _all(config)
    if config.law in PROCEDURES:
        return _procedure(config, with_options(PROCEDURES[config.law], options))
    if ".py" not in config.law and config.law not in LAWS:
        known = {**dict.fromkeys(LAWS), **dict.fromkeys(PROCEDURES), "all": None}
        raise BadInput(f"unknown law '{config.law}'. {nearest(config.law, known)}")
    return _law(config, load_law(config.law, options))


def _law(config: FitConfig, law: Law) -> Outcome:
    curves: dict[str, tuple[str, ...]] = {
        "text": ("curve",),
        "may_be_zero": ("step", "lr"),
        "may_lack": (law.response,),
    }
    of_curves = curves if law.whole_curves else {}
    points = read_points(config, (*law.inputs, law.response), response=law.response, **of_curves)
    if law.whole_curves and points.held_out is not None:
        _whole_curves_only(points)
    return _fitted(config, law, points)


def _whole_curves_only(points: Points) -> None:
    """Raise BadInput where held-out rows belong to a fitted curve: without its earlier rows their schedule is unknown."""
    assert points.held_out is not None
    both = sorted({*points.columns["curve"].tolist()} & {*points.held_out["curve"].tolist()})
    if both:
        raise BadInput(
            f"held_out= splits curve '{both[0]}'; laws of whole curves need the schedule from its start: hold out whole "
            "curves, e.g. held_out=\"curve='NAME'\""
        )


def _fitted(config: FitConfig, law: Law, points: Points) -> Outcome:
    """The law fitted to the points, and whatever else was asked for."""
    columns = {name: points.columns[name] for name in law.inputs}
    observed = points.columns[law.response]
    fitted = fit(
        law,
        columns,
        observed,
        stderr=points.columns.get("stderr"),
        weights=points.columns.get("weights"),
        cluster=points.columns.get("cluster"),
        objective=_objective(config, law),
        bootstrap=config.bootstrap,
        kind=config.resample,
        profiled=_profiled(config, law),
        seed=config.seed,
    )
    document = fitted.to_json() | {"data": points.data, "options": _options(config, fitted)}
    seen = np.isfinite(observed)
    plots = plots_of(fitted, {name: column[seen] for name, column in columns.items()}, observed[seen])
    sections = list(law_sections(fitted, plots))
    for key, value, section in _further(config, fitted, points):
        document[key] = value
        sections.append(section)
    lead = f"{law.name} fitted to {fitted.n} points of {points.data['source']}."
    return Outcome(f"{law.name}: fit", lead, document, (*sections, data_section(points.data)))


def _further(config: FitConfig, fitted: Fit, points: Points) -> list[tuple[str, Any, Section]]:
    """Held-out errors, predictions and compute-optimal sizes, where asked for: (key of fit.json, value, section)."""
    found: list[tuple[str, Any, Section]] = []
    if points.held_out is not None:
        errors = held_out_errors(fitted, points.held_out, config.held_out)
        found.append(("held_out", errors, held_out_section(errors)))
    if config.predict:
        rows = _predictions(fitted, config)
        found.append(("predictions", rows, predictions_section(rows)))
    if config.compute:
        allocation = allocate(
            fitted,
            numbers("compute", config.compute),
            columns=points.columns,
            given={name: float(numbers(f"given.{name}", value)[0]) for name, value in config.given.items()},
        )
        known = {warning for warning in allocation.warnings if warning not in fitted.warnings}
        section = allocation_section(replace(allocation, warnings=tuple(sorted(known))))
        found.append(("allocation", allocation.to_json(), section))
    return found


def _predictions(fitted: Fit, config: FitConfig) -> list[dict[str, float]]:
    inputs = broadcast_lists(config.predict, fitted.law.inputs, "predict")
    predicted = fitted.predict(inputs)
    columns = {**inputs, fitted.law.response: predicted.mean, "low": predicted.low, "high": predicted.high}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _objective(config: FitConfig, law: Law) -> Objective:
    asked = config.objective
    default = law.objective
    return Objective(
        kind=asked.kind or default.kind,  # type: ignore[arg-type]
        delta=default.delta if asked.delta is None else asked.delta,
        space=asked.space or default.space,  # type: ignore[arg-type]
        asymmetry=default.asymmetry if asked.asymmetry is None else asked.asymmetry,
    )


def _profiled(config: FitConfig, law: Law) -> Sequence[str]:
    if config.profile == "all":
        return tuple(law.parameters)
    return tuple(word for word in config.profile.split(",") if word)


def _options(config: FitConfig, fitted: Fit) -> dict[str, Any]:
    """What was chosen, with defaults filled in."""
    return {
        "law": config.law,
        "options": dict(vars(fitted.law)),
        "bootstrap": config.bootstrap,
        "resample": fitted.refits.kind,
        "held_out": config.held_out or None,
        "seed": config.seed,
    }


def _all(config: FitConfig) -> Outcome:
    """Every law of the response whose columns the table has, chosen between on inner backtests; then the chosen one."""
    if config.response not in {LAWS[name].response for name in LAWS}:
        raise BadInput(
            f"no law predicts '{config.response}'. {nearest(config.response, {LAWS[n].response for n in LAWS})}"
        )
    laws = {
        name: LAWS[name]() for name in LAWS if LAWS[name].response == config.response and not LAWS[name].whole_curves
    }
    inputs = tuple(dict.fromkeys(column for law in laws.values() for column in law.inputs))
    points = read_points(config, (config.response,), optional=inputs, response=config.response)
    columns = {name: points.columns[name] for name in inputs if name in points.columns}
    found = select(
        laws.values(),
        columns,
        points.columns[config.response],
        response=config.response,
        stderr=points.columns.get("stderr"),
        weights=points.columns.get("weights"),
        objective=_objective(config, next(iter(laws.values()))),
    )
    law = laws[found.chosen]
    asked = {name: value for name, value in config.predict.items() if name in law.inputs or name not in inputs}
    chosen = _fitted(replace(config, predict=asked), law, points)
    document = chosen.document | {"selection": found.to_json()}
    lead = f"{law.name} chosen among {len(laws)} laws on inner backtests."
    return Outcome("Laws side by side", lead, document, (selection_section(found), *chosen.sections))


def _procedure(config: FitConfig, procedure: Procedure) -> Outcome:
    points = read_points(
        config,
        procedure.columns,
        text=procedure.text,
        optional=procedure.optional,
        may_be_zero=procedure.may_be_zero,
        may_lack=procedure.may_lack,
        response="loss" if "loss" in procedure.columns else None,
    )
    found = procedure.run(points.columns, Settings(config.bootstrap, config.seed))
    document = {
        "procedure": found.procedure,
        "n": found.n,
        **found.values,
        "fits": {name: one.to_json() for name, one in found.fits.items()},
        "warnings": list(found.warnings),
        "dropped": dict(found.dropped),
        "data": points.data,
        "options": {"options": vars(procedure), "bootstrap": config.bootstrap, "seed": config.seed},
    }
    lead = f"{procedure.name} on {found.n} rows of {points.data['source']}."
    return Outcome(procedure.name, lead, document, (*estimate_sections(found), data_section(points.data)))


def _list() -> None:
    """Laws and procedures with the first sentence of each."""
    for kind, registry in (("laws", LAWS), ("procedures", PROCEDURES)):
        print(f"\n{kind}")
        rows = []
        for name in sorted(registry):
            cls: Any = registry[name]
            columns = (*cls.inputs, cls.response) if kind == "laws" else cls.columns
            rows.append((name, ", ".join(columns), (cls.__doc__ or "").split(".  ")[0].splitlines()[0]))
        show(("name", "columns", "what"), rows, fixed=True)
    print("\nlaw=NAME runs=TABLE fits one; --help explains the rest")


if __name__ == "__main__":
    sys.exit(run(main))
