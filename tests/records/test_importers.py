"""Tables of runs: every format, every way to write a number, and every kind of table that must be refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.records.expressions import Expression
from harness.records.importers import Table, clean, read_table, select_columns, where
from harness.records.store import Store
from workloads.base import BadInput

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

RECORDS = [
    {"run": "a", "params": 1e6, "tokens": 20, "loss": 3.25},
    {"run": "b é", "params": 2e6, "tokens": 40, "loss": None},
    {"run": "", "params": 4e6, "tokens": 2**60, "loss": 2.5},
]
CSV = "run,params,tokens,loss\na,1e6,20,3.25\nb é,2000000,40,\n,4e6,1152921504606846976,2.5\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, text: str | bytes, name: str = "runs.csv") -> Table:
    return read_table(write(folder, name, text))


def table(**columns: list[float] | list[str]) -> Table:
    arrays = {
        name: np.array(values, object if isinstance(values[0], str) else np.float64) for name, values in columns.items()
    }
    return Table(arrays, "runs.csv", len(next(iter(arrays.values()))), {}, ())


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "runs.csv": lambda path: path.write_text(CSV),
    "crlf.csv": lambda path: path.write_bytes(CSV.replace("\n", "\r\n").encode()),
    "bom.csv": lambda path: path.write_bytes(b"\xef\xbb\xbf" + CSV.encode()),
    "semicolons.csv": lambda path: path.write_text(CSV.replace(",", ";")),
    "spaced.csv": lambda path: path.write_text("\n" + CSV.replace(",", ", ")),
    "blank_lines.csv": lambda path: path.write_text(CSV.replace("\n", "\n\n")),
    "trailing.csv": lambda path: path.write_text(CSV.replace("\n", ",\n")),
    "quoted.csv": lambda path: path.write_text("".join(f'"{line}"\n'.replace(",", '","') for line in CSV.splitlines())),
    "runs.csv.gz": lambda path: path.write_bytes(gzip.compress(CSV.encode())),
    "RUNS.TSV": lambda path: path.write_text(CSV.replace(",", "\t")),
    "runs.parquet": parquet,
    "runs.json": lambda path: path.write_text(json.dumps(RECORDS, indent=1)),
    "runs.jsonl": lambda path: path.write_text("\n\n".join(map(json.dumps, RECORDS))),
    "runs.ndjson.gz": lambda path: path.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode())),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    result = read_table(str(path))
    assert list(result.columns) == ["run", "params", "tokens", "loss"]
    assert result.columns["run"].dtype == object
    assert result.columns["run"].tolist() == ["a", "b é", ""]
    for column, expected in {
        "params": [1e6, 2e6, 4e6],
        "tokens": [20, 40, 2.0**60],
        "loss": [3.25, np.nan, 2.5],
    }.items():
        assert result.columns[column].dtype == np.float64
        np.testing.assert_array_equal(result.columns[column], expected)
    assert (len(result), result.rows_read, result.dropped, result.notes) == (3, 3, {}, ())
    assert result.source == str(path)


def test_parquet_types(tmp_path: Path) -> None:
    columns = {
        "half": pa.array([1, None], pa.float16()),
        "decimal": pa.array(["1.25", None]).cast(pa.decimal128(10, 2)),
        "category": pa.array(["x", None]).dictionary_encode(),
        "done": pa.array([True, None]),
        "when": pa.array([1, None], pa.timestamp("ns", "UTC")),
        "nested": pa.array([{"lr": 0.5, "deep": {"er": 1}}, None]),
        "many": pa.array([[1, 2], None]),
        "bytes": pa.array([b"\xff", None]),
        "units": pa.array(["70M", "1.4B"]),
        "nothing": pa.nulls(2),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    result = read_table(tmp_path / "t.parquet").columns
    numeric = {name: values.tolist()[0] for name, values in result.items() if values.dtype == np.float64}
    assert numeric == pytest.approx(
        {"half": 1, "decimal": 1.25, "nested.lr": 0.5, "nested.deep.er": 1, "units": 7e7, "nothing": np.nan},
        nan_ok=True,
    )
    assert result["category"].tolist() == ["x", ""]
    assert result["done"].tolist() == ["true", ""]
    assert result["many"].tolist() == ["[1, 2]", ""]
    assert result["when"][0].startswith("1970-01-01")


def test_wandb_csv_export(tmp_path: Path) -> None:
    text = (
        '"Name","State","Tags","lr","loss"\n'
        '"brave-sun-1","finished","a, b","0.001","3.1"\n'
        '"calm-sea-2","crashed","","0.01","NaN"\n'
        '"dark-elm-3","running","","0.1","Infinity"\n'
    )
    result = read(tmp_path, text)
    np.testing.assert_array_equal(result.columns["loss"], [3.1, np.nan, np.inf])
    assert result.notes == (
        "not every run finished (1 crashed, 1 running); where=\"State='finished'\" keeps those that did",
    )
    assert len(where(result, "State='finished'")) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_wandb_runs_as_json(tmp_path: Path, packed: bool) -> None:
    config = {"lr": {"value": 0.5, "desc": None}, "model": {"width": 64}, "_wandb": {"value": {"cli": "1"}}}
    summary = {"loss": 2.5, "_step": 10, "best": {"loss": "NaN"}}
    run = {"name": "x", "config": json.dumps(config) if packed else config, "summary": summary}
    result = read(tmp_path, json.dumps([run, {"name": "y", "summary": {"loss": None, "late": 7}}]), "runs.json")
    assert set(result.columns) == {
        "name",
        "config.lr",
        "config.model.width",
        "summary.loss",
        "summary._step",
        "summary.best.loss",
        "summary.late",
    }
    np.testing.assert_array_equal(result.columns["summary.loss"], [2.5, np.nan])
    np.testing.assert_array_equal(result.columns["summary.late"], [np.nan, 7])
    chosen = select_columns(result, {"N": "12 * width**2", "loss": "summary.loss", "lr": "lr"}, ["N", "loss", "lr"])
    np.testing.assert_array_equal(chosen.columns["N"], [12 * 64**2, np.nan])
    np.testing.assert_array_equal(chosen.columns["lr"], [0.5, np.nan])


def test_own_study(tmp_path: Path) -> None:
    rows = [
        {"trial": f"{i:016d}", "status": status, "params": 10 * i, "final_loss": loss, "workload.width": 8 * i}
        for i, (status, loss) in enumerate([("ok", 2.5), ("ok", 2.25), ("diverged", float("nan"))], 1)
    ]
    Store(tmp_path / "mine").append(rows)
    result = read_table(tmp_path / "mine")
    assert result.columns["trial"].tolist() == [row["trial"] for row in rows]  # text, though all of them are digits
    assert any("1 diverged" in note for note in result.notes)
    chosen = clean(
        select_columns(result, {"N": "params", "width": "width", "loss": "final_loss"}, ["N", "width", "loss"]),
        ["N", "loss"],
    )
    assert chosen.columns["width"].tolist() == [8, 16]
    assert chosen.dropped == {"loss is not finite": 1}
    with pytest.raises(BadInput, match=r"folder of studies; give one of them: .*mine"):
        read_table(tmp_path)
    (tmp_path / "young" / "trials").mkdir(parents=True)
    with pytest.raises(BadInput, match="has no rows"):
        read_table(tmp_path / "young")


def test_several_files(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", "step,loss\n1,3\n2,2.5\n")
    write(tmp_path, "a.csv.gz", gzip.compress(b"step,loss,lr\n1K,4,0.1\n"))
    result = read_table(str(tmp_path / "*.csv*"))
    assert result.columns["file"].tolist() == ["a", "b", "b"]
    np.testing.assert_array_equal(result.columns["step"], [1000, 1, 2])
    np.testing.assert_array_equal(result.columns["lr"], [0.1, np.nan, np.nan])
    assert any("column 'lr' is not in 1 file" in note and "b.csv" in note for note in result.notes)
    assert any("cells without a unit (1)" in note for note in result.notes)
    write(tmp_path, "c.csv", "step,loss\n1,3\n2,high\n")
    with pytest.raises(BadInput, match=r"line 3 of c: loss = 'high'"):
        clean(read_table(str(tmp_path / "*.csv")), ["loss"])
    with pytest.raises(BadInput, match=r"nothing matches .*\*\.jsonl"):
        read_table(str(tmp_path / "*.jsonl"))
    write(tmp_path, "d.csv", "file,loss\nx,3\n")
    with pytest.raises(BadInput, match="column 'file'"):
        read_table(str(tmp_path / "*.csv"))


def test_files_of_one_name_in_different_folders_stay_apart(tmp_path: Path) -> None:
    for run in ("one", "two"):
        write(tmp_path, f"{run}/logs/curve.csv", "step,loss\n1,3\n")
    assert read_table(str(tmp_path / "**" / "*.csv")).columns["file"].tolist() == ["one/logs/curve", "two/logs/curve"]
    assert len(read_table(write(tmp_path, "[1].csv", "loss\n3\n"))) == 1  # an existing name is no pattern


@pytest.mark.parametrize(
    ("cells", "values", "note"),
    [
        (["1,234,567", "89", ""], [1234567, 89, np.nan], "thousands separators (1,234,567 = 1234567)"),
        (["1,234", "5,678.5"], [1234, 5678.5], "thousands separators"),
        (["70M", "1.4B"], [7e7, 1.4e9], "units (70M = 7e7)"),
        (["1k", "2 K", "3G", "4T", "1e9", "n/a"], [1e3, 2e3, 3e9, 4e12, 1e9, np.nan], "units (1k = 1000)"),
        (["0.29B", "-1.5e-3M"], [290000000, -1500], "units"),
        (["1,234M", "1,234,567"], [1234e6, 1234567], "units (1,234M = 1.234e9) and cells without a unit (1,234,567)"),
    ],
)
def test_written_numbers(tmp_path: Path, cells: list[str], values: list[float], note: str) -> None:
    result = read(tmp_path, "size\n" + "".join(f'"{cell}"\n' for cell in cells) + '"-"\n')
    np.testing.assert_array_equal(result.columns["size"], [*values, np.nan])
    assert len(result.notes) == 1
    assert result.notes[0].startswith("column 'size' had ")
    assert note in result.notes[0]


def test_a_lone_group_of_digits_needs_a_decimal_point_elsewhere(tmp_path: Path) -> None:
    """In a European table "2,345" is 2.345: it must not become a loss of 2345."""
    european = read(tmp_path, "params;loss\n1000;2,345\n2000;2,125\n")
    with pytest.raises(BadInput, match=r"line 2: loss = '2,345' may mean 2345 or a decimal comma"):
        clean(european, ["loss"])
    english = read(tmp_path, 'params,loss\n"1,000",2.345\n"2,000",2.125\n')
    np.testing.assert_array_equal(english.columns["params"], [1000, 2000])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1,5", r"line 4: x = '1,5' has a decimal comma: write 1\.5"),
        ("0,125", "decimal comma: write 0.125"),
        ("12,34,567", "not a number"),
        ("45%", "percentage: write the fraction"),
        ("70m", "lower case: write 70M"),
        ("300B tokens", "write the plain number"),
        ("1.234.567", "not a number"),
        ("high", r"is not a number: correct it.*where="),
        ("\x1b[31m", r"'\\x1b\[31m' is not a number"),
        ("9" * 200 + "x", "'9{40}…' is not"),
    ],
)
@pytest.mark.parametrize("use", [lambda t: clean(t, ["x"]), lambda t: select_columns(t, {"y": "2*x"}, ["y"])])
def test_text_used_as_a_number_is_refused(
    tmp_path: Path, cell: str, message: str, use: Callable[[Table], object]
) -> None:
    result = read(tmp_path, f'x,y\n1,2\n\n"{cell}",3\n')
    assert result.columns["x"].dtype == object  # which is no harm where nobody uses it
    with pytest.raises(BadInput, match=message):
        use(result)


def test_text_can_be_left_out_by_where(tmp_path: Path) -> None:
    result = read(tmp_path, "N,loss\n1K,2.5\n2K,diverged\n3K,bad\n")
    result = where(result, "loss <> 'diverged'")
    with pytest.raises(BadInput, match="line 4: loss = 'bad'"):
        clean(result, ["loss"])
    result = clean(where(result, "N < 3000"), ["N", "loss"])
    assert result.columns["loss"].tolist() == [2.5]
    assert len(result) + sum(result.dropped.values()) == result.rows_read


BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("runs.csv", "", "is empty"),
    "blank": ("runs.csv", "\n \n", "is empty"),
    "header only": ("runs.csv", "N,loss\n", "has no rows"),
    "no header": ("runs.csv", "1e6,3.5\n2e6,3.1\n", "first line must name the columns"),
    "ragged, long": ("runs.csv", "N,loss\n1,234,3\n", r"line 2 has 3 cells, but the header has 2.*needs quotes"),
    "ragged, short": ("runs.csv", "N,loss\n1,3\n2\n", "line 3 has 1 cells"),
    "repeated column": ("runs.csv", "N,loss,N\n1,2,3\n", "more than one column called 'N'"),
    "open quote": ("runs.csv", 'N,loss\n1,"2\n3,4\n', "check the quotes"),
    "latin 1": ("runs.csv", "naïve,loss\n1,2\n".encode("latin-1"), r"not UTF-8 text \(line 1: byte 0xef\)"),
    "UTF-16": ("runs.csv", "N,loss\n1,2\n".encode("utf-16"), "is UTF-16"),
    "binary": ("runs.csv", b"N,\0loss\n1,2\n", "zero bytes"),
    "cut gzip": ("runs.csv.gz", gzip.compress(b"N,loss\n1,2\n")[:-9], "not a whole gzip file"),
    "not gzip": ("runs.csv.gz", "N,loss\n1,2\n", "not a whole gzip file"),
    "not Parquet": ("runs.parquet", "N,loss\n1,2\n", "not a readable Parquet file"),
    "spreadsheet": ("runs.xlsx", b"PK", r"must end in \.csv.*Export spreadsheets as CSV"),
    "cut JSON": ("runs.json", '[{"N": 1', "not valid JSON"),
    "lines as JSON": ("runs.json", '{"N": 1}\n{"N": 2}\n', r"call it \.jsonl"),
    "JSON object": ("runs.json", '{"N": [1, 2]}', "must hold a list of records"),
    "JSON numbers": ("runs.json", "[1, 2]", "row 1 is int, not a record"),
    "empty list": ("runs.json", "[]", "has no rows"),
    "bad line": ("runs.jsonl", '{"N": 1}\n{"N": }\n', "line 2 is not valid JSON"),
    "deep JSON": ("runs.json", "[" * 100_000, "not valid JSON"),
    "name twice": ("runs.jsonl", '{"a.b": 1, "a": {"b": 2}}', "has 'a.b' twice"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path: Path, name: str) -> None:
    file, content, message = BAD_FILES[name]
    with pytest.raises(BadInput, match=message) as error:
        read(tmp_path, content, file)
    assert str(tmp_path / file) in str(error.value)


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, "points.csv", CSV)
    with pytest.raises(BadInput, match=r"Did you mean 'points\.csv'\?"):
        read_table(tmp_path / "Point.csv")
    with pytest.raises(BadInput, match=r"cannot read .*too long"):
        read_table(tmp_path / ("x" * 300))
    with pytest.raises(BadInput, match="neither does the folder"):
        read_table(tmp_path / "no" / "points.csv")
    with pytest.raises(BadInput, match=r"not a study; to read its files together, use '.*\*\.csv'"):
        read_table(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="without a study in it"):
        read_table(tmp_path / "empty")


def test_select_renames_and_keeps_the_rest() -> None:
    runs = table(**{"D/N": [20.0, 40.0], "Model Size": [1e6, 2e6], "loss": [3.0, 2.0], "run": ["a", "b"]})
    chosen = select_columns(runs, {"N": "Model Size", "M": "D/N", "D": "`D/N` * N"}, ["N", "D", "loss"], ["M", "batch"])
    assert chosen.columns["N"].tolist() == [1e6, 2e6]
    assert chosen.columns["M"].tolist() == [20, 40]
    assert chosen.columns["D"].tolist() == [2e7, 8e7]
    assert set(chosen.columns) == {*runs.columns, "N", "M", "D"}
    assert chosen.notes == ("D = `D/N` * N",)
    assert select_columns(runs, {"N": "`Model Size`"}, ["N"]).columns["N"].tolist() == [1e6, 2e6]


def test_select_reads_the_table_not_its_own_results() -> None:
    runs = table(N=[1.0], D=[2.0], ti=[3.0])
    swapped = select_columns(runs, {"N": "D", "D": "N * ti"}, ["N", "D"])
    assert (swapped.columns["N"].tolist(), swapped.columns["D"].tolist()) == ([2], [3])
    assert any("takes the place of the table's own 'N'" in note for note in swapped.notes)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {},
            r"no column 'loss', which is needed.*columns\.loss=COLUMN\. Did you mean 'Final Loss'\? "
            r"Columns there: Model Size, D/N, Final Loss, run\.",
        ),
        ({"loss": "final loss"}, r"columns\.loss: .* no column 'final loss'\. Did you mean 'Final Loss'"),
        ({"loss": "D/M"}, "no column 'D'"),
        ({"loss": "`D/M`"}, "no column 'D/M'"),
        ({"loss": "`Final Loss"}, "neither a column nor arithmetic"),
        ({"loss": "log(run)"}, r"row 1: run = 'a' is not a number"),
        ({"loss": "loss + 1"}, "no column 'loss'"),
        ({"los": "Final Loss"}, r"columns\.los is not used here; Did you mean 'loss'"),
    ],
)
def test_missing_columns(mapping: dict[str, str], message: str) -> None:
    runs = table(**{"Model Size": [1.0], "D/N": [2.0], "Final Loss": [3.0], "run": ["a"]})
    with pytest.raises(BadInput, match=message):
        select_columns(runs, mapping, ["loss"])


def test_long_lists_of_columns_are_cut() -> None:
    runs = table(**{f"metric_{i}": [1.0] for i in range(500)})
    with pytest.raises(BadInput, match=r"metric_59 and 440 more\.$"):
        select_columns(runs, {}, ["loss"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/(6*b)", 4 / 18),
        ("-a + +b ** 2 - 1", 4.0),
        ("2 ** 3 ** a", 2.0**81),
        ("log(exp(a)) * sqrt(c.d)", 20.0),
        ("c.d/`D/N` + `a`", 12.5 + 4),
        ("1e9", 1e9),
        ("a/0", np.inf),
        ("0/0*a", np.nan),
        ("9**9**9**9**9", np.inf),
    ],
)
def test_expressions(text: str, expected: float) -> None:
    columns = {name: np.array([value]) for name, value in {"a": 4.0, "b": 3.0, "c.d": 25.0, "D/N": 2.0}.items()}
    np.testing.assert_allclose(
        Expression(text)(columns), np.reshape(expected, () if text[0] in "19" else (1,)), rtol=1e-15
    )


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "a.__class__()", "(lambda: a)()", "[a]", "a if b else a", "a and b", "a < b",
        "a @ b", "a // b", "a % b", "a ^ 2", "a[0]", "'a' * 2", "True", "1j", "f'{a}'", "log(a, b)", "log(x=a)", "log(*a)",
        "(a := 2)", "a;b", "a\nb", "", "a +", "()", "log", "abs(a)", "1if a else 2", "a\0b", "-" * 990 + "a", "(" * 500,
        "a" * 1001, "(a+b).c",
    ],
)  # fmt: skip
def test_what_is_not_arithmetic_is_refused(text: str) -> None:
    if text == "log":
        assert Expression(text).names == ["log"]  # a column may be called so
        return
    with pytest.raises(BadInput, match=r"expression|arithmetic"):
        Expression(text)


def test_clean_counts_every_reason_once() -> None:
    runs = table(
        N=[1, 2, -3, 0, np.nan, 6, 7, 1],
        loss=[1, np.nan, np.inf, 2, np.nan, -1, 3, 1],
        lr=[0, 0, 0, 0, 0, 0, np.inf, 0],
    )
    cleaned = clean(runs, positive=("N", "loss"), finite=("lr",))
    assert cleaned.columns["N"].tolist() == [1, 1]
    assert cleaned.dropped == {
        "N is not finite": 1,
        "loss is not finite": 2,
        "lr is not finite": 1,
        "N is not positive": 1,
        "loss is not positive": 1,
    }
    assert len(cleaned) + sum(cleaned.dropped.values()) == cleaned.rows_read == 8
    assert cleaned.notes == ("1 row repeats another in all of N, loss, lr; kept",)
    assert clean(cleaned, ["N"]).dropped == cleaned.dropped


def test_clean_with_nothing_left_says_why() -> None:
    reasons = r"no usable row is left of the 2 in runs\.csv \(loss is not finite: 1; N is not positive: 1\)"
    with pytest.raises(BadInput, match=reasons):
        clean(table(N=[-1.0, 2.0], loss=[3.0, np.nan]), ["N", "loss"])
    with pytest.raises(BadInput, match=r"no column 'Loss'\. Did you mean 'loss'"):
        clean(table(loss=[3.0]), ["Loss"])


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("n > 1.5", [2, 3]),
        ("N > 15", [2, 3]),
        ("\"Model Size\" = 100 or run = 'c'", [1, 3]),
        ("warmup='long'", [2]),
        ("isnan(loss)", [2]),
        ("true", [1, 2, 3]),
        (" ", [1, 2, 3]),
    ],
)
def test_where(expression: str, left: list[int]) -> None:
    columns = {
        "n": [1.0, 2.0, 3.0],
        "N": [10.0, 20.0, 30.0],
        "Model Size": [100.0, 200.0, 300.0],
        "run": ["a", "b", "c"],
    }
    runs = table(**columns, **{"config.warmup": ["", "long", "short"], "loss": [1.0, np.nan, 2.0]})
    result = where(runs, expression)
    assert result.columns["n"].tolist() == left
    assert result.dropped == ({f"where: {expression}": 3 - len(left)} if len(left) < 3 else {})


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("los > 1", "unknown column 'los'. Did you mean 'loss'"),
        ("loss >", "cannot be used as SQL"),
        ("loss > 100", "keeps none of the 2 rows"),
        ("n = N", "n, N for the same column"),
        ("true; drop table trials", "cannot be used as SQL"),
        ("loss < (select count(*) from read_csv('/etc/passwd'))", "cannot be used as SQL"),
    ],
)
def test_bad_where(expression: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        where(table(loss=[1.0, 2.0], n=[1.0, 2.0], N=[1.0, 2.0]), expression)


PUBLISHED = {
    "chinchilla_besiroglu/svg_extracted_data.csv": (
        {"N": "Model Size", "C": "Training FLOP", "D": "C / (6 * N)"},
        ["N", "C", "D", "loss"],
        245,
    ),
    "gemstones/wandb_df_for_fitting_hot.jsonl": (
        {"N": "params_active_precise", "D": "tokens", "loss": "final_loss"},
        ["N", "D", "loss"],
        220,
    ),
    "steplaw/dense_lr_bs_loss.csv": ({"M": "D/N", "loss": "smooth loss"}, ["N", "D", "M", "loss"], 1911),
    "porian/isoflop_points.csv": ({"N": "n", "D": "t", "C": "flops"}, ["N", "D", "C", "loss"], 1745),
    "revisiting_nsl/benchmark.lang.csv": ({"N": "Seen Examples", "loss": "Loss"}, ["N", "loss"], 1399),
    "multipowerlaw/csv_25/*.csv": ({}, ["step", "lr", "loss"], 2059),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="no published data beside the checkout")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tables(name: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is absent: published data is not part of the repository")
    mapping, needed, rows = PUBLISHED[name]
    result = clean(select_columns(read_table(DATA / name), mapping, needed), needed)
    assert result.rows_read == rows
    assert not result.dropped
    columns = result.columns
    if "C" in columns:
        np.testing.assert_allclose(np.log(columns["C"] / (6 * columns["N"] * columns["D"])), 0, atol=0.1)
    if "M" in columns:
        np.testing.assert_allclose(columns["M"], columns["D"] / columns["N"], rtol=1e-12)
    if "*" in name:
        assert {"cosine_24000", "constant_72000", "wsdcon_9"} < set(columns["file"])
        assert len(where(result, "file='cosine_24000' and step < 12000")) == 77
