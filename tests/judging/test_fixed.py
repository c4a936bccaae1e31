"""One configuration for all workloads, with made-up losses."""

from __future__ import annotations

import math

import numpy as np

from harness.judging.contest import Arena, Setting, tune
from harness.judging.fixed import FIRST_SEED, fixed_runs, untuned
from harness.submissions import load_submission
from workloads.ctr import CTR
from workloads.image_mlp import ImageMLP
from workloads.regression import Regression

BEST = {"image_mlp": 1e-3, "regression": 1.2e-3, "ctr": 3e-2}
SETTINGS = {
    "image_mlp": [Setting(ImageMLP(width=8), 20)],
    "regression": [Setting(Regression(width=8), 20)],
    "ctr": [Setting(CTR(width=8), 20)],
}


def train(trials):
    """A parabola in log learning rate around each workload's best; beyond 100 times that the run diverges."""
    rows = {}
    for trial in trials:
        off = math.log(trial.optimizer.learning_rate / BEST[trial.workload.name])
        seed = 0.001 * np.random.default_rng(trial.seed).standard_normal()
        diverged = off > math.log(100)
        rows[trial.id] = {
            "final_loss": math.nan if diverged else 1 + 0.1 * off**2 + seed,
            "status": "diverged" if diverged else "ok",
        }
    return rows


def contest(names=tuple(SETTINGS), methods=("adamw", "nadamw")):
    arena = Arena({name: SETTINGS[name] for name in names}, 24, 3)
    tuned = tune([load_submission(name) for name in methods], arena, train)
    return tuned, arena


def test_a_workload_is_calibrated_on_the_others():
    tuned, arena = contest()
    runs = {(run.method, run.kind, run.workload): run for run in fixed_runs(tuned, arena)}
    assert len(runs) == 2 * 2 * 3
    rate = {name: runs["adamw", "calibrated", name].values["learning_rate"] for name in SETTINGS}
    assert rate["ctr"] < 3e-3  # from image_mlp and regression, whose best rates are 1e-3
    assert rate["image_mlp"] > 2 * rate["ctr"]  # between regression's and ctr's
    assert runs["adamw", "default", "ctr"].values["learning_rate"] == load_submission("adamw").optimizer().learning_rate
    seeds = {trial.seed for run in runs.values() for trial in run.trials}
    assert min(seeds) == FIRST_SEED


def test_contestants_are_compared_over_the_tuned_baseline():
    tuned, arena = contest()
    runs = fixed_runs(tuned, arena)
    rows = train([trial for run in runs for trial in run.trials])
    found = untuned(runs, rows, dict.fromkeys(SETTINGS, 1.0), "nadamw")
    shown = {(one.method, one.kind): one for one in found.contestants}
    assert shown["nadamw", "calibrated"].mean > 0
    against = next(one for one in found.comparisons if one.second == "adamw, calibrated")
    assert against.first == "nadamw, calibrated"
    assert against.ci95[0] <= against.ratio <= against.ci95[1]
    assert found.to_json()["contestants"][0]["log_excess"]


def test_a_diverged_run_leaves_no_interval_and_counts():
    tuned, arena = contest()
    runs = fixed_runs(tuned, arena)
    rows = train([trial for run in runs for trial in run.trials])
    lost = next(run for run in runs if (run.method, run.kind, run.workload) == ("adamw", "calibrated", "ctr"))
    rows[lost.trials[0].id] = {"final_loss": None, "status": "diverged"}
    found = untuned(runs, rows, dict.fromkeys(SETTINGS, 1.0), "nadamw")
    one = next(c for c in found.contestants if (c.method, c.kind) == ("adamw", "calibrated"))
    assert np.isnan(one.excess).sum() == 1
    against = next(c for c in found.comparisons if c.second == "adamw, calibrated")
    assert math.isnan(against.ratio)
