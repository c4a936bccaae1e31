"""List, filter and export recorded trials.

  python -m harness.runs                                              the studies under results=
  python -m harness.runs study=quickstart                             its trials, best first
  python -m harness.runs study=quickstart where="width=64 and status='ok'" sort=final_loss
  python -m harness.runs study=quickstart export=trials.csv           or .parquet; everything that matches
  python -m harness.runs study=quickstart where="trial='0123456789abcdef'" curves=true

where and sort are SQL (DuckDB). Columns have dotted names (workload.width), of which the last part is enough where it
is the only one (width). In SQL, NaN is larger than every number: ask isnan(final_loss). Sorting puts NaN last.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.cli import help_text, parse, run, wants_help
from harness.records.files import atomic_path
from harness.records.listing import show
from harness.records.query import Names, select
from harness.records.schema import STATUSES
from harness.records.store import Store, studies
from harness.records.text import printable
from harness.records.view import View
from harness.registry import nearest
from workloads.base import BadInput

SHOWN = [
    "trial",
    "status",
    "workload",
    "workload.width",
    "workload.depth",
    "parametrization",
    "optimizer",
    "optimizer.learning_rate",
    "schedule",
    "seed",
    "final_loss",
    "best_loss",
    "final_metric",
    "diverged_step",
    "params",
    "steps",
    "train_s",
]
"""The columns shown unless columns= says otherwise; those that differ between the shown rows are added."""

BULKY = ("config", "packages", "error", "xla_flags", "attempt", "study")
ROWS = 20


@dataclass
class RunsConfig:
    """limit: rows to print (default 20; an export has no limit unless given); 0 prints all."""

    study: str | None = None
    results: str = "results"
    where: str | None = None
    sort: str | None = "final_loss"
    descending: bool = False
    limit: int | None = None
    columns: str | None = None
    curves: bool = False
    export: str | None = None


def main(argv: list[str]) -> int:
    if wants_help(argv):
        print(help_text(__doc__, RunsConfig))
        return 0
    config = parse(argv, RunsConfig)
    if config.limit is not None and config.limit < 0:
        raise BadInput(f"limit={config.limit} must be at least 0 (0 means all)")
    if config.study is None:
        _list_studies(Path(config.results))
        return 0
    store = _open(Path(config.results), config.study)
    if config.curves:
        _curves(store, config)
    else:
        _trials(store, config)
    return 0


def _open(results: Path, study: str) -> Store:
    names = studies(results)
    if study not in names:
        raise BadInput(
            f"no study '{printable(study)}' under results={results}. {nearest(study, map(printable, names))}"
        )
    return Store(results / study)


def _list_studies(results: Path) -> None:
    rows = []
    for name in studies(results):
        table = Store(results / name).trials(("status", "finished_at"))
        count = Counter(table["status"].to_pylist())
        rows.append([name, table.num_rows, *(count[s] for s in STATUSES), pc.max(table["finished_at"]).as_py()])
    notes = ["one study's trials: study=NAME"] if rows else [f"no studies under results={results}"]
    show(["study", "trials", *STATUSES, "last finished"], rows, fixed=True, notes=notes)


def _trials(store: Store, config: RunsConfig) -> None:
    def choose(view: View) -> tuple[Names, pa.Table, int]:
        names = Names(view.names)
        rows = _select(view, names, config)
        shown = _limited(rows, config)
        wanted = _named(config.columns, names)
        columns = (
            wanted or view.names if config.export or wanted else [name for name in view.names if name not in BULKY]
        )
        return names, view.read(columns, shown), len(rows)

    names, table, total = store.read(choose)
    if config.export:
        _export(table, config.export)
        return
    columns = _named(config.columns, names) or _interesting(table)
    table = table.select(columns)
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    show([names.short(c) for c in columns], rows, fixed=bool(config.columns), notes=_notes(len(rows), total, "trial"))


def _select(view: View, names: Names, config: RunsConfig) -> np.ndarray:
    used = names.columns_of(config.where) | names.columns_of(config.sort)
    return select(view.read(used | {"trial"}), names, config.where, config.sort, config.descending)


def _limited(rows: np.ndarray, config: RunsConfig) -> np.ndarray:
    limit = (0 if config.export else ROWS) if config.limit is None else config.limit
    return rows[:limit] if limit else rows


def _named(columns: str | None, names: Names) -> list[str]:
    return [names.resolve(word) for word in columns.split(",")] if columns else []


def _interesting(table: pa.Table) -> list[str]:
    """The usual columns that hold something, and before the results whatever else differs between these rows."""

    def differs(name: str) -> bool:
        column = table[name]
        return "." in name and name not in SHOWN and len(column.unique()) > 1

    usual = [name for name in SHOWN if name in table.column_names and table[name].null_count < max(1, table.num_rows)]
    varying = [name for name in table.column_names if differs(name)]
    results = usual.index("final_loss") if "final_loss" in usual else len(usual)
    return [*usual[:results], *varying, *usual[results:]]


def _notes(shown: int, total: int, what: str) -> list[str]:
    if shown == total:
        return [f"{total:,} {what}{'' if total == 1 else 's'}"]
    return [f"{shown:,} of {total:,} {what}s; {total - shown:,} more (limit=0 shows all)"]


def _curves(store: Store, config: RunsConfig) -> None:
    def matching(view: View) -> list[str]:
        names = Names(view.names)
        return view.read(("trial",), _select(view, names, config))["trial"].to_pylist()

    everything = config.where is None
    trials = store.read(matching)
    table = store.curves(None if everything else trials)
    names = Names(table.column_names)
    columns = _named(config.columns, names) or table.column_names
    table = table.select(columns)
    if config.export:
        _export(table if not config.limit else table.slice(0, config.limit), config.export)
        return
    shown = table if config.limit == 0 else table.slice(0, config.limit or ROWS)
    rows = list(zip(*(column.to_pylist() for column in shown.columns), strict=True))
    show(columns, rows, fixed=True, notes=_notes(len(rows), table.num_rows, "point"))


def _export(table: pa.Table, target: str) -> None:
    path = Path(target)
    if path.suffix not in (".csv", ".parquet"):
        raise BadInput(f"export={target} must end in .csv or .parquet")
    try:
        with atomic_path(path) as temporary:
            _write(table, temporary, path.suffix)
    except OSError as error:
        raise BadInput(f"cannot write export={target}: {error.strerror}; choose another place") from None
    print(f"wrote {table.num_rows:,} rows to {printable(path)}", file=sys.stderr)


def _write(table: pa.Table, path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, path, compression="zstd")
    else:
        from pyarrow import csv

        csv.write_csv(table, path)


if __name__ == "__main__":
    gc.disable()  # a tenth of the time of listing 1,000 fragments, in a process that ends soon
    sys.exit(run(main))
