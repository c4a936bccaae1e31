"""harness.fit: from anybody's table to fit.json and a page; bad tables are refused or spoken of."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from harness import cli
from harness.fit import main
from harness.laws import LAWS
from harness.laws.procedures import PROCEDURES

RNG = np.random.default_rng(0)
SIZE = np.geomspace(1e6, 1e9, 12)
LOSS = (1.7 + 40 * SIZE**-0.3) * np.exp(0.002 * RNG.normal(size=SIZE.size))


def table(folder, columns, name="points.csv"):
    path = folder / name
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(names), *(",".join(str(v) for v in row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def points(tmp_path):
    return table(tmp_path, {"params": SIZE, "loss": LOSS})


def fitted(path, *words, law="power_law_offset", size="params"):
    out = path.parent / "out"
    assert main([f"law={law}", f"runs={path}", f"columns.N={size}", "bootstrap=100", f"out={out}", *words]) == 0
    return json.loads((out / "fit.json").read_text())


def test_a_fit_writes_json_page_and_pictures_and_prints_a_table(points, capsys):
    entry = fitted(points, "profile=all", "predict.N=1e10,1e11", "held_out=N > 5e8")
    assert entry["law"] == "power_law_offset"
    assert entry["params"]["E"] == pytest.approx(1.7, rel=0.05)
    assert set(entry["profile"]) == {"E", "A", "alpha"}
    assert [row["N"] for row in entry["predictions"]] == [1e10, 1e11]
    assert all(row["low"] < row["loss"] < row["high"] for row in entry["predictions"])
    assert entry["held_out"]["n"] == 2
    assert entry["n"] == entry["data"]["rows_used"] == 10
    assert entry["command"].startswith("python -m harness.fit law=power_law_offset")
    page = (points.parent / "out" / "report.html").read_text()
    assert "held-out" in page.lower()
    assert {p.stem for p in (points.parent / "out" / "figures").iterdir()} >= {"fit", "residuals", "profile_alpha"}
    printed = capsys.readouterr().out
    for word in ("alpha", "sandwich SE", "condition number", "straight_line, %", "rows: 10 used of 12 read"):
        assert word in printed


def test_held_out_rows_do_not_move_the_fit(points, tmp_path):
    moved = LOSS.copy()
    moved[SIZE > 5e8] *= 1.5
    other = table(tmp_path, {"params": SIZE, "loss": moved}, "moved.csv")
    one, two = (fitted(path, "held_out=params > 5e8") for path in (points, other))
    assert one["params"] == two["params"]
    assert two["held_out"]["mean"] < one["held_out"]["mean"] - 0.3


def test_every_dropped_row_has_a_reason(tmp_path):
    loss = LOSS.copy()
    loss[3], loss[4], loss[5] = np.nan, np.inf, -1.0
    entry = fitted(table(tmp_path, {"params": SIZE, "loss": loss}), "outliers.drop_highest=1", "where=params < 9e8")
    data = entry["data"]
    assert data["rows_used"] + sum(data["dropped"].values()) == data["rows_read"] == 12
    assert data["dropped"] == {
        "where: params < 9e8": 1,
        "loss is not finite": 2,
        "loss is not positive": 1,
        "outliers: 1 highest loss": 1,
    }


def test_units_separators_and_duplicates_are_noted(tmp_path):
    text = "params,loss\n" + "\n".join(f'"{n:,.0f}",{v}' for n, v in zip(SIZE, LOSS, strict=True))
    path = tmp_path / "written.csv"
    path.write_text(f"{text}\n1B,{LOSS[-1]}\n1B,{LOSS[-1]}\n")
    entry = fitted(path)
    notes = " ".join(entry["data"]["notes"])
    assert "1B = 1e9" in notes.replace("1e+09", "1e9")
    assert "repeat" in notes
    assert entry["params"]["E"] == pytest.approx(1.7, rel=0.05)


def test_all_puts_laws_side_by_side_and_fits_the_chosen_one(points, capsys):
    entry = fitted(points, law="all")
    names = {row["law"] for row in entry["selection"]["laws"]}
    assert {"power_law", "power_law_offset"} <= names
    assert entry["law"] == entry["selection"]["chosen"]
    assert "Laws side by side" in capsys.readouterr().out


def test_all_reads_the_table_once_whatever_the_chosen_law_reads(tmp_path):
    """Two columns are mapped, the loss depends on one: the chosen law must not stumble over the other."""
    n, d = (m.ravel() for m in np.meshgrid(np.geomspace(1e6, 1e9, 8), [1e9, 1e9, 1e9]))
    loss = (1.7 + 40 * n**-0.3) * np.exp(0.001 * np.random.default_rng(5).normal(size=n.size))
    path = table(tmp_path, {"params": n, "tokens": d, "loss": loss})
    entry = fitted(path, "columns.D=tokens", "predict.N=1e10", "predict.D=1e10", "objective.delta=0.01", law="all")
    assert entry["law"] == "power_law_offset"
    assert [row["N"] for row in entry["predictions"]] == [1e10]
    assert entry["loss"]["delta"] == entry["selection"]["objective"]["delta"] == 0.01


def curves(folder):
    step = np.arange(1, 61) * 10
    parts = []
    for name, lr in {"a": np.full(60, 1e-3), "b": np.linspace(1e-3, 1e-4, 60), "c": np.full(60, 5e-4)}.items():
        loss = 2 + 0.5 * np.cumsum(10 * lr) ** -0.4
        parts.append({"curve": np.full(60, name), "step": step, "lr": lr, "loss": loss})
    return table(folder, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}, "curves.csv")


def test_laws_of_curves_are_drawn_and_hold_out_whole_curves_only(tmp_path, capsys):
    path, out = curves(tmp_path), tmp_path / "out"
    words = ["law=annealing", f"runs={path}", "options.warmup=0", "bootstrap=100", f"out={out}"]
    assert main(words) == 0
    assert (out / "figures" / "fit.png").is_file()
    assert cli.run(main, [*words, "held_out=step > 300"]) == 2
    assert "hold out whole curves" in " ".join(capsys.readouterr().err.split())


def test_a_users_own_law(points):
    form = points.parent / "own.py"
    form.write_text(
        "from harness.laws import Positive\n\ndef law(N, *, E: Positive, A: Positive):\n    return E + A * N**-0.3\n"
    )
    entry = fitted(points, law=f"{form}:law")
    assert entry["params"]["E"] == pytest.approx(1.7, rel=0.02)


def test_compute_optimal_sizes_from_a_law_of_n_and_d(tmp_path):
    n, d = (m.ravel() for m in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    loss = (1.7 + 400 * n**-0.34 + 400 * d**-0.28) * np.exp(0.001 * RNG.normal(size=n.size))
    path = table(tmp_path, {"params": n, "tokens": d, "loss": loss})
    entry = fitted(path, "columns.D=tokens", "compute=1e20,1e21", law="chinchilla")
    allocation = entry["allocation"]
    assert allocation["exponent_N"] == pytest.approx(0.28 / 0.62, abs=0.03)
    assert [row["compute"] for row in allocation["budgets"]] == [1e20, 1e21]


def test_without_arguments_everything_is_listed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name in (*LAWS, *PROCEDURES):
        assert f"\n{name} " in printed


BAD = {
    "no table": (["law=power_law"], "which table"),
    "unknown law": (["law=power_lax", "runs=X"], "Did you mean 'power_law'"),
    "missing column": (["law=chinchilla", "runs=X", "columns.N=params"], "no column 'D'.*Columns there: params, loss"),
    "misspelled column": (["law=power_law", "runs=X", "columns.N=parms"], "Did you mean 'params'"),
    "unused mapping": (["law=power_law", "runs=X", "columns.N=params", "columns.D=loss"], "columns.D is not used"),
    "nothing left": (["law=power_law", "runs=X", "columns.N=params", "where=params > 1e12"], "keeps none"),
    "too few": (
        ["law=power_law_offset", "runs=X", "columns.N=params", "where=params < 4e6"],
        "2 distinct|3 points|fewer",
    ),
    "negative outliers": (["law=power_law", "runs=X", "columns.N=params", "outliers.drop_highest=-1"], "negative"),
    "too many outliers": (["law=power_law", "runs=X", "columns.N=params", "outliers.drop_highest=12"], "would drop 12"),
    "predict the wrong": (["law=power_law", "runs=X", "columns.N=params", "predict.D=1e9"], "predict needs"),
    "predict no number": (["law=power_law", "runs=X", "columns.N=params", "predict.N=big"], "comma list of numbers"),
    "compute without D": (["law=power_law", "runs=X", "columns.N=params", "compute=1e20"], "N and D"),
    "objective": (["law=power_law", "runs=X", "columns.N=params", "objective.kind=l1"], "use huber or mse"),
    "profile": (["law=power_law", "runs=X", "columns.N=params", "profile=beta"], "no parameter 'beta'"),
    "cluster": (["law=power_law", "runs=X", "columns.N=params", "cluster=run"], "no column 'run'"),
    "resample": (["law=power_law", "runs=X", "columns.N=params", "resample=cluster"], "cluster=COLUMN"),
    "no file": (["law=power_law", "runs=nowhere.csv"], "there is no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_2_with_the_fix(points, capsys, case):
    words, message = BAD[case]
    words = [word.replace("runs=X", f"runs={points}") for word in words]
    assert cli.run(main, words) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert re.search(message, printed), printed


def test_all_sizes_equal_is_refused(tmp_path, capsys):
    path = table(tmp_path, {"N": np.full(12, 1e6), "loss": LOSS})
    assert cli.run(main, ["law=power_law", f"runs={path}"]) == 2
    assert "same N" in capsys.readouterr().err
