"""Targets: the median of the best algorithm's seeds, the worst test value of those that met it."""

from __future__ import annotations

import json
import math

import pytest

from harness import cli
from harness.config import CONFIG_DIR
from harness.judging.contest import Arena, Setting, tune
from harness.records.files import read_json
from harness.submissions import load_submission
from harness.targets import main, targets
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP


def contest(metrics, tests):
    """Two algorithms whose fresh seeds have these final metrics; tuned at made-up losses."""
    methods = [load_submission(name) for name in metrics]
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), 20)]}, 4, len(next(iter(metrics.values()))))
    tuned = tune(methods, arena, lambda trials: {t.id: {"final_loss": t.optimizer.learning_rate} for t in trials})
    rows = {}
    for one in tuned:
        for trial, final, test in zip(one.trials, metrics[one.method.name], tests[one.method.name], strict=True):
            best = min(final, 0.2) if math.isfinite(final) else final
            rows[trial.id] = {"final_metric": final, "test_metric": test, "best_metric": best, "final_loss": final}
    return tuned, rows


def test_the_median_of_the_best_and_the_worst_of_the_half_that_met_it():
    metrics = {"adamw": [0.10, 0.12, 0.14, 0.16, 0.18], "sgd": [0.3, 0.3, 0.3, 0.3, 0.3]}
    tests = {"adamw": [0.2, 0.25, 0.22, 0.9, 0.9], "sgd": [0.3] * 5}
    found = targets(*contest(metrics, tests), "metric", 0.0)
    assert found["algorithm"] == "adamw"
    assert found["validation_target"] == 0.14
    assert found["test_target"] == 0.25
    assert found["hit_probability"] == pytest.approx(3 / 5)
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
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), 20)]}, 6, 2, on="metric")

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
    assert found["hit_probability"] >= 4 / 5


def test_seeds_that_diverged_do_not_set_targets():
    metrics = {"adamw": [0.1, math.nan, math.nan, math.nan, 0.1], "sgd": [0.3, 0.3, 0.3, 0.3, math.nan]}
    found = targets(*contest(metrics, {name: [0.2] * 5 for name in metrics}), "metric", 0.0)
    assert found["algorithm"] == "sgd"
    with pytest.raises(BadInput, match="every algorithm diverged"):
        targets(*contest({"sgd": [math.nan] * 3}, {"sgd": [0.2] * 3}), "metric", 0.0)


def test_the_command_trains_and_writes_what_it_found(tmp_path, monkeypatch, capsys):
    words = [
        "workload=image_mlp",
        "fields.width=8",
        "fields.depth=1",
        "steps=20",
        "points=2",
        "seeds=2",
        "algorithms=adamw",
    ]
    assert main([*words, f"out={tmp_path}", f"results={tmp_path}"]) == 0
    found = json.loads((tmp_path / "image_mlp.json").read_text())
    assert found["fields"]["workload.width"] == 8
    assert 0 < found["validation_target"] < 1
    assert found["hit_probability"] > 0
    assert "on=loss" not in capsys.readouterr().out
    monkeypatch.setattr(ImageMLP, "oracle_metric", lambda self: found["validation_target"])
    assert main([*words, f"out={tmp_path}", f"results={tmp_path}"]) == 0
    assert "the best possible error_rate" in capsys.readouterr().out


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
