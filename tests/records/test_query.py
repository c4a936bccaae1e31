"""SQL conditions: short names, NaN, errors that name columns, and no way out to files or settings."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from harness.records.query import Names, select
from workloads.base import BadInput

TABLE = pa.table(
    {
        "trial": [f"{i:016x}" for i in range(6)],
        "status": ["ok", "ok", "diverged", "ok", "failed", "ok"],
        "workload": ["language_model"] * 5 + ['it\'s -- a.b "width"'],
        "workload.width": [16, 32, 64, 128, 16, 32],
        "optimizer": ["adamw", "adamw", "sgd", "sgd", "lion", "lion"],
        "optimizer.learning_rate": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "optimizer.end": [1, 2, 3, 4, 5, 6],
        "workload.decay": [0, 0, 0, 0, 0, 1],
        "optimizer.decay": [0, 1, 0, 0, 0, 0],
        "budget.epochs": pa.nulls(6),
        "final_loss": [3.0, 1.0, math.nan, 2.0, None, 2.5],
    }
)
NAMES = Names(TABLE.column_names)


def rows(where: str | None = None, sort: str | None = None, descending: bool = False) -> list[int]:
    return select(TABLE, NAMES, where, sort, descending).tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        ("width=16", [0, 4]),
        ("WIDTH = 16 AND Status = 'ok'", [0]),
        ("workload.width=16 and status='ok'", [0]),
        ('"workload.width"=16', [0, 4]),
        ('"width"=16', [0, 4]),
        ("trials.status='failed'", [4]),
        ("workload = 'it''s -- a.b \"width\"'", [5]),
        ("workload like '%width%' /* width */ -- width ' \"", [5]),
        ('workload like $$%"width"%$$', [5]),
        ("optimizer.decay=1", [1]),
        ("workload.decay=1", [5]),
        ("case when width=16 then true else false end", [0, 4]),
        ('optimizer.end = 6 or "end" = 1', [0, 5]),
        ("isnan(final_loss)", [2]),
        ("final_loss is null", [4]),
        ("epochs is null", [0, 1, 2, 3, 4, 5]),
        ("epochs > 1", []),
        ("learning_rate between 0.2 and 0.35", [1, 2]),
        ("width = (select max(width) from trials)", [3]),
    ],
)
def test_where(where: str | None, expected: list[int]) -> None:
    assert rows(where) == expected


@pytest.mark.parametrize("where", [None, "true"])
@pytest.mark.parametrize(
    ("sort", "descending", "expected"),
    [
        ("final_loss", False, [1, 3, 5, 0, 2, 4]),
        ("final_loss", True, [0, 5, 3, 1, 2, 4]),
        ("width, learning_rate", False, [0, 4, 1, 5, 2, 3]),
        ("workload.width,optimizer.learning_rate", True, [3, 2, 5, 1, 4, 0]),
        ("-learning_rate", False, [5, 4, 3, 2, 1, 0]),
        ("abs(width - 32) + learning_rate", False, [1, 5, 0, 4, 2, 3]),
    ],
)
def test_sort(where: str | None, sort: str, descending: bool, expected: list[int]) -> None:
    assert rows(where, sort, descending) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("widht=3", "unknown column 'widht'. Did you mean 'width'"),
        ("workload.widht=3", "unknown column 'workload.widht'. Did you mean 'workload.width'"),
        ("trials.widht=3", "unknown column 'widht'. Did you mean 'width'"),
        ("decay=1", r"unknown column 'decay'. Did you mean '(workload|optimizer).decay'"),
        ("width==", "cannot be used as SQL"),
        ("width=16)", "cannot be used as SQL"),
        ("status=ok", "unknown column 'ok'"),
        ("width='abc'", "Could not convert"),
        ("nonsense(width)", "nonsense does not exist"),
        ("true; select 1", "cannot be used as SQL|';'"),
        ("true) ; select (1", "';'"),
        ("true) union all select 10**9 where (true", "one SQL condition"),
        ("true) union all select null where (true", "one SQL condition"),
    ],
)
def test_errors_say_what_to_write(where: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rows(where)


def test_an_unknown_sort_names_the_nearest_column() -> None:
    with pytest.raises(BadInput, match="Did you mean 'final_loss'"):
        rows(sort="final_los")


@pytest.mark.parametrize(
    "attack",
    [
        "(select count(*) from read_csv('{secret}')) >= 0",
        "(select count(*) from read_text('{secret}')) >= 0",
        "(select count(*) from read_blob('{secret}')) >= 0",
        "(select count(*) from read_parquet('{secret}')) >= 0",
        "(select count(*) from read_json('{secret}')) >= 0",
        "(select count(*) from glob('{folder}/*')) >= 0",
        "(select count(*) from '{secret}') >= 0",
        "true); copy trials to '{folder}/planted.csv'; select (1",
        "true); copy (select 1) to '{folder}/planted.parquet' (format parquet); select (1",
        "true); attach '{folder}/planted.db'; select (1",
        "true); export database '{folder}/planted'; select (1",
        "true); install httpfs; select (1",
        "true); load '{folder}/evil.duckdb_extension'; select (1",
        "true); set enable_external_access=true; select (1",
        "true); pragma enable_profiling='json'; select (1",
        "true); create table x as select 1; select (1",
        "(select count(*) from sqlite_scan('{secret}', 'x')) >= 0",
        "getenv('PATH') <> ''",
        "(select count(*) from TABLE_OF_THIS_PROCESS) >= 0",
    ],
)
def test_conditions_cannot_reach_outside(tmp_path: Path, attack: str) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput):
        rows(attack.format(secret=secret, folder=tmp_path))
    assert list(tmp_path.iterdir()) == [secret]


@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1) to '{folder}/planted.csv'",
        "attach '{folder}/planted.db'",
        "install httpfs",
        "set enable_external_access=true",
        "select * from read_csv('{folder}/secret.csv')",
        "set lock_configuration=false",
    ],
)
def test_the_connection_itself_is_locked(tmp_path: Path, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one-statement rule is not what protects: run the statement as such."""
    from harness.records import query

    (tmp_path / "secret.csv").write_text("a\n1\n")
    monkeypatch.setattr(query, "_statement", lambda *_: statement.format(folder=tmp_path))
    with pytest.raises(BadInput, match=r"disabled|locked"):
        rows("true")
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


TABLE_OF_THIS_PROCESS = TABLE  # DuckDB would find it by its Python name if it were let


def test_names() -> None:
    assert NAMES.resolve("width") == "workload.width"
    assert NAMES.resolve(' "Workload.Width"') == "workload.width"
    assert (NAMES.short("workload.width"), NAMES.short("optimizer.decay")) == ("width", "optimizer.decay")
    assert NAMES.columns_of("width > 3 and 'status' = optimizer.decay") == {"workload.width", "optimizer.decay"}
    assert Names(["status", "workload.status"]).resolve("status") == "status"
    with pytest.raises(BadInput, match="Did you mean 'learning_rate'"):
        NAMES.resolve("learning_rat")
