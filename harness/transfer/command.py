"""Does the best learning rate of a small proxy hold at scale?  The verdict on anybody's table of runs.

  python -m harness.transfer runs=sweep.csv columns.width=d_model columns.lr=peak_lr columns.loss=val_loss out=DIR
  python -m harness.transfer runs=results/quickstart columns.lr=learning_rate columns.loss=final_loss by=parametrization
  python -m harness.transfer runs=sweep.csv axis=depth columns.depth=layers base=4
  python -m harness.transfer explain workload=language_model workload.width=128 parametrization=mup    (transfer/explain.py)
  python -m harness.transfer coordinates widths=32,64,128,256 parametrization=mup    coordinate check (transfer/coordinates.py)

One row a run: the scale (axis=width, depth, batch, tokens ...), lr and loss; seed and diverged if there are such columns.
Runs without a finite loss, or whose `diverged` is true, are censored: they mark the cliff and are never averaged.
by=COLUMN,...: one verdict for each value. base: the scale whose best learning rate is tried elsewhere (default: smallest).

The verdict is transfers only if the 90% interval of the drift exponent lies inside [-0.15, 0.15]; does_not_transfer only if
the 95% interval excludes 0 and |drift| > 0.15; else undecided, with what to run next. out=DIR writes transfer.json,
report.html and figures/*.png.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.cli import help_text, parse, wants_help
from harness.laws.plots import Layer, Plot
from harness.laws.procedures import Table
from harness.points import Points, Source, read_points
from harness.records.files import write_json
from harness.report.document import Section, write_document
from harness.report.fitted import data_section
from harness.report.terminal import print_section
from harness.transfer.learning_rate import Transfer, learning_rate_transfer
from workloads.base import BadInput

_TRUE = ("true", "1", "1.0", "yes", "diverged")


@dataclass
class TransferConfig(Source):
    """axis: the column that is the scale. by: columns that split the table into series."""

    axis: str = "width"
    by: str = ""
    base: float | None = None
    out: str = ""
    columns: dict[str, str] = field(default_factory=dict)


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if wants_help(argv):
        print(help_text(__doc__, TransferConfig))
        return 0
    config = parse(argv, TransferConfig)
    if unused := [name for name in ("weights", "stderr", "cluster") if getattr(config, name)]:
        raise BadInput(f"{unused[0]}= is not used here: seeds are told by columns.seed")
    by = [word for word in config.by.split(",") if word]
    optional = ("seed", "diverged")
    needed = (config.axis, "lr", "loss", *by)
    points = read_points(config, needed, text=(*by, *optional), optional=optional, may_lack=("loss",), response=None)
    found = {name: _transfer(rows, config) for name, rows in _series(points.columns, by).items()}
    sections = [_section(name, one, config.axis) for name, one in found.items()]
    for section in (*sections, data_section(points.data)):
        print_section(section)
    if config.out:
        _write(Path(config.out), argv, config, points, found, sections)
    return 0


def _write(
    folder: Path, argv: list[str], config: TransferConfig, points: Points, found: Mapping[str, Transfer],
    sections: list[Section],
) -> None:  # fmt: skip
    command = "python -m harness.transfer " + shlex.join(argv)
    entries = {name: one.to_json() for name, one in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "transfer.json", entries)
    write_json(folder / "data.json", points.data | {"command": command})
    plots = (_drift(found, config.axis), *(_curves(name, one, config.axis) for name, one in found.items()))
    page = [*sections, Section("Pictures", plots=plots), data_section(points.data)]
    lead = f"Best learning rate against {config.axis} in {points.data['source']}."
    print(write_document(folder, "Learning-rate transfer", lead, page, command), file=sys.stderr)


def _series(columns: Mapping[str, np.ndarray], by: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Rows of each combination of the `by` columns, under its name."""
    labels = np.array(["/".join(str(v) for v in row) for row in zip(*(columns[name] for name in by), strict=True)])
    if not by:
        return {"all": dict(columns)}
    return {str(name): {k: v[labels == name] for k, v in columns.items()} for name in np.unique(labels)}


def _transfer(rows: Mapping[str, np.ndarray], config: TransferConfig) -> Transfer:
    loss, scale, rate = rows["loss"], rows[config.axis], rows["lr"]
    flagged = np.array([str(v).lower() in _TRUE for v in rows["diverged"]]) if "diverged" in rows else False
    diverged = ~np.isfinite(loss) | flagged
    if np.any(loss[~diverged] <= 0):
        raise BadInput("a loss is not positive; use columns.loss=EXPRESSION to shift or transform it")
    seed = rows["seed"] if "seed" in rows else _replicates(scale, rate)
    base = float(scale.min()) if config.base is None else config.base
    return learning_rate_transfer(scale, rate, np.where(diverged, np.nan, loss), seed, diverged, base_scale=base)


def _replicates(scale: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Seeds of a table without them: one for all, or where runs repeat at a setting, one a row (nothing is paired)."""
    settings = np.stack([scale, rate], axis=1)
    repeated = len(np.unique(settings, axis=0)) < len(settings)
    return np.arange(len(settings)) if repeated else np.zeros(len(settings), int)


def _section(name: str, found: Transfer, axis: str) -> Section:
    entry = found.to_json()
    rows = tuple(
        (
            scale,
            entry["best_lr"][i],
            *entry["best_lr_ci95"][i],
            entry["akima_lr"][i],
            entry["base_lr_regret"][i],
            *entry["base_lr_regret_ci95"][i],
            int(found.diverged[i]),
            found.notes.get(float(scale), ""),
        )
        for i, scale in enumerate(found.scales.tolist())
    )
    header = (
        axis, "best lr", "95% low", "95% high", "Akima", "base-lr regret", "95% low", "95% high", "diverged", "note",
    )  # fmt: skip
    facts = [("verdict", found.verdict), ("why", found.reason)]
    if found.drift is not None:
        low, high = found.drift.interval(0.95)
        inner = found.drift.interval(0.90)
        facts.insert(
            1,
            (
                "drift exponent",
                f"{found.drift.exponent:+.3f}, 95% [{low:+.3f}, {high:+.3f}], 90% [{inner[0]:+.3f}, {inner[1]:+.3f}]",
            ),
        )
    title = f"{name}: {found.verdict}" if name != "all" else found.verdict
    return Section(title, facts=tuple(facts), tables=(Table(f"Best learning rate by {axis}", header, rows),))


def _drift(found: Mapping[str, Transfer], axis: str) -> Plot:
    """Best learning rate against the scale, one line a series."""
    layers = []
    for name, one in found.items():
        ok = np.isfinite(one.best_lr)
        ci95 = one.best_lr_ci95[ok]
        layers.append(Layer(name, one.scales[ok], one.best_lr[ok], ci95[:, 0], ci95[:, 1]))
        if one.drift is not None:
            line = np.geomspace(one.scales.min(), one.scales.max(), 32)
            layers.append(Layer(name, line, np.array([one.best_lr_at(float(s)) for s in line]), kind="line"))
    caption = f"Best learning rate with 95% intervals against {axis}, and the fitted drift."
    return Plot(
        "best_learning_rate", "Best learning rate", axis, "learning rate", tuple(layers), caption=caption, alt=caption
    )


def _curves(name: str, found: Transfer, axis: str) -> Plot:
    """Loss against learning rate, one line a scale: means over seeds of what did not diverge."""
    layers = tuple(Layer(f"{axis} = {scale:g}", *curve, kind="line") for scale, curve in found.mean_curves.items())
    caption = f"Mean loss against learning rate for each {axis}; a learning rate at which a seed diverged is left out."
    return Plot(
        f"curves_{''.join(c if c.isalnum() else '_' for c in name)}", f"Loss against learning rate: {name}", "learning rate",
        "loss", layers, caption=caption, alt=caption,
    )  # fmt: skip
