"""python -m harness.runs: listings, exports, errors."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from harness import runs
from harness.cli import run
from harness.records import listing
from harness.records.store import Store
from tests.records.bench_listing import generate

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]red\u202e\r\n\x9b"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    generate(folder / "generated", trials=100, fragments=5, points=4)
    return folder


def command(results: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[list[str]], str]:
    """The printed table as header and rows of cells, and standard error."""
    assert run(runs.main, [f"results={results}", *arguments]) == 0
    out, err = capsys.readouterr()
    return [line.split() for line in out.splitlines()], err


def test_studies_are_listed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, _ = command(results, capsys)
    assert table[0][:6] == ["study", "trials", "ok", "diverged", "stopped", "failed"]
    assert table[1] == ["generated", "100", "98", "2", "0", "0", "2026-01-01T00:00:30Z"]


def test_no_studies_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = command(tmp_path, capsys)
    assert "no studies" in err


def test_an_empty_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path / "empty").check_writable()
    table, err = command(tmp_path, capsys)
    assert table[1] == ["empty", "0", "0", "0", "0", "0", "-"]
    _, err = command(tmp_path, capsys, "study=empty")
    assert "0 trials" in err


def test_trials_are_filtered_sorted_and_limited(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "study=generated",
        "where=width>=64 and status='ok'",
        "columns=trial,width,status,final_loss",
        "limit=5",
    )
    table, err = command(results, capsys, *arguments)
    assert table[0] == ["trial", "width", "status", "final_loss"]
    assert len(table) == 6
    assert all(int(row[1]) >= 64 and row[2] == "ok" for row in table[1:])
    losses = [float(row[3]) for row in table[1:]]
    assert losses == sorted(losses)
    everything, _ = command(results, capsys, *arguments[:-1], "limit=0")
    assert f"5 of {len(everything) - 1} trials; {len(everything) - 6} more" in err
    worst, _ = command(results, capsys, *arguments, "descending=true")
    assert float(worst[1][3]) == max(float(row[3]) for row in everything[1:])


def test_what_differs_is_shown_without_asking(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, _ = command(results, capsys, "study=generated")
    header = table[0]
    assert {"trial", "status", "width", "learning_rate", "final_loss", "weight_decay"} <= set(header)
    assert not {"config", "b1", "context"} & set(header)
    assert len(table) == 21


def test_exports(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet, csv = tmp_path / "out.parquet", tmp_path / "out.csv"
    command(results, capsys, "study=generated", "where=status='diverged'", f"export={parquet}")
    table = pq.read_table(parquet)
    assert table.num_rows == 2
    assert set(table.column_names) == set(Store(results / "generated").trials().column_names)
    assert all(math.isnan(loss) for loss in table["final_loss"].to_pylist())
    command(results, capsys, "study=generated", "columns=trial,width", f"export={csv}")
    read = pyarrow.csv.read_csv(csv)
    assert (read.num_rows, read.column_names) == (100, ["trial", "workload.width"])
    command(results, capsys, "study=generated", "limit=7", f"export={csv}")
    assert pyarrow.csv.read_csv(csv).num_rows == 7


def test_curves(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = sorted(Store(results / "generated").finished())[0]
    table, _ = command(results, capsys, "study=generated", f"where=trial='{best}'", "curves=true")
    assert table[0] == ["trial", "step", "tokens", "lr", "train_loss", "eval_loss", "eval_metric"]
    assert [row[:2] for row in table[1:]] == [[best, str(step)] for step in (0, 2, 4, 6)]
    target = tmp_path / "curves.csv"
    command(results, capsys, "study=generated", "curves=true", f"export={target}")
    assert pyarrow.csv.read_csv(target).num_rows == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study=generate"], "Did you mean 'generated'"),
        (["study=../generated"], "no study"),
        (["study=generated", "where=widht=3"], "Did you mean 'width'"),
        (["study=generated", "where=width=="], "cannot be used as SQL"),
        (["study=generated", "where=(select count(*) from read_csv('/etc/passwd')) > 0"], "disabled"),
        (["study=generated", "sort=los"], "unknown column"),
        (["study=generated", "columns=trial,widht"], "Did you mean 'width'"),
        (["study=generated", "limit=-1"], "limit=-1"),
        (["study=generated", "limit=many"], "limit"),
        (["study=generated", "export=x.xlsx"], ".csv or .parquet"),
        (["study=generated", "export=/missing/folder/x.csv"], "cannot write"),
        (["studdy=generated"], "Did you mean 'study'"),
        (["results=/missing"], "results=DIR"),
    ],
)
def test_bad_input_exits_with_2(
    results: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(runs.main, [f"results={results}", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.split())


def test_help_lists_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(runs.main, ["--help"]) == 0
    assert "descending=False" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    Store(tmp_path / "hostile").append(
        [
            {
                "trial": "a" * 16,
                "status": "ok",
                "workload": HOSTILE,
                "optimizer": "字" * 30,
                f"x.{HOSTILE}": 1,
                "error": HOSTILE,
            }
        ]
    )
    return tmp_path


@pytest.mark.parametrize(
    "arguments", [[], ["columns=trial,workload,error"], ["where=error <> ''"], ["where=bad_column=1"]]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_from_records_controls_the_terminal(
    hostile: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,
    arguments: list[str],
) -> None:
    out = Terminal() if terminal else io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("TERM", "dumb")
        patch.setenv("COLUMNS", "500")
        run(runs.main, [f"results={hostile}", "study=hostile", *arguments])
    text = out.getvalue() + capsys.readouterr().err
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    if arguments != ["where=bad_column=1"]:
        assert "\\x1b]0;owned\\x07\\x1b[31m[bold]red\\u202e\\r\\n\\x9b" in text


@pytest.mark.parametrize("width", [40, 80, 300])
def test_a_terminal_is_not_overflowed(results: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(runs.main, [f"results={results}", "study=generated"]) == 0
    assert run(runs.main, [f"results={results}", "study=generated", "columns=trial,config,final_loss"]) == 0
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert ("not shown here" in out.getvalue()) == (width < 200)


def test_numbers_are_aligned_right() -> None:
    out = io.StringIO()
    listing.show(["name", "loss"], [["a", 1.5], ["bcdef", math.nan], ["c", None]], fixed=True, out=out)
    assert out.getvalue().splitlines() == ["name   loss", "a       1.5", "bcdef   nan", "c         -"]


def test_the_command_imports_no_jax_and_survives_a_closed_pipe(results: Path) -> None:
    code = (
        "import sys; from harness import runs; from harness.cli import run; run(runs.main); "
        "assert not {'jax', 'flax', 'optax'} & set(sys.modules), sorted(sys.modules)"
    )
    arguments = [f"results={results}", "study=generated", "where=width>0", "limit=0"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, env=environment)
    piped = f"{sys.executable} -m harness.runs results={results} study=generated limit=0 | head -1"
    shown = subprocess.run(piped, shell=True, capture_output=True, text=True, env=environment, check=True)
    assert shown.stdout.startswith("trial")
    assert "Traceback" not in shown.stderr
