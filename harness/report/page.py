"""The page: inputs to pictures, words and tables, and through one template to one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.config import WORKLOADS
from harness.records.files import atomic_write_text, own_folder
from harness.report import sections, text
from harness.report.canvas import Picture
from harness.report.checked import check_sections
from harness.report.inputs import Inputs, mapping, numbers, read, sequence, settings
from harness.report.pictures_curves import Curves, curves_picture
from harness.report.pictures_drift import best_learning_rate_picture, drift_picture
from harness.report.pictures_rates import learning_rate_pictures
from harness.report.pictures_scaling import law_picture
from harness.report.scaling import scaling
from harness.report.template import render
from harness.report.trials import Arranged, Series, arrange
from workloads.base import BadInput

FILE = "report.html"
FIGURES = "figures"
MOST_SERIES = 24


@dataclass(frozen=True)
class Section:
    """Pictures and tables under one heading. facts: (heading, sentence, pairs). tables: (heading, sentence, table)."""

    id: str
    title: str
    lead: str
    pictures: list[Picture]
    tables: list[tuple[str, str, sections.Table]]
    facts: list[tuple[str, str, sections.Pairs]]
    missing: str = ""


def write_report(root: Path) -> Path:
    """Write results/<study>/report.html and figures/*.png from the study's records at `root`; returns the page's path.

    Missing, partial or malformed files leave a note on the page. Raises BadInput if there is no folder at `root`, or it
    cannot be written to.
    """
    inputs = read(root)
    arranged = arrange(inputs)
    parts = _sections(inputs, arranged)
    page = _render(inputs, arranged, parts)
    try:
        figures = own_folder(root / FIGURES)
        for part in parts:
            for picture in part.pictures:
                picture.write_png(figures)
        atomic_write_text(root / FILE, page)
    except OSError as error:
        raise BadInput(f"cannot write the report to {root}: {error.strerror}; make the folder writable") from None
    return root / FILE


def _sections(inputs: Inputs, arranged: Arranged) -> list[Section]:
    series = arranged.series[:MOST_SERIES]
    if len(arranged.series) > MOST_SERIES:
        inputs.notes.append(f"{MOST_SERIES} of {len(arranged.series)} series have pictures; all are in the records.")
    unit = _unit(inputs)
    checked = [Section(**vars(found)) for found in check_sections(inputs.checks)]
    asked = [mapping(analysis) for analysis in sequence(inputs.study.get("analyses"))]
    parts = [
        *([_transfer(series, arranged.axis, unit)] if not checked or any("transfer" in a for a in asked) else []),
        *([_scaling(series, inputs, unit)] if not checked or any("law" in a for a in asked) else []),
        *checked,
        _curves(series, inputs, arranged, unit),
    ]
    return parts


def _transfer(series: list[Series], axis: str | None, unit: str) -> Section:
    across = [best_learning_rate_picture(series, axis), drift_picture(series, axis)]
    pictures = [*learning_rate_pictures(series, axis, unit), *(picture for picture in across if picture)]
    tables = [
        (one.name, sections.transfer_summary(one, axis), table)
        for one in series
        if (table := sections.transfer_table(one, axis)) is not None
    ]
    return Section(
        id="transfer",
        title="Learning-rate transfer",
        lead=f"Does the best learning rate at one {text.key_name(axis) if axis else 'scale'} stay best at the others?",
        pictures=pictures,
        tables=tables,
        facts=[],
        missing="" if pictures else "No trials at several learning rates are recorded, so there is nothing to compare.",
    )


def _scaling(series: list[Series], inputs: Inputs, unit: str) -> Section:
    pictures, facts = [], []
    for i, one in enumerate(series):
        law = scaling(one, inputs.notes)
        if law is None:
            continue
        pictures.append(law_picture(i, one, law, unit))
        pairs = sections.law_facts(one) + sections.prediction_facts(one, inputs, law.observed)
        if pairs:
            facts.append((one.name, "", pairs))
    return Section(
        id="scaling",
        title="Loss against size",
        lead="Can small models predict the loss of a larger one? The prediction is written down before it is trained.",
        pictures=pictures,
        tables=[],
        facts=facts,
        missing="" if pictures else "There are no losses at fitted best learning rates, so no law is fitted.",
    )


def _curves(series: list[Series], inputs: Inputs, arranged: Arranged, unit: str) -> Section:
    wanted = {str(trial) for one in series for scale in one.scales for trial in scale.trial[scale.best()]}
    curves = _by_trial(inputs.curves(wanted)) if wanted else {}
    found = (curves_picture(i, one, curves, arranged.axis, unit) for i, one in enumerate(series))
    pictures = [picture for picture in found if picture]
    return Section(
        id="training",
        title="Training curves",
        lead="The runs at each scale's best learning rate.",
        pictures=pictures,
        tables=[],
        facts=[],
        missing="" if pictures else "No training curves are recorded.",
    )


def _by_trial(table: pa.Table) -> Curves:
    """The long table of curves as trial -> column -> values; a trial's points are adjacent."""
    if not table.num_rows:
        return {}
    names = np.array(table["trial"].to_pylist())
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    columns = {name: numbers(table, name) for name in ("step", "tokens", "train_loss", "eval_loss")}
    ends = [*starts[1:], names.size]
    return {
        str(names[a]): {name: column[a:b] for name, column in columns.items()}
        for a, b in zip(starts, ends, strict=True)
    }


def _unit(inputs: Inputs) -> str:
    """ " (nats/token)", where the workload's metric is its loss."""
    name = settings(inputs.study).get("workload")
    if name is None and "workload" in inputs.table.column_names and inputs.table.num_rows:
        name = inputs.table["workload"][0].as_py()
    if not isinstance(name, str) or name not in WORKLOADS:
        return ""
    metric = WORKLOADS[name].metric
    return f" ({metric.unit})" if metric.name == "loss" and metric.unit else ""


def _render(inputs: Inputs, arranged: Arranged, parts: list[Section]) -> str:
    trials, left_out = sections.trial_table(inputs, arranged)
    context: dict[str, Any] = {
        "name": text.clean(inputs.study.get("name") or inputs.root.name),
        "question": text.clean(inputs.study.get("question") or ""),
        "claims": sections.claims(inputs, arranged.axis),
        "notes": inputs.notes,
        "headline": list(_headline(inputs)),
        "sections": parts,
        "ran": sections.ran(inputs, arranged),
        "data": sections.data_facts(inputs.data),
        "clocks": sections.clocks(inputs.table),
        "trials": trials,
        "left_out": left_out,
        "commands": _commands(inputs),
        "study_text": inputs.study_text,
    }
    return render("report.html", context)


def _headline(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """The numbers under the title."""
    table = inputs.table
    if not table.num_rows:
        return
    yield "trials", f"{table.num_rows:,}"
    for name, title, show in (
        ("tokens", "tokens", text.quantity),
        ("flops", "FLOPs", text.quantity),
        ("train_s", "training time", text.seconds),
    ):
        values = numbers(table, name)
        values = values[np.isfinite(values)]
        if values.size:
            yield title, show(values.sum())
    devices = (
        {str(value) for value in table["device"].unique().to_pylist() if value}
        if "device" in table.column_names
        else set()
    )
    if devices:
        yield "on", text.short(", ".join(sorted(devices)), 48)


def _commands(inputs: Inputs) -> list[tuple[str, str]]:
    """(what it does, command) in the order of a newcomer."""
    name = text.short(inputs.study.get("name") or inputs.root.name, 80)
    versions = inputs.table["code_version"].unique().to_pylist() if "code_version" in inputs.table.column_names else []
    commits = [str(v).partition("+")[2].removesuffix("-dirty") for v in versions if v and "+" in str(v)]
    steps = [("the code of the recorded trials", f"git checkout {text.short(commits[0], 48)}")] if commits else []
    return [
        *steps,
        ("an environment with the pinned packages", "make venv"),
        ("train what is missing, analyse and report", f".venv/bin/python -m harness.study study={name}"),
        ("list the trials", f".venv/bin/python -m harness.runs study={name} sort=final_loss"),
        ("write this page again", f".venv/bin/python -m harness.report study={name}"),
    ]
