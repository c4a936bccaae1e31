"""Targets: the median of the best algorithm's seeds, the worst test value of those that met it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from harness import cli
from harness.config import CONFIG_DIR
from harness.goals import read_goal, read_goals
from harness.judging.contest import Arena, Setting, tune
from harness.records.files import read_json
from harness.records.store import Store
from harness.rulesets import EVALUATIONS, ExternalTuning, trial_of
from harness.submissions import load_submission
from harness.targets import further_trials, hits, main, targets
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP


def contest(metrics, tests):
    """Two algorithms whose fresh seeds have these final metrics; tuned at made-up losses."""
    methods = [load_submission(name) for name in metrics]
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), 20)]}, 4, 1, len(next(iter(metrics.values()))))
    tuned = tune(methods, arena, lambda trials: {t.id: {"final_loss": t.optimizer.learning_rate} for t in trials})
    rows = {}
    for one in tuned:
        for trial, final, test in zip(one.trials, metrics[one.method.name], tests[one.method.name], strict=True):
            rows[trial.id] = {"final_metric": final, "test_metric": test, "final_loss": final}
    return tuned, rows


def test_the_median_of_the_best_and_the_worst_of_the_half_that_met_it():
    metrics = {"adamw": [0.10, 0.12, 0.14, 0.16, 0.18], "sgd": [0.3, 0.3, 0.3, 0.3, 0.3]}
    tests = {"adamw": [0.2, 0.25, 0.22, 0.9, 0.9], "sgd": [0.3] * 5}
    found = targets(*contest(metrics, tests), "metric", 0.0)
    assert found["algorithm"] == "adamw"
    assert found["validation_target"] == 0.14
    assert found["test_target"] == 0.25
    assert "hit_probability" not in found  # nobody asks the seeds that set it
    assert found["metric"] == "error_rate"
    assert found["algorithms"]["adamw"]["finals"] == metrics["adamw"]
    assert found["algorithms"]["sgd"]["tests"] == tests["sgd"]
    assert found["algorithms"]["adamw"]["gap_closed"] is None  # nobody knows the best possible error on digits
    json.dumps(found)


def test_the_gap_closed_is_that_of_the_median_seed(monkeypatch):
    monkeypatch.setattr(ImageMLP, "oracle_metric", lambda self: 0.1)
    found = targets(*contest({"adamw": [0.1, 0.3, 0.9]}, {"adamw": [0.2] * 3}), "metric", 0.0)
    assert found["algorithms"]["adamw"]["gap_closed"] == pytest.approx(0.6 / 0.8)


def test_tuning_looks_at_what_the_target_is_on():
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), 20)]}, 6, 1, 2, on="metric")

    def train(trials):
        return {
            t.id: {"final_loss": t.optimizer.learning_rate, "final_metric": -t.optimizer.learning_rate} for t in trials
        }

    (one,) = tune([load_submission("sgd")], arena, train)
    assert one.best["learning_rate"] == max(point["learning_rate"] for point, _ in one.points)


def test_a_variant_is_trained_as_declared(tmp_path):
    words = [
        "workload=ctr",
        "variant=layernorm",
        "fields.width=4",
        "fields.depth=1",
        "fields.hash_buckets=50",
        "steps=8",
        "points=2",
        "seeds=2",
    ]
    assert main([*words, "algorithms=adamw", f"out={tmp_path}", f"results={tmp_path}"]) == 0
    found = json.loads((tmp_path / "ctr_layernorm.json").read_text())
    assert (found["workload"], found["variant"]) == ("ctr", "layernorm")
    assert found["fields"]["workload.layer_norm"] is True


def test_relaxing_moves_the_target_towards_the_worse():
    metrics = {"adamw": [0.10, 0.12, 0.14, 0.16, 0.18], "sgd": [math.nan] * 5}
    found = targets(*contest(metrics, {name: [0.2] * 5 for name in metrics}), "metric", 0.2)
    assert found["validation_target"] > 0.14


def test_seeds_that_diverged_do_not_set_targets():
    metrics = {"adamw": [0.1, math.nan, math.nan, math.nan, 0.1], "sgd": [0.3, 0.3, 0.3, 0.3, math.nan]}
    found = targets(*contest(metrics, {name: [0.2] * 5 for name in metrics}), "metric", 0.0)
    assert found["algorithm"] == "sgd"
    with pytest.raises(BadInput, match="every algorithm diverged"):
        targets(*contest({"sgd": [math.nan] * 3}, {"sgd": [0.2] * 3}), "metric", 0.0)


def test_the_command_trains_and_writes_what_it_found(tmp_path, monkeypatch, capsys):
    assert main([*SMALL, f"out={tmp_path}", f"results={tmp_path}"]) == 0
    found = json.loads((tmp_path / "image_mlp.json").read_text())
    assert found["fields"]["workload.width"] == 8
    assert 0 < found["validation_target"] < 1
    said = capsys.readouterr().out
    assert f"reached by {found['hit_probability']:.0%} of 2 further seeds (adamw)" in said
    assert "on=loss" not in said
    monkeypatch.setattr(ImageMLP, "oracle_metric", lambda self: found["validation_target"])
    assert main([*SMALL, f"out={tmp_path}", f"results={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"replaces {tmp_path / 'image_mlp.json'}: error_rate" in said
    assert "the best possible error_rate" in said


SMALL = [
    "workload=image_mlp",
    "fields.width=8",
    "fields.depth=1",
    "steps=20",
    "points=2",
    "seeds=2",
    "algorithms=adamw",
]
COMMITTED = CONFIG_DIR / "targets"


def test_the_hit_probability_is_of_seeds_that_did_not_set_the_target(tmp_path):
    """Of runs as a competition makes them, at any of its evaluations; what is recorded agrees with what is written."""
    assert main([*SMALL, f"out={tmp_path}", f"results={tmp_path}"]) == 0
    found = read_json(tmp_path / "image_mlp.json")
    assert len(found["hit_seeds"]) == len(found["seeds"]) == 2
    assert not set(found["hit_seeds"]) & set(found["seeds"])
    goal = read_goal(tmp_path / "image_mlp.json")
    trials = [trial_of(load_submission("adamw"), goal, ExternalTuning(), goal.configuration, s) for s in goal.hit_seeds]
    rows = {row["trial"]: row for row in Store(tmp_path / "targets").trials().to_pylist()}
    bests = [rows[trial.id]["best_metric"] for trial in trials]
    assert found["hit_bests"] == bests
    assert found["hit_probability"] == sum(best <= found["validation_target"] for best in bests) / 2


def test_what_counts_as_a_hit():
    goal = read_goals(COMMITTED)["graph"]  # larger is better
    trials = further_trials(goal, 4)
    assert all(trial.evaluations == EVALUATIONS and trial.horizon == goal.steps for trial in trials)
    values = (goal.validation_target, goal.validation_target + 0.1, goal.validation_target - 0.1, None)
    rows = {trial.id: {"best_metric": best, "final_metric": 0.0} for trial, best in zip(trials, values, strict=True)}
    found = hits(goal, trials, rows)
    assert found["hit_probability"] == 2 / 4
    assert found["hit_bests"][-1] is None
    own = replace(goal, seeds=(500, 502))
    assert [trial.seed for trial in further_trials(own, 3)] == [501, 503, 504]


def test_hit_only_measures_again_and_changes_nothing_else(tmp_path, capsys):
    """On as many seeds as asked for, of which those known are not trained again; a file of old gets what it lacks."""
    path = tmp_path / "image_mlp.json"
    assert main([*SMALL, f"out={tmp_path}", f"results={tmp_path}"]) == 0
    set_first = read_json(path)
    old = {key: value for key, value in set_first.items() if not key.startswith("hit_")} | {"hit_probability": 0.5}
    path.write_text(json.dumps(old))
    assert read_goal(path).reached_by == "50% of its own 2 seeds (adamw)"
    trained = len(Store(tmp_path / "targets").finished())
    words = ["hit_only=true", "seeds=3", f"out={tmp_path}", f"results={tmp_path}"]
    assert main(["workload=image_mlp", *words]) == 0
    assert len(Store(tmp_path / "targets").finished()) == trained + 1
    found = read_json(path)
    assert {key: value for key, value in found.items() if not key.startswith("hit_")} == {
        key: value for key, value in old.items() if key != "hit_probability"
    }
    assert found["hit_bests"][:2] == set_first["hit_bests"]
    assert len(found["hit_seeds"]) == 3
    before = path.read_bytes()
    capsys.readouterr()
    assert main(words) == 0  # of the whole folder
    assert path.read_bytes() == before
    assert "of 3 further seeds (adamw)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["workload=language_model", "fields.width=32", "on=loss"], "width 64 (not 32)"),
        (["workload=image_mlp", "steps=400", "on=loss"], "steps 200 (not 400)"),
        (["workload=image_mlp"], "metric loss (not error_rate)"),
        (["workload=ctr", "variant=layernorm", "fields.depth=1"], "ctr_layernorm.json holds the targets of depth"),
    ],
)
def test_targets_of_something_else_are_never_replaced(words, said, tmp_path, monkeypatch, capsys):
    """Said before anything trains; out=DIR is the way."""
    monkeypatch.setattr("harness.workplace.Workplace.train", None)
    before = {path: path.read_bytes() for path in COMMITTED.iterdir()}
    assert cli.run(main, [*words, f"results={tmp_path}"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert "elsewhere with out=DIR, where python -m harness.compete finds them with targets=DIR" in error
    assert {path: path.read_bytes() for path in COMMITTED.iterdir()} == before
    monkeypatch.undo()
    assert main([*words, f"results={tmp_path}", f"out={tmp_path / 'mine'}", "dry_run=true"]) == 0


def test_the_embedded_targets_can_be_set_again(monkeypatch, capsys):
    """What is committed is what `workload=NAME variant=NAME on=METRIC` sets, at the default steps."""
    monkeypatch.setattr("harness.targets.Workplace", None)  # what would be replaced is said before
    for path in sorted(COMMITTED.glob("*.json")):
        entry = read_json(path)
        words = [f"workload={entry['workload']}", f"variant={entry['variant'] or ''}"]
        on = "loss" if entry["metric"] == "loss" else "metric"
        with pytest.raises(AttributeError):
            main([*words, f"on={on}"])
        assert f"replaces {path}" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.workplace.Workplace.train", None)
    conf = tmp_path / "conf"
    conf.write_text("")  # whoever runs this, nothing can be written inside of a file
    monkeypatch.setattr("harness.targets.CONFIG_DIR", conf)
    for words in (["workload=ctr"], [*SMALL, f"out={conf / 'mine'}"]):
        with pytest.raises(BadInput, match=f"cannot write targets to {conf}/.*elsewhere with out=DIR"):
            main([*words, f"results={tmp_path}"])


def test_a_job_writes_where_the_command_would(tmp_path, monkeypatch):
    """It goes on from a copy of the code and of conf/, and must not write there."""
    given = []

    def of(command, argv, name):
        given.append(argv)
        raise BadInput("enough")

    monkeypatch.setattr("harness.targets.Workplace.of", of)
    for words in (["workload=ctr"], ["workload=ctr", "hit_only=true"]):
        with pytest.raises(BadInput, match="enough"):
            main([*words, "hydra/launcher=slurm"])
        assert given.pop() == [*words, "hydra/launcher=slurm", f"out={COMMITTED}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "workload=NAME"),
        (["workload=image"], "Valid names"),
        (["workload=image_mlp", "fields.widht=3"], "widht"),
        (["workload=ctr", "variant=layernrom"], "Did you mean 'layernorm'"),
        (["workload=image_mlp", "on=test"], "must be metric or loss"),
        (["workload=image_mlp", "seeds=1"], "must be at least 2"),
        (["workload=image_mlp", "relax=nan"], "must lie in [0, 1)"),
        (["workload=image_mlp", "steps=0"], "must be at least 1"),
        (["workload=image_mlp", "algorithms="], "must name registered optimizers"),
        (["workload=image_mlp", "algorithms=mine.py:make"], "must name registered optimizers"),
        (["workload=ctr", "hit_only=true", "steps=9", "relax=0.1"], "leave out steps=, relax="),
        (["variant=layernorm", "hit_only=true"], "needs its workload=NAME"),
        (["workload=ctr", "variant=layernrom", "hit_only=true"], "Did you mean 'layernorm'"),
        (["workload=regression", "hit_only=true"], "regression.json does not exist"),
    ],
)
def test_bad_arguments_name_the_fix(words, said, capsys):
    assert cli.run(main, words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_tuned_adamw_closes_half_of_the_gap_on_every_family():
    """From the best predictor that looks at no input to the best possible one, on the committed targets."""
    found = [read_json(path) for path in (CONFIG_DIR / "targets").glob("*.json")]
    closed = {one["workload"]: one["algorithms"]["adamw"]["gap_closed"] for one in found if not one["variant"]}
    assert len(closed) == 10
    assert all(share >= 0.5 for share in closed.values() if share is not None), closed
    assert {name for name, share in closed.items() if share is None} == {"image_mlp", "language_model"}
