"""One configuration for all workloads, with made-up losses."""

from __future__ import annotations

import math

import numpy as np

from harness.judging.contest import Arena, Setting, tune
from harness.judging.fixed import CALIBRATION_SEED, FIRST_SEED, fixed_runs, untuned
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
    arena = Arena({name: SETTINGS[name] for name in names}, 8, 3)
    tuned = tune([load_submission(one) if isinstance(one, str) else one for one in methods], arena, train)
    return tuned, arena


def by_run(runs):
    return {(run.method, run.kind, run.workload): run for run in runs}


def tried_by(tuned, arena):
    """What is trained to calibrate."""
    tried = []
    fixed_runs(tuned, arena, lambda trials: tried.extend(trials) or train(trials))
    return tried


def test_a_workload_is_calibrated_on_the_others():
    tuned, arena = contest()
    runs = by_run(fixed_runs(tuned, arena, train))
    assert len(runs) == 2 * 2 * 3
    rate = {name: runs["adamw", "calibrated", name].values["learning_rate"] for name in SETTINGS}
    assert rate["ctr"] < 3e-3  # from image_mlp and regression, whose best rates are 1e-3
    assert rate["image_mlp"] > 2 * rate["ctr"]  # between regression's and ctr's
    assert runs["adamw", "calibrated", "ctr"].source == "best of 24 points on image_mlp, regression"


def test_every_workload_tries_the_same_points_of_a_method():
    tuned, arena = contest()
    tried = tried_by(tuned, arena)
    assert {trial.seed for trial in tried} == {CALIBRATION_SEED}
    for method in ("adamw", "nadamw"):
        points = [
            [trial.optimizer for trial in tried if (trial.workload.name, trial.optimizer.name) == (name, method)]
            for name in SETTINGS
        ]
        assert len(set(points[0])) == arena.points * arena.studies
        assert points[0] == points[1] == points[2]


def test_no_workloads_own_losses_choose_its_configuration():
    """Were they seen, ctr's would draw its calibrated learning rate upwards."""
    tuned, arena = contest()

    def without_ctr(trials):
        rows = train(trials)
        return rows | {
            trial.id: {"final_loss": 1.0, "status": "ok"} for trial in trials if trial.workload.name == "ctr"
        }

    seen, unseen = (by_run(fixed_runs(tuned, arena, how)) for how in (train, without_ctr))
    key = ("adamw", "calibrated", "ctr")
    assert seen[key].values == unseen[key].values
    assert seen["adamw", "calibrated", "image_mlp"].values != unseen["adamw", "calibrated", "image_mlp"].values


def test_all_train_on_as_many_seeds_as_the_tuned_and_on_none_of_theirs():
    tuned, arena = contest()
    theirs = {trial.seed for one in tuned for trial in one.trials}
    for run in fixed_runs(tuned, arena, train):
        assert [trial.seed for trial in run.trials] == [FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2]
        assert len(run.trials) == len(tuned[0].trials)
        assert not theirs & {trial.seed for trial in run.trials}
        assert all(
            getattr(trial.optimizer, name) == value for trial in run.trials for name, value in run.values.items()
        )


def test_the_default_is_the_literatures_and_not_that_of_the_fields():
    tuned, arena = contest(methods=("adamw", "momentum", "muon"))
    runs = by_run(fixed_runs(tuned, arena, train))
    shown = {name: dict(runs[name, "default", "ctr"].values) for name in ("adamw", "momentum", "muon")}
    assert shown["adamw"] == {"learning_rate": 1e-3, "weight_decay": 1e-2, "b1": 0.9, "b2": 0.999}
    assert shown["momentum"] == {"learning_rate": 0.1, "momentum": 0.9}
    assert shown["muon"] == {"learning_rate": 0.02, "weight_decay": 0.01, "adam_learning_rate": 3e-4, "adam_b2": 0.95}
    assert runs["momentum", "default", "ctr"].source == "He et al. 2016, section 3.4"


def test_what_is_searched_and_off_by_default_is_no_part_of_the_default(tmp_path):
    (tmp_path / "space.yaml").write_text("learning_rate: {log: [1e-3, 1]}\nmomentum: {linear: [0.5, 0.9]}\n")
    tuned, arena = contest(methods=("adamw", load_submission("sgd", str(tmp_path / "space.yaml"))))
    run = by_run(fixed_runs(tuned, arena, train))["sgd", "default", "ctr"]
    assert run.values == {"learning_rate": 1e-2}
    assert run.trials[0].optimizer.momentum is None


OWN = """
import optax

def make(learning_rate, b1=0.9):
    return optax.adam(learning_rate, b1)

def with_default(learning_rate=3e-3, b1=0.8):
    return optax.adam(learning_rate, b1)
"""


def test_what_the_literature_has_no_default_of_is_calibrated_only(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    file = str(tmp_path / "mine.py")
    tuned, arena = contest(methods=("adamw", "lars", f"{file}:with_default", f"{file}:make"))
    runs = fixed_runs(tuned, arena, train)
    kinds = {method: {run.kind for run in runs if run.method == method} for method in {run.method for run in runs}}
    both = {"default", "calibrated"}
    assert kinds == {"adamw": both, "lars": {"calibrated"}, "mine:with_default": both, "mine:make": {"calibrated"}}
    own = by_run(runs)["mine:with_default", "default", "ctr"]
    assert own.values == {"learning_rate": 3e-3, "b1": 0.8}
    assert own.source == "the default of learning_rate in with_default() of mine.py"
    rows = train([trial for run in runs for trial in run.trials])
    found = untuned(runs, rows, dict.fromkeys(SETTINGS, 1.0), "mine:make")
    assert found.without_default == ("lars", "mine:make")
    assert found.to_json()["without_default"] == ["lars", "mine:make"]
    assert len(found.comparisons) == 5
    assert {one.first for one in found.comparisons} == {"mine:make, calibrated"}


def test_a_method_that_lists_its_point_is_calibrated_to_it(tmp_path):
    (tmp_path / "mine.py").write_text(f'{OWN}\nSPACE = [{{"learning_rate": 0.02}}]\n')
    tuned, arena = contest(methods=("adamw", str(tmp_path / "mine.py")))
    runs = by_run(fixed_runs(tuned, arena, train))
    assert {tuple(runs["mine:make", "calibrated", name].values.items()) for name in SETTINGS} == {
        (("learning_rate", 0.02),)
    }


def test_a_workload_on_which_every_point_diverges_chooses_nothing():
    tuned, arena = contest()

    def diverges(trials):
        rows = train(trials)
        return rows | {
            t.id: {"final_loss": None, "status": "diverged"} for t in trials if t.workload.name == "regression"
        }

    rate = by_run(fixed_runs(tuned, arena, diverges))["adamw", "calibrated", "ctr"].values["learning_rate"]
    tried = {trial.optimizer.learning_rate for trial in tried_by(tuned, arena)}
    assert rate == min(tried, key=lambda rate: abs(math.log(rate / BEST["image_mlp"])))


def test_contestants_are_compared_over_the_tuned_baseline():
    tuned, arena = contest()
    runs = fixed_runs(tuned, arena, train)
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
    runs = fixed_runs(tuned, arena, train)
    rows = train([trial for run in runs for trial in run.trials])
    lost = next(run for run in runs if (run.method, run.kind, run.workload) == ("adamw", "calibrated", "ctr"))
    rows[lost.trials[0].id] = {"final_loss": None, "status": "diverged"}
    found = untuned(runs, rows, dict.fromkeys(SETTINGS, 1.0), "nadamw")
    one = next(c for c in found.contestants if (c.method, c.kind) == ("adamw", "calibrated"))
    assert np.isnan(one.excess).sum() == 1
    against = next(c for c in found.comparisons if c.second == "adamw, calibrated")
    assert math.isnan(against.ratio)
