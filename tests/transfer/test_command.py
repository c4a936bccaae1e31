"""harness.transfer on anybody's table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness import cli
from harness.transfer import main
from tests.transfer.sweeps import simulate


def write(folder, columns, name="sweep.csv"):
    path = folder / name
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(str(v) for v in row) for row in rows)]) + "\n")
    return path


def sweep(drift, seed=0, **options):
    columns = simulate(np.random.default_rng(seed), drift, sd=0.003, **options).columns()
    return {
        "d_model": columns["scale"],
        "peak_lr": columns["learning_rate"],
        "loss": columns["loss"],
        "seed": columns["seed"],
        "diverged": columns["diverged"],
    }


WORDS = ("columns.width=d_model", "columns.lr=peak_lr")


def verdicts(path, *words):
    out = path.parent / "out"
    assert main([f"runs={path}", *WORDS, f"out={out}", *words]) == 0
    return json.loads((out / "transfer.json").read_text())


def test_each_series_gets_its_own_verdict_page_and_pictures(tmp_path, capsys):
    parts = {"sp": sweep(-0.7), "mup": sweep(0.0)}
    columns = {k: np.concatenate([part[k] for part in parts.values()]) for k in parts["sp"]}
    columns["rule"] = np.repeat(list(parts), [part["loss"].size for part in parts.values()])
    found = verdicts(write(tmp_path, columns), "by=rule")
    assert {name: entry["verdict"] for name, entry in found.items()} == {"sp": "does_not_transfer", "mup": "transfers"}
    assert {p.stem for p in (tmp_path / "out" / "figures").iterdir()} == {
        "best_learning_rate",
        "curves_mup",
        "curves_sp",
    }
    printed = capsys.readouterr().out
    assert "sp: does_not_transfer" in printed
    assert "drift exponent: -0." in printed


def test_a_missing_loss_is_a_diverged_run_and_is_never_averaged(tmp_path):
    columns = sweep(0.0, center=-7.2)
    flagged = verdicts(write(tmp_path, columns))["all"]
    gone = columns["diverged"].astype(bool)
    assert gone.any()
    del columns["diverged"]
    columns["loss"] = np.where(gone, np.nan, columns["loss"])
    assert verdicts(write(tmp_path, columns))["all"] == flagged


def test_a_table_without_seeds_pairs_nothing_and_one_run_a_setting_still_has_intervals(tmp_path):
    columns = sweep(0.0, cliff=False)
    del columns["seed"]
    unpaired = verdicts(write(tmp_path, columns))["all"]
    assert unpaired["drift_exponent"] is not None
    single = {k: v[sweep(0.0, cliff=False)["seed"] == 0] for k, v in columns.items()}
    found = verdicts(write(tmp_path, single))["all"]
    low, high = found["drift_ci95"]
    assert low < found["drift_exponent"] < high
    assert not found["regret_cross_fitted"]


def test_an_optimum_at_the_edge_is_undecided_and_says_what_to_run(tmp_path):
    columns = sweep(0.0, cliff=False, center=-6.2)
    keep = columns["peak_lr"] > 2.0**-6
    found = verdicts(write(tmp_path, {k: v[keep] for k, v in columns.items()}))["all"]
    assert found["verdict"] == "undecided"
    assert "extend the grid downwards" in found["reason"]


def test_any_column_can_be_the_scale(tmp_path):
    columns = sweep(0.0, cliff=False)
    columns["layers"] = columns.pop("d_model")
    path = write(tmp_path, columns)
    out = tmp_path / "depth"
    words = [f"runs={path}", "axis=depth", "columns.depth=layers", "columns.lr=peak_lr", "base=32", f"out={out}"]
    assert main(words) == 0
    assert json.loads((out / "transfer.json").read_text())["all"]["base_width"] == 32


BAD = {
    "column": (["columns.width=d_modle", "columns.lr=peak_lr"], "Did you mean 'd_model'"),
    "base": ([*WORDS, "base=33"], "base_scale=33 has no trials"),
    "negative": (["columns.width=d_model", "columns.lr=peak_lr", "columns.loss=-1 * loss"], "not positive"),
    "weights": ([*WORDS, "weights=loss"], "not used here"),
    "by": ([*WORDS, "by=rule"], "no column 'rule'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(tmp_path, capsys, case):
    words, message = BAD[case]
    assert cli.run(main, [f"runs={write(tmp_path, sweep(0.0, cliff=False))}", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
