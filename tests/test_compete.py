"""The competition end to end on tiny workloads: who reaches the targets when, and planted submissions."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli, score
from harness.algoperf import load as load_algoperf
from harness.algoperf import read_points
from harness.compete import Entry, _points, _reached, main
from harness.config import CONFIG_DIR
from harness.engine.cost import StepTime
from harness.goals import drawn, read_goals
from harness.rulesets import FIRST_POINTS, RULESETS, trial_of
from harness.scoring import read_targets
from harness.scoring.log_tree import read_logs
from harness.submissions import load_submission
from harness.workplace import STEP_SECONDS
from workloads.base import BadInput

FIELDS = {"workload.width": 8, "workload.depth": 1, "workload.batch_size": 16}
CONFIGURATION = {"learning_rate": 1e-2, "weight_decay": 1e-2, "b1": 0.9, "b2": 0.99}


def target(name, variant, fields, value):
    return {
        "workload": name,
        "variant": variant,
        "fields": fields,
        "steps": 60,
        "metric": "loss",
        "direction": "minimize",
        "validation_target": value,
        "test_target": value,
        "hit_probability": 0.5,
        "trivial": 0.9,
        "algorithm": "adamw",
        "algorithms": {"adamw": {"configuration": CONFIGURATION}},
    }


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compete")
    targets = folder / "targets"
    targets.mkdir()
    (targets / "image_mlp.json").write_text(json.dumps(target("image_mlp", None, FIELDS, 1.2)))
    (folder / "mine.py").write_text(SUBMISSIONS)
    return folder


SUBMISSIONS = """
import jax, jax.numpy as jnp, optax

FAMILY = "adam"
SPACE = [{"learning_rate": 1e-2}, {"learning_rate": 2e-2}]

def same(learning_rate):
    return optax.adam(learning_rate)

def other_name(learning_rate):
    return optax.adam(learning_rate)

def slow(learning_rate):
    inner = optax.adam(learning_rate)

    def update(grads, state, params=None):
        updates, state = inner.update(grads, state, params)
        square = jnp.full((192, 192), 1.0 / 192)
        burnt = jax.lax.fori_loop(0, 20, lambda _, x: x @ square, square)
        return jax.tree.map(lambda u: u * (1 + 0 * burnt[0, 0]), updates), state

    return optax.GradientTransformation(inner.init, update)

def lost(learning_rate):
    return optax.chain(optax.scale(float("nan")), optax.scale_by_learning_rate(learning_rate))
"""


@pytest.fixture(scope="module")
def held(workplace):
    """One competition of all planted submissions."""
    names = ",".join(f"{workplace / 'mine.py'}:{name}" for name in ("same", "other_name", "slow", "lost"))
    words = [
        f"submissions={names}",
        f"targets={workplace / 'targets'}",
        f"results={workplace}",
        "trials=2",
        "studies=3",
    ]
    assert main([*words, "name=held"]) == 0
    folder = workplace / "held"
    with (folder / score.OWN_TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    scores = [json.loads((folder / place / "scores.json").read_text()) for place in (".", "steps")]
    return folder, rows, *scores


def test_every_trial_has_its_row(held):
    _, rows, _, _ = held
    assert len(rows) == 4 * 3 * 2
    keys = {(row["submission"], row["study"], row["workload"], row["trial"]) for row in rows}
    assert len(keys) == len(rows)
    assert any(row["hit_eval_index"] != "-1" for row in rows)


def test_the_same_under_another_name_takes_the_same_steps(held):
    _, rows, _, steps = held
    times = {
        name: [r["steps_to_target"] for r in rows if r["submission"] == f"mine:{name}"]
        for name in ("same", "other_name")
    }
    assert times["same"] == times["other_name"]
    assert steps["mine:same"]["score"] == steps["mine:other_name"]["score"] == 1


def test_a_slower_step_loses_time_and_no_steps(held):
    _, rows, _, steps = held
    assert steps["mine:slow"]["score"] == 1
    taken = {}
    for name in ("same", "slow"):
        hits = [r for r in rows if r["submission"] == f"mine:{name}" and r["hit_eval_index"] != "-1"]
        taken[name] = [r["steps_to_target"] for r in hits]
        if name == "same":
            step = min(float(r["time_to_target_s"]) / float(r["steps_to_target"]) for r in hits)
    assert taken["slow"] == taken["same"]
    for row in hits:
        assert float(row["time_to_target_s"]) > 1.3 * step * float(row["steps_to_target"])  # infinite: beyond the limit


def test_the_time_to_the_test_target(held, workplace):
    """Looked at whenever the validation split is; the last look agrees with the one after training."""
    _, rows, _, _ = held
    assert all(row["steps_to_test_target"] == row["time_to_test_target_s"] == "" for row in rows)
    words = [f"submissions={workplace / 'mine.py'}:same", f"targets={workplace / 'targets'}", f"results={workplace}"]
    assert main([*words, "trials=2", "studies=3", "name=tested", "test_curve=true"]) == 0
    with (workplace / "tested" / score.OWN_TRIALS).open() as file:
        tested = list(csv.DictReader(file))
    same = [row for row in rows if row["submission"] == "mine:same"]
    assert [row["steps_to_target"] for row in tested] == [row["steps_to_target"] for row in same]
    for row in tested:
        steps = float(row["steps_to_test_target"])
        assert steps < math.inf or row["test_target_met"] == "False"
        assert (float(row["time_to_test_target_s"]) == math.inf) == (steps == math.inf)
    assert len({row["steps_to_test_target"] for row in tested}) > 1
    by_target = {row["steps_to_test_target"]: row["steps_to_target"] for row in tested}
    assert any(test != validation for test, validation in by_target.items())


def test_what_diverges_everywhere_scores_nothing(held):
    _, rows, times, steps = held
    assert times["mine:lost"]["score"] == steps["mine:lost"]["score"] == 0
    assert all(row["hit_eval_index"] == "-1" for row in rows if row["submission"] == "mine:lost")


def test_scoring_its_folder_again_gives_the_same(held, tmp_path):
    folder, _, times, _ = held
    assert score.main([f"logs={folder}", f"out={tmp_path}"]) == 0
    assert json.loads((tmp_path / "scores.json").read_text()) == times


def test_a_step_twice_as_slow_takes_twice_the_time(held, workplace, monkeypatch):
    """With step times that are exactly that: the ratio is 2, and so is the score that a ratio of 2 makes."""
    seconds = [1.0, 1.0, 1.0, 2.0, 1.0]  # the reference's, then each submission's
    monkeypatch.setattr("harness.workplace.compare_step_seconds", lambda trials: [StepTime(s) for s in seconds])
    (workplace / "held" / STEP_SECONDS).unlink()
    names = ",".join(f"{workplace / 'mine.py'}:{name}" for name in ("same", "other_name", "slow", "lost"))
    words = [f"submissions={names}", f"targets={workplace / 'targets'}", f"results={workplace}", "relax=0.5"]
    assert main([*words, "trials=2", "studies=3", "name=held"]) == 0
    found = json.loads((workplace / "held" / "scores.json").read_text())
    same, slow = found["mine:same"], found["mine:slow"]
    assert slow["versus"]["mine:same"]["time_ratio"] == pytest.approx(2.0)
    assert same["versus"]["mine:other_name"]["time_ratio"] == 1.0
    assert same["versus"]["mine:other_name"]["verdict"] == "equivalent"
    assert slow["versus"]["mine:same"]["verdict"] == "slower"
    assert slow["per_workload"]["image_mlp"]["ratio"] == pytest.approx(2.0)
    assert (same["score"], slow["score"]) == (1.0, pytest.approx((4 - 2) / (4 - 1)))


def test_a_run_too_long_in_time_does_not_count(held, workplace, monkeypatch):
    """The reference's step time times the longest run is the limit, however few steps a slow submission takes."""
    slow = lambda trials: [StepTime(1.0), *[StepTime(10.0)] * (len(trials) - 1)]  # noqa: E731
    monkeypatch.setattr("harness.workplace.compare_step_seconds", slow)
    (workplace / "held" / STEP_SECONDS).unlink()
    words = [f"submissions={workplace / 'mine.py'}:same", f"targets={workplace / 'targets'}", f"results={workplace}"]
    assert main([*words, "trials=2", "studies=3", "name=held"]) == 0
    with (workplace / "held" / score.OWN_TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        late = float(row["steps_to_target"]) * 10 > 80
        assert (float(row["time_to_target_s"]) == math.inf) == late


def test_step_times_are_taken_again_on_another_device_only(held, workplace, monkeypatch):
    path = workplace / "held" / STEP_SECONDS
    words = [f"submissions={workplace / 'mine.py'}:same", f"targets={workplace / 'targets'}", f"results={workplace}"]
    words += ["trials=2", "studies=3", "name=held"]
    path.unlink(missing_ok=True)
    taken = []

    def times(trials):
        taken.append(trials)
        return [StepTime(1.0)] * len(trials)

    monkeypatch.setattr("harness.workplace.compare_step_seconds", times)
    for device, count in ((None, 1), (None, 1), ("another", 2)):
        if device:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"device": device}))
        assert main(words) == 0
        assert len(taken) == count


def test_an_algoperf_submission_competes_and_is_not_trained_twice(workplace, monkeypatch):
    folder = workplace / "algoperf"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "algoperf" / "adamw.py", folder / "adamw.py")
    point = {"learning_rate": 3e-2, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 1e-2}
    (folder / "tuning_search_space.json").write_text(json.dumps([point]))
    words = [f"submissions={folder / 'adamw.py'},sgd", f"targets={workplace / 'targets'}", f"results={folder}"]
    words += ["trials=1", "studies=2"]
    monkeypatch.setattr("harness.algoperf.step_seconds", lambda trials: [1e-5] * len(trials))
    assert main([*words, "name=limited"]) == 0  # by the time that its steps may take
    with (folder / "limited" / score.OWN_TRIALS).open() as file:
        assert all(row["hit_eval_index"] == "-1" for row in csv.DictReader(file) if row["submission"] == "adamw")
    monkeypatch.setattr("harness.algoperf.step_seconds", lambda trials: [1.0] * len(trials))
    assert main(words) == 0
    with (folder / "competition" / score.OWN_TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    mine = [row for row in rows if row["submission"] == "adamw"]
    assert len(mine) == len(rows) / 2 == 2
    assert all(int(row["hit_eval_index"]) >= 0 for row in mine)
    tree = folder / "competition" / "logs"
    found = read_logs(tree, read_targets(folder / "competition" / score.OWN_TARGETS))
    assert found.columns["time_to_target_s"].tolist() == [float(row["time_to_target_s"]) for row in mine]
    monkeypatch.setattr("harness.algoperf.log.train", None)
    assert main(words) == 0
    (folder / "tuning_search_space.json").unlink()
    with pytest.raises(BadInput, match="has no tuning_search_space"):
        main(words)


def test_budgets_and_batch_sizes(workplace):
    goal = read_goals(workplace / "targets")["image_mlp"]
    adamw = load_submission("adamw")
    values = adamw.space.points(1, 0)[0]
    tuned, self_tuned = RULESETS["external_tuning"](), RULESETS["self_tuning"]()
    trial = trial_of(adamw, goal, tuned, values, 0)
    assert (trial.horizon, trial.evaluations) == (60, 50)
    assert trial_of(replace(adamw, horizon=1.0), goal, tuned, values, 0).horizon == 80
    assert trial_of(replace(adamw, horizon=1.0), goal, self_tuned, values, 0).horizon == 120
    double = trial_of(replace(adamw, batch_sizes={"image_mlp": 32}), goal, tuned, values, 0)
    assert (double.horizon, double.workload.batch_size) == (30, 32)


def test_no_held_out_workloads(workplace, capsys):
    words = ["submissions=adamw", f"targets={CONFIG_DIR / 'targets'}", f"results={workplace}", "dry_run=true"]
    assert main([*words, "held_out_seed=null", "workloads=ctr"]) == 0
    assert "no variant held out" in capsys.readouterr().out


def test_an_algoperf_submission_alone_with_its_test_curve(workplace, monkeypatch):
    """One of its points breaks off, and counts until then; a file beside it is part of it."""
    monkeypatch.setattr("harness.algoperf.step_seconds", lambda trials: [1.0] * len(trials))
    folder = workplace / "alone"
    folder.mkdir()
    source = (Path(__file__).parent / "algoperf" / "adamw.py").read_text()
    (folder / "helper.py").write_text("LAST = 20\n")
    (folder / "adamw.py").write_text(
        "import helper\n"
        + source.replace("def update_params(", "def updated(", 1)
        + """

def update_params(*args, **kwargs):
    if kwargs["hyperparameters"].weight_decay > 0.5 and kwargs["global_step"] == helper.LAST:
        raise RuntimeError("no more")
    return updated(*args, **kwargs)
"""
    )
    points = [
        {"learning_rate": 3e-2, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": decay} for decay in (1e-2, 1)
    ]
    (folder / "tuning_search_space.json").write_text(json.dumps(points))
    words = [f"submissions={folder / 'adamw.py'}", f"targets={workplace / 'targets'}", f"results={folder}"]
    words += ["trials=2", "studies=1", "test_curve=true", "relax=0.2"]
    assert main(words) == 0
    with (folder / "competition" / score.OWN_TRIALS).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["error"].rpartition(": ")[2] for row in rows] == ["", "no more"]
    assert all(row["test_target_met"] in ("True", "False") for row in rows)
    assert all(row["steps_to_test_target"] for row in rows)
    before = load_algoperf(folder / "adamw.py").sha256
    (folder / "helper.py").write_text("LAST = 30\n")
    assert load_algoperf(folder / "adamw.py").sha256 != before


def test_what_is_missing_is_said_before_anything_trains(workplace, monkeypatch):
    (workplace / "bare.py").write_text((Path(__file__).parent / "algoperf" / "adamw.py").read_text())
    monkeypatch.setattr("harness.workplace.Workplace.train", None)
    with pytest.raises(BadInput, match="has no tuning_search_space"):
        main([f"submissions=adamw,{workplace / 'bare.py'}", f"targets={workplace / 'targets'}", f"results={workplace}"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("algorithm", "adamv", "Did you mean 'adam'"),
        ("algorithms", {"adamw": {"configuration": {"zz": 1}}}, "zz"),
        ("steps", "many", "no file of targets"),
        ("steps", 0, "^[^:]*ctr.json: steps=0 must be at least 1"),
        ("direction", "min", "minimize, maximize"),
    ],
)
def test_targets_that_are_none_name_the_fix(tmp_path, key, value, words):
    (tmp_path / "ctr.json").write_text(json.dumps({**target("ctr", None, {"workload.width": 4}, 0.5), key: value}))
    with pytest.raises(BadInput, match=words):
        read_goals(tmp_path)


def test_one_variant_of_each_workload_is_drawn_by_the_seed(tmp_path):
    fields = {"workload.width": 4}
    for stem, variant in (("ctr", None), ("ctr_layernorm", "layernorm"), ("ctr_resnet", "resnet")):
        (tmp_path / f"{stem}.json").write_text(json.dumps(target("ctr", variant, fields, 0.5)))
    (tmp_path / "image_mlp.json").write_text(json.dumps(target("image_mlp", None, FIELDS, 1.2)))
    goals = read_goals(tmp_path)
    draws = {seed: drawn(goals, ["ctr", "image_mlp"], seed)[0] for seed in range(20)}
    assert {tuple(one.held_out) for one in draws.values()} == {("ctr_layernorm",), ("ctr_resnet",)}
    assert drawn(goals, ["ctr"], 3)[0].held_out == draws[3].held_out
    assert drawn(goals, ["ctr"], None)[0].held_out == {}
    (tmp_path / "ctr_embed_init.json").write_text(json.dumps(target("ctr", "embed_init", fields, 0.5)))
    more = read_goals(tmp_path)
    for seed, before in draws.items():
        assert drawn(more, ["ctr"], seed)[0].held_out.keys() <= {"ctr_embed_init", *before.held_out}
    with pytest.raises(BadInput, match="no targets for workload 'mri'"):
        drawn(goals, ["mri"], 0)


def test_relaxed_targets_are_easier(workplace):
    goal = read_goals(workplace / "targets")["image_mlp"]
    assert goal.relaxed(0.1).validation_target == pytest.approx(1.2 * 1.1)  # a loss: of its size
    by_metric = replace(goal, trivial=0.2, direction="maximize", validation_target=0.7)
    assert by_metric.relaxed(0.1).validation_target == pytest.approx(0.65)
    runs = replace(goal, hit_probability=0.5, hit_bests=(1.1, 1.2, 1.25, 1.4))
    assert [runs.relaxed(share).hit_probability for share in (0.0, 0.1, 0.2)] == [0.5, 0.75, 1.0]


def test_of_which_seeds_a_hit_probability_is(tmp_path):
    """Files without hit_seeds have that of the seeds that set the target."""
    goal = read_goals(CONFIG_DIR / "targets")["ctr"]
    old = replace(goal, algorithm="nadamw", hit_probability=5 / 9, hit_seeds=(), hit_bests=(0.4,) * 9)
    assert old.reached_by == "56% of its own 9 seeds (nadamw)"
    entry = target("ctr", None, {"workload.width": 4}, 0.5)
    measured = {"hit_probability": 0.25, "hit_seeds": [7, 8, 9, 10], "hit_bests": [0.4, 0.55, 0.6, None]}
    (tmp_path / "ctr.json").write_text(json.dumps(entry | measured))
    fresh = read_goals(tmp_path)["ctr"]
    assert fresh.reached_by == "25% of 4 further seeds (adamw)"
    assert fresh.relaxed(0.2).reached_by == "75% of 4 further seeds (adamw)"
    said = dict(_reached([], [old, fresh]).facts)
    assert said["ctr"].endswith("reached by 25% of 4 further seeds (adamw)")


def test_an_algoperf_submissions_points_are_none_that_set_targets(tmp_path):
    """Drawn by the seeds that other submissions' are drawn by, which no target was tuned with."""
    shutil.copy(Path(__file__).parent / "algoperf" / "adamw.py", tmp_path / "adamw.py")
    space = tmp_path / "tuning_search_space.json"
    space.write_text(json.dumps({"learning_rate": {"min": 1e-4, "max": 1e-1, "scaling": "log"}}))
    submission, ruleset = load_algoperf(tmp_path / "adamw.py"), RULESETS["external_tuning"]()
    for study in range(3):
        assert _points(submission, ruleset, study) == read_points(space, ruleset.trials, FIRST_POINTS + study)


def test_met_in_validation_and_never_in_test_is_said():
    entries = [Entry("cheat", "study_1", "image_mlp", f"trial_{i}", 3, 1.0, 10.0, False) for i in range(3)]
    goal = read_goals(CONFIG_DIR / "targets")["image_mlp"]
    assert "trained on the validation data: cheat on image_mlp" in _reached(entries, [goal]).text
    assert "cheat" not in _reached([replace(entry, test_target_met=True) for entry in entries], [goal]).text
    late = [replace(entry, test_target_met=None) for entry in entries]
    broken = [replace(late[0], error="cheat.py: step 3 raised KeyError: 'x'"), *late[1:]]
    said = _reached(broken, [goal])
    assert "1 runs were broken off" in said.warnings[0]
    assert "3 runs met the validation target and left nothing to look at in test: cheat" in said.text


def test_committed_targets_can_be_read():
    goals = read_goals(CONFIG_DIR / "targets")
    for goal in goals.values():
        assert math.isfinite(goal.validation_target)
        goal.workload.validate()
        assert not goal.base or goal.base in goals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the submissions"),
        (["submissions=adamv"], "Did you mean 'adam'"),
        (["submissions=adamw", "ruleset=external"], "Did you mean 'external_tuning'"),
        (["submissions=adamw", "trials=0"], "at least 1"),
        (["submissions=adamw", "relax=2"], "must lie in [0, 1)"),
        (["submissions=adamw", "rules=exakt"], "Did you mean 'exact'"),
        (["submissions=adamw", "held_out_seed=-1"], "held_out_seed=-1 must be 0 or more, or null"),
        (["submissions=adamw", "workloads=imagenet"], "no targets for workload 'imagenet'"),
        (["submissions=adamw", "targets=/nowhere"], "holds no targets"),
    ],
)
def test_bad_arguments_name_the_fix(words, said, capsys, workplace):
    rest = [] if any(word.startswith("targets") for word in words) else [f"targets={workplace / 'targets'}"]
    assert cli.run(main, [*words, *rest]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
