"""The words and tables of the page, as plain values that the template escapes."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.analysis import LEARNING_RATE, series_name
from harness.laws import LAWS
from harness.report import text
from harness.report.inputs import Inputs, array, mapping, numbers, sequence, settings
from harness.report.text import MISSING, interval, key_name, number
from harness.report.trials import Arranged, Series

MOST_ROWS = 1000
MOST_FACTS = 60
VERDICTS = {"supported": "✓", "refuted": "✗", "undecided": "?"}
CLOCKS = ("compile", "data", "train", "eval", "checkpoint", "records")

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Claim:
    """statement and verdict in words; evidence: the sentence; numbers: what it rests on."""

    statement: str
    verdict: str
    mark: str
    evidence: str
    numbers: Pairs
    source: str


def claims(inputs: Inputs, axis: str | None) -> list[Claim]:
    return [_claim(entry, inputs, key_name(axis) if axis else "scale") for entry in inputs.claims]


def _claim(entry: Mapping[str, Any], inputs: Inputs, scale: str) -> Claim:
    claim, evidence = mapping(entry.get("claim")), mapping(entry.get("evidence"))
    verdict = str(entry.get("verdict")) if str(entry.get("verdict")) in VERDICTS else "undecided"
    shown = [(key_name(key), _evidence(value)) for key, value in evidence.items() if key not in ("reason", "verdict")]
    return Claim(
        statement=_statement(claim, inputs, scale),
        verdict=verdict,
        mark=VERDICTS[verdict],
        evidence=text.sentence(evidence.get("reason") or "No evidence is recorded."),
        numbers=shown[:MOST_FACTS],
        source=str(claim.get("source") or ""),
    )


def _statement(claim: Mapping[str, Any], inputs: Inputs, scale: str) -> str:
    def of(kind: str) -> str:
        chosen = claim[kind]
        return series_name(chosen) if isinstance(chosen, dict) and chosen else "all trials"

    match claim:
        case {"drift": _, "expect": "zero"}:
            return f"{of('drift')}: the best learning rate does not move with {scale}"
        case {"drift": _, "expect": "nonzero"}:
            return f"{of('drift')}: the best learning rate moves with {scale}"
        case {"prediction": _, "expect": "hit"}:
            target = inputs.prediction.get("scale")
            where = f"{scale} {text.quantity(target)}" if number(target) is not None else "the next size"
            return f"{of('prediction')}: smaller models predict the loss at {where} before it is trained"
        case {"regret": _, "expect": str(bound)}:
            return f"{of('regret')}: keeping the smallest {scale}'s best learning rate costs {bound} at the largest"
        case {"expect": str(word)} if kind := next((key for key in claim if key in inputs.checks), None):
            return f"{of(kind)}, {kind.replace('_', ' ')}: {word.replace('_', ' ')}"
    return text.plain({key: value for key, value in claim.items() if key != "source"}) or "a claim without content"


def _evidence(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return interval(list(value))
    found = number(value)
    return text.quantity(found, 4) if found is not None and not isinstance(value, str) else text.plain(value)


@dataclass(frozen=True)
class Table:
    """columns: (heading, full name). rows: cells of (shown, sort key or None)."""

    columns: list[tuple[str, str]]
    rows: list[list[tuple[str, float | None]]]


def transfer_table(one: Series, axis: str | None) -> Table | None:
    """Per scale: best learning rate with interval, loss there, what the base scale's learning rate costs."""
    widths = array(one.transfer.get("widths"))
    if not widths.size:
        return None
    entry, n = one.transfer, widths.size
    pairs = entry.get("best_lr_ci95")
    pairs = [*pairs, *[None] * n][:n] if isinstance(pairs, list) else [None] * n
    best, loss, stderr = (array(entry.get(key), n) for key in ("best_lr", "loss_at_best", "loss_at_best_stderr"))
    regret, diverged = array(entry.get("base_lr_regret"), n), array(entry.get("diverged"), n)
    notes = mapping(entry.get("notes"))
    rows: list[list[tuple[str, float | None]]] = []
    for i, width in enumerate(widths):
        shown = [
            text.quantity(width),
            text.learning_rate(best[i]),
            interval(pairs[i], text.learning_rate),
            f"{text.loss(loss[i])} ± {stderr[i]:.4f}" if math.isfinite(loss[i]) else MISSING,
            text.percent(regret[i]),
            text.quantity(diverged[i]),
            *([str(notes.get(f"{width:g}", ""))] if notes else []),
        ]
        rows.append([(cell, None) for cell in shown])
    base = number(entry.get("base_width"))
    smallest = f"{key_name(axis or 'scale')} {text.quantity(base)}" if base is not None else "the base scale"
    headings = [
        (key_name(axis or "scale"), axis or ""),
        ("best learning rate", "optimum of the fitted basin"),
        ("95 % interval", ""),
        ("loss at best", "mean over seeds, ± standard error"),
        (f"cost of {smallest}'s rate", "relative excess loss"),
        ("diverged", "trials"),
        *([("why not", "why a scale has no optimum, and what to run")] if notes else []),
    ]
    return Table(headings, rows)


def transfer_summary(one: Series, axis: str | None) -> str:
    drift = number(one.transfer.get("drift_exponent"))
    reason = text.sentence(one.transfer.get("reason") or "")
    if drift is None:
        return reason
    return (
        f"Doubling the {key_name(axis or 'scale')} multiplies the best learning rate by {2**drift:.2f} "
        f"(drift {text.signed(drift)}, 95 % {interval(one.transfer.get('drift_ci95'))}). {reason}"
    )


def law_facts(one: Series) -> Pairs:
    """The law, its parameters, what is not identifiable, and its backtest beside simpler laws."""
    entry = one.fit
    if not entry:
        return []
    name = str(entry.get("law"))
    facts = [("law", _equation(name) or name)]
    params, ranges, backtest = (mapping(entry.get(key)) for key in ("params", "ci95", "backtest"))
    for key, value in params.items():
        ends = array(ranges.get(key), 2)
        facts.append((str(key), text.with_range(text.quantity(value, 4), *(text.quantity(end) for end in ends))))
    facts.append(("points", text.quantity(entry.get("n"))))
    if errors := mapping(backtest.get("mean_abs_error")):
        facts.append(("backtest error", ", ".join(f"{key_name(str(k))} {text.percent(v)}" for k, v in errors.items())))
    facts += [("caution", sentence) for sentence in _cautions(entry.get("identifiable"))]
    return facts[:MOST_FACTS]


def _equation(name: str) -> str:
    """The first sentence of a registered law's docstring, which is its equation."""
    return (inspect.getdoc(LAWS[name]) or "").partition(".  ")[0] if name in LAWS else ""


def _cautions(identifiable: Any) -> list[str]:
    if not isinstance(identifiable, dict):
        return []
    said = [str(warning) for warning in sequence(identifiable.get("warnings"))]
    if loose := sequence(identifiable.get("loose")):
        said.append(f"not determined by these points (predictions may be): {text.plain(loose)}")
    if hit := sequence(identifiable.get("bounds_hit")):
        said.append(f"at a bound: {text.plain(hit)}")
    return said


def prediction_facts(one: Series, inputs: Inputs, observed: Any) -> Pairs:
    entry = one.prediction
    if not entry:
        return []
    return [
        ("written down", _moment(inputs.prediction.get("written_at"))),
        ("predicted loss", text.with_range(*(text.loss(entry.get(key)) for key in ("loss", "low", "high")))),
        ("learning rate", text.learning_rate(entry.get("learning_rate"))),
        ("straight line", text.loss(entry.get("straight_line"))),
        (
            "trained afterwards",
            f"{text.loss(observed.mean())} (mean of {observed.size})" if observed.size else "not yet",
        ),
    ]


def ran(inputs: Inputs, arranged: Arranged) -> Pairs:
    """What ran and on what."""
    table = inputs.table
    statuses = _counts(table, "status")
    base = settings(inputs.study)
    sweep = inputs.study.get("sweep")
    facts: Pairs = []
    if base:
        facts.append(("base", "; ".join(f"{key} = {text.plain(value)}" for key, value in base.items())))
    if isinstance(sweep, dict):
        facts.append(("sweep", "; ".join(f"{key}: {_axis(value)}" for key, value in sweep.items())))
    facts.append(
        (
            "trials",
            f"{table.num_rows:,} ({', '.join(f'{count:,} {name}' for name, count in statuses) or 'none'})",
        )
    )
    if arranged.others:
        facts.append(
            (
                "not shown",
                f"{arranged.others:,} trials of earlier settings of this study, kept in the records",
            )
        )
    facts += _budget(table)
    for key, title in (
        ("device", "device"),
        ("devices", "devices"),
        ("code_version", "code version"),
        ("xla_flags", "XLA flags"),
    ):
        values = (
            [f"{name or 'none'}{f' ({count:,} trials)' if len(found) > 1 else ''}" for name, count in found[:8]]
            if (found := _counts(table, key))
            else []
        )
        if values:
            facts.append((title, "; ".join(values)))
    facts += [("packages", _packages(name)) for name, _ in _counts(table, "packages")[:4]]
    times = [_extreme(table, "started_at", "min"), _extreme(table, "finished_at", "max")]
    if all(times):
        facts.append(("trained", f"{times[0]} to {times[1]}"))
    return facts


def _axis(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("log2"), list) and len(value["log2"]) >= 2:
        return f"2^{text.plain(value['log2'][0])} to 2^{text.plain(value['log2'][1])}"
    if isinstance(value, dict) and isinstance(value.get("range"), list) and len(value["range"]) == 2:
        return " to ".join(text.plain(end) for end in value["range"])
    return text.plain(value)


def _budget(table: pa.Table) -> Pairs:
    facts: Pairs = []
    for key, title in (
        ("tokens", "tokens per trial"),
        ("horizon", "steps per trial"),
        ("params", "parameters"),
    ):
        values = numbers(table, key)
        values = values[values == values]
        if values.size:
            low, high = text.quantity(values.min()), text.quantity(values.max())
            facts.append((title, low if low == high else f"{low} to {high}"))
    for key, title in (
        ("flops", "FLOPs, compiled"),
        ("matmul_flops", "FLOPs, matmuls"),
        ("flops_6nd", "FLOPs, 6ND"),
    ):
        values = numbers(table, key)
        values = values[values == values]
        if values.size:
            facts.append((title, text.quantity(values.sum())))
    return facts


def _counts(table: pa.Table, name: str) -> list[tuple[str, int]]:
    """Distinct values of a column and how often, most frequent first."""
    if name not in table.column_names or not table.num_rows:
        return []
    counted = [
        (str(e["values"]), int(e["counts"]))
        for e in pc.value_counts(table[name]).to_pylist()
        if e["values"] is not None
    ]
    return sorted(counted, key=lambda pair: (-pair[1], pair[0]))


def _packages(recorded: str) -> str:
    try:
        versions = json.loads(recorded)
    except (ValueError, RecursionError):
        return recorded
    return text.plain(versions) if isinstance(versions, dict) else recorded


def _extreme(table: pa.Table, name: str, which: str) -> str:
    if name not in table.column_names or not table.num_rows:
        return ""
    return _moment(pc.min_max(table[name]).as_py()[which])


def _moment(value: Any) -> str:
    """An ISO 8601 time in UTC to the second."""
    return str(value).replace("T", " ")[:19] + " UTC" if isinstance(value, str) and value else ""


@dataclass(frozen=True)
class Clock:
    name: str
    seconds: str
    share: float  # of all clocks, in percent


def clocks(table: pa.Table) -> list[Clock]:
    """Seconds by clock, summed over trials (each has its share of its pack's)."""
    totals = {}
    for name in CLOCKS:
        values = numbers(table, f"{name}_s")
        totals[name] = float(values[values == values].sum())
    everything = sum(totals.values())
    return [
        Clock(name, text.seconds(value), round(100 * value / everything, 2))
        for name, value in totals.items()
        if value > 0
    ]


def data_facts(data: list[Any]) -> list[Pairs]:
    return [
        [(str(key), text.plain(value)) for key, value in list(info.items())[:MOST_FACTS]]
        for info in data
        if isinstance(info, dict)
    ]


def trial_table(inputs: Inputs, arranged: Arranged) -> tuple[Table, int]:
    """The trials (the `MOST_ROWS` of lowest final loss where there are more), and how many are left out."""
    table = inputs.table
    left_out = max(0, table.num_rows - MOST_ROWS)
    if left_out:
        loss = pa.array(numbers(table, "final_loss"))
        table = table.take(pc.sort_indices(loss)[:MOST_ROWS])
    keys = [key for key in arranged.keys if key in table.column_names]
    results = [
        "status",
        "params",
        "tokens",
        "final_loss",
        "best_loss",
        "test_loss",
        "diverged_step",
        "train_s",
        "error",
    ]
    shown = [name for name in results if name in table.column_names and table[name].null_count < table.num_rows]
    columns = ["trial", *dict.fromkeys([*keys, *shown])]
    cells = [
        [_cell(name, value) for value in table[name].to_pylist()] for name in columns if name in table.column_names
    ]
    headings = [(_HEADINGS.get(name, key_name(name)), name) for name in columns if name in table.column_names]
    return Table(headings, [list(row) for row in zip(*cells, strict=True)]), left_out


_HEADINGS = {
    "params": "parameters",
    "train_s": "train (s)",
    "final_loss": "final loss",
    "best_loss": "best loss",
}


def _cell(name: str, value: Any) -> tuple[str, float | None]:
    found = None if isinstance(value, str) else number(value)
    if name == LEARNING_RATE:
        return text.learning_rate(value), found
    if name.endswith("_loss"):
        return text.loss(value), found
    if value is None or isinstance(value, (bool, str)):
        return text.short("" if value is None else value, 80), None
    return text.quantity(value, 4), found
