"""Rows and curves come back as they went in, and the right row of each trial counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.records.schema import TRIALS
from harness.records.store import Store, studies
from workloads.base import BadInput

A, B, C = "a" * 16, "b" * 16, "c" * 16


def row(trial: str, status: str = "ok", **columns: Any) -> dict[str, Any]:
    return {"trial": trial, "status": status, **columns}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "study")


def test_an_empty_store_has_the_fixed_columns_and_no_rows(store: Store) -> None:
    assert store.trials().num_rows == 0
    assert store.finished() == set()
    assert store.curves().num_rows == 0
    assert store.trials(["trial", "final_loss"]).column_names == ["trial", "final_loss"]
    store.compact()
    assert not (store.root / "trials.parquet").exists()


def test_values_survive(store: Store) -> None:
    written = {
        "workload": "language_model",
        "workload.width": 64,
        "workload.tied": True,
        "optimizer.learning_rate": 2.0**-7,
        "optimizer.b1": np.float64(0.9),
        "schedule.lengths": [1, 2],
        "note": "bad \udcff text",
        "huge": 10**400,
        "final_loss": math.nan,
        "best_loss": np.float32(1.5),
        "flops": 1e30,
        "params": np.int64(2**60 + 1),
        "diverged_step": None,
    }
    store.append([row(A, "diverged", **written)])
    read = store.trials().to_pylist()[0]
    assert math.isnan(read.pop("final_loss"))
    expected = written | {"schedule.lengths": "[1, 2]", "note": "bad \\udcff text", "huge": math.inf}
    assert {key: read[key] for key in expected if key != "final_loss"} == {
        key: value for key, value in expected.items() if key != "final_loss"
    }
    assert type(read["workload.tied"]) is bool
    assert store.trials().schema.field("params").type == pa.int64()


def test_nan_and_null_differ(store: Store) -> None:
    store.append([row(A, final_loss=math.nan), row(B, final_loss=None)])
    losses = store.trials(["final_loss"])["final_loss"]
    assert losses.null_count == 1
    assert math.isnan(losses[0].as_py())


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (1, 2.5, pa.float64()),
        (1, "x", pa.string()),
        (None, 3, pa.int64()),
        (True, 1, pa.string()),
        (True, "x", pa.string()),
    ],
)
@pytest.mark.parametrize("compacted", [False, True])
def test_schemas_may_drift(store: Store, first: Any, second: Any, kind: pa.DataType, compacted: bool) -> None:
    store.append([row(A, **{"optimizer.x": first})])
    store.append([row(B, **{"optimizer.x": second, "optimizer.new": 1.0}), row(C, status="failed")])
    if compacted:
        store.compact()
    table = store.trials(["optimizer.x", "optimizer.new"])
    assert table.schema.field("optimizer.x").type == kind
    as_kind = pa.array([first]).cast(kind)[0].as_py() if first is not None else None
    assert table["optimizer.x"].to_pylist() == [as_kind, pa.array([second]).cast(kind)[0].as_py(), None]
    assert table["optimizer.new"].to_pylist() == [None, 1.0, None]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"trial": "../../x", "status": "ok"}, "hexadecimal"),
        ({"status": "ok"}, "hexadecimal"),
        ({"trial": A, "status": "fine"}, "must be one of"),
        ({"trial": A, "status": "ok", "params": 1.5}, "'params'"),
        ({"trial": A, "status": "ok", "final_loss": "low"}, "'final_loss'"),
    ],
)
def test_malformed_rows_are_refused_before_anything_is_written(store: Store, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.append([row(B), bad], {B: {"step": np.arange(2)}})
    assert not store.root.exists()


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("history", "winner"),
    [
        (["ok", "ok"], 1),
        (["failed", "stopped"], 1),
        (["stopped", "failed"], 1),
        (["ok", "failed"], 0),
        (["diverged", "stopped", "failed"], 0),
        (["failed", "ok", "stopped"], 1),
        (["ok", "stopped", "diverged", "failed"], 2),
    ],
)
def test_the_latest_finished_row_counts_and_its_curve(
    store: Store, history: list[str], winner: int, compacted: bool
) -> None:
    for attempt, status in enumerate(history):
        curve = {"step": [0, 1], "train_loss": [float(attempt)] * 2}
        store.append([row(A, status, best_loss=attempt)], {A: curve})
        if compacted and attempt % 2:
            store.compact()
    assert store.trials(["status", "best_loss"]).to_pylist() == [{"status": history[winner], "best_loss": winner}]
    assert store.curves()["train_loss"].to_pylist() == [winner] * 2
    assert store.finished() == ({A} if history[winner] in ("ok", "diverged") else set())


def test_curves_keep_nan_and_null_apart(store: Store) -> None:
    store.append(
        [row(A), row(B)],
        {
            A: {
                "step": np.arange(3),
                "train_loss": np.array([1.1, np.nan, np.inf], np.float32),
                "eval_loss": np.ma.masked_array([9.0, np.nan, 2.0], [True, False, False]),
                "grad_norm": np.arange(3.0),
            },
            B: {"step": [5], "tokens": [2**40]},
        },
    )
    table = store.curves()
    assert table.schema.field("trial").type == pa.dictionary(pa.int32(), pa.string())
    assert table["trial"].to_pylist() == [A, A, A, B]
    assert [str(x) for x in table["eval_loss"].to_pylist()] == ["None", "nan", "2.0", "None"]
    assert [str(x) for x in table["train_loss"].to_pylist()[:3]] == [str(float(np.float32(1.1))), "nan", "inf"]
    assert table["tokens"].to_pylist()[3] == 2**40
    assert table["grad_norm"].to_pylist() == [0.0, 1.0, 2.0, None]
    assert store.curves([B])["step"].to_pylist() == [5]
    assert store.curves([]).num_rows == 0


@pytest.mark.parametrize(
    ("curve", "message"), [({"lr": [1.0]}, "'step'"), ({"step": [1], "lr": [1.0, 2.0]}, "1 steps")]
)
def test_malformed_curves_are_refused(store: Store, curve: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.append([row(A)], {A: curve})
    assert store.trials().num_rows == 0


def test_compaction_changes_no_answer_and_leaves_one_file(store: Store) -> None:
    for i in range(5):
        store.append([row(f"{i:016x}", seed=i)], {f"{i:016x}": {"step": [0, 1], "lr": [i, i]}})
    trials, curves = store.trials(), store.curves()
    store.compact()
    assert [len(list((store.root / kind).iterdir())) for kind in ("trials", "curves")] == [1, 1]
    assert store.trials().equals(trials)
    assert store.curves().to_pylist() == curves.to_pylist()
    assert pq.read_table(store.root / "trials.parquet").replace_schema_metadata(None).equals(trials)
    before = (store.root / "trials.parquet").stat().st_mtime_ns
    store.compact()
    assert (store.root / "trials.parquet").stat().st_mtime_ns == before, "nothing to do"


def test_fragments_that_pile_up_are_merged(store: Store) -> None:
    store.merge_above = 5
    for i in range(20):
        store.append([row(f"{i:016x}")], {f"{i:016x}": {"step": [0]}})
    assert len(list((store.root / "trials").iterdir())) <= 6
    assert len(list((store.root / "curves").iterdir())) <= 6
    assert store.trials().num_rows == store.curves().num_rows == 20


def test_a_store_of_only_the_published_table_is_read_extended_and_compacted(store: Store) -> None:
    store.append([row(A)])
    store.compact()
    for path in (store.root / "trials").iterdir():
        path.unlink()
    assert store.finished() == {A}
    store.append([row(B)])
    assert store.finished() == {A, B}
    store.compact()
    assert store.finished() == {A, B}
    assert pq.read_table(store.root / "trials.parquet").num_rows == 2


def test_unknown_columns_are_bad_input(store: Store) -> None:
    store.append([row(A)])
    with pytest.raises(BadInput, match="Did you mean 'final_loss'"):
        store.trials(["final_los"])


def test_a_view_reads_selected_rows(store: Store) -> None:
    for i in range(4):
        store.append([row(f"{2 * i + j:016x}", seed=10 * i + j) for j in range(2)])

    def some(view: Any) -> list[int]:
        view.read(["trial"])
        return view.read(["seed"], np.array([7, 0, 3]))["seed"].to_pylist()

    assert store.read(some) == [31, 0, 11]


def test_every_fixed_column_is_in_every_table(store: Store) -> None:
    store.append([row(A, **{"workload.width": 1})])
    assert set(TRIALS.names) | {"workload.width"} == set(store.trials().column_names)


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="results=DIR"):
        Store(tmp_path / "file" / "study").check_writable()
    Store(tmp_path / "study").check_writable()
    assert list((tmp_path / "study" / "trials").iterdir()) == []


def test_studies_are_found(tmp_path: Path) -> None:
    Store(tmp_path / "b").append([row(A)])
    (tmp_path / "not_a_study").mkdir()
    assert studies(tmp_path) == ["b"]
    with pytest.raises(BadInput, match="results=DIR"):
        studies(tmp_path / "missing")
