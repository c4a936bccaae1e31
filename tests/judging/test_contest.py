"""Equal tuning, with a made-up training function; and the command once with a real one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pytest

from harness import cli
from harness.config import WORKLOADS
from harness.engine.cost import StepTime
from harness.judge import PROFILES, JudgeConfig, _arena, _profile, _searched, main
from harness.judging.charged import Charged, charged, typical_best
from harness.judging.contest import Arena, Setting, best_of, tune
from harness.judging.findings import _moments, judge, target_runs
from harness.judging.rates import sweeps
from harness.judging.sections import sections_of
from harness.optimizers import OPTIMIZERS
from harness.submissions import load_submission
from harness.tuning import Axis, Space, default_space
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP
from workloads.regression import Regression


def contest(best_rate, points=8):
    """Methods tuned where the loss is a parabola in log learning rate around `best_rate`; what was trained."""
    trained = []

    def train(trials):
        trained.extend(trials)
        return {
            trial.id: {"final_loss": 1 + math.log(trial.optimizer.learning_rate / best_rate) ** 2, "status": "ok"}
            for trial in trials
        }

    methods = [load_submission(name) for name in ("adamw", "nadamw", "sgd")]
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=w), s) for w in (8, 16) for s in (20, 40)]}, points, 3)
    return tune(methods, arena, train), trained


def test_every_method_has_as_many_points_at_every_setting_and_the_best_is_chosen():
    tuned, trained = contest(3e-3)
    assert len(tuned) == 3 * 4
    assert {len(one.studies) for one in tuned} == {3}
    for one in tuned:
        losses = [loss for _, loss in one.points]
        assert losses == sorted(losses)
        assert one.best is one.points[0][0]
        for study in one.studies:
            assert study.trials[0].optimizer.learning_rate == study.points[0][0]["learning_rate"]
        assert not {trial.id for trial in one.trials} & {trial.id for trial in trained}
    for setting in {one.setting for one in tuned}:
        assert len({len(study.points) for one in tuned if one.setting == setting for study in one.studies}) <= 3


def test_every_study_and_setting_has_points_and_seeds_of_its_own_which_methods_share():
    tuned, _ = contest(3e-3)
    first = {
        (one.setting.name, k): sorted(point["learning_rate"] for point, _ in study.points)
        for one in tuned
        for k, study in enumerate(one.studies)
        if one.method.name == "adamw"
    }
    assert len({tuple(rates) for rates in first.values()}) == len(first) == 12
    seeds = [trial.seed for one in tuned if one.method.name == "adamw" for trial in one.trials]
    assert len(set(seeds)) == len(seeds) == 12
    for one in tuned:
        if one.method.name == "nadamw":  # which has adamw's axes
            for k, study in enumerate(one.studies):
                assert sorted(point["learning_rate"] for point, _ in study.points) == first[one.setting.name, k]


def test_a_profile_may_search_some_axes_of_default_spaces():
    quick = _profile("quick").axes
    assert list(_searched(load_submission("adamw"), quick).space.axes) == ["learning_rate", "weight_decay"]
    assert list(_searched(load_submission("nesterov"), quick).space.axes) == ["learning_rate"]
    own = replace(load_submission("adamw"), space=Space({"learning_rate": Axis(1e-3, 1e-2), "b1": Axis(0.8, 0.9)}))
    assert _searched(own, quick) is own
    assert _searched(own, []) is own
    with pytest.raises(BadInput, match="Did you mean 'b1'"):
        _searched(own, ["learning_rate", "b_1"])
    with pytest.raises(BadInput, match="every method tunes it"):
        _searched(own, ["b1"])


def test_the_order_of_axes_changes_nothing():
    axes = default_space(OPTIMIZERS["adamw"]()).axes
    assert Space(axes).points(4, 7) == Space(dict(reversed(axes.items()))).points(4, 7)


def test_studies_differ_by_the_luck_of_their_points():
    """Where the training seed does nothing."""
    tuned, _ = contest(3e-3)
    ends = [[study.points[0][1] for study in one.studies] for one in tuned]
    assert all(len(set(end)) == 3 for end in ends)


def test_edges_are_extended_for_all_alike():
    """Learning rates that lie beyond Adam's axis and well inside SGD's."""
    tuned, _ = contest(0.3)
    end = default_space(OPTIMIZERS["adamw"]()).axes["learning_rate"].high
    for setting in {one.setting for one in tuned}:
        here = {one.method.name: one for one in tuned if one.setting == setting}
        for k in range(3):
            counts = {len(one.studies[k].points) for one in here.values()}
            assert len(counts) == 1
            assert (counts.pop() - 8) % 2 == 0
        assert here["adamw"].best["learning_rate"] > 1.5 * end  # two quarters of three decades and more: it went on
        for name in ("adamw", "nadamw"):
            for study in here[name].studies:
                assert sum(here[name].method.space.holds(point) for point, _ in study.points) >= 8
                assert len({tuple(point.values()) for point, _ in study.points}) == len(study.points)


def test_only_studies_with_an_optimum_at_an_edge_are_extended():
    tuned, _ = contest(3e-3)
    counts = {len(study.points) for one in tuned for study in one.studies}
    assert min(counts) == 8


def test_every_axis_is_extended():
    def train(trials):
        def loss(one):
            return (1 - one.b1) ** -0.5 + math.log(one.learning_rate / 3e-3) ** 2 / 100

        return {trial.id: {"final_loss": loss(trial.optimizer), "status": "ok"} for trial in trials}

    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), 20)]}, 16, 2)
    tuned = tune([load_submission("adamw"), load_submission("nadamw")], arena, train)
    for one in tuned:
        assert one.best["b1"] < default_space(OPTIMIZERS["adamw"]()).axes["b1"].low


def test_a_method_that_lists_its_points_has_these_alone(tmp_path):
    (tmp_path / "space.yaml").write_text("[{learning_rate: 1.0}]")
    methods = [load_submission("adamw"), load_submission("prodigy", str(tmp_path / "space.yaml"))]
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), steps) for steps in (40, 20)]}, 8, 2)
    rows = {1.0: 0.5}

    def train(trials):
        return {
            t.id: {"final_loss": rows.get(t.optimizer.learning_rate, 1 + t.optimizer.learning_rate), "status": "ok"}
            for t in trials
        }

    tuned = tune(methods, arena, train)
    assert [[len(s.points) for s in one.studies] for one in tuned if one.method.name == "prodigy"] == [[1, 1], [1, 1]]
    assert all(not one.edges for one in tuned if one.method.name == "prodigy")
    assert tuned[1].best == {"learning_rate": 1.0}
    assert [sorted(sweep.trials)[0][1] for sweep in sweeps(tuned, arena, ["prodigy"])] == [-3]
    frontier = {one.method: one for one in charged(tuned)}
    assert frontier["prodigy"].tokens.tolist() == [20 * methods[0].workload(ImageMLP()).batch_size]
    assert frontier["adamw"].price(0.5) == math.inf
    cheapest = frontier["adamw"].tokens[0]
    assert frontier["prodigy"].loss(cheapest) == 0.5
    seeds = iter(np.arange(0.01, 1.0, 0.01))  # the same point, better on some seeds: they are not for sale
    three = replace(arena, studies=3)
    (lucky,) = charged(
        tune(methods[1:], three, lambda trials: {t.id: {"final_loss": next(seeds), "status": "ok"} for t in trials})
    )
    assert lucky.tokens.max() <= 40 * methods[0].workload(ImageMLP()).batch_size
    assert math.isnan(frontier["prodigy"].loss(cheapest / 2))
    halfway = Charged("", "", np.array([1e3, 4e3]), np.array([3.0, 1.0]))
    assert (halfway.loss(2e3), halfway.price(2.0)) == (pytest.approx(2.0), pytest.approx(2e3))
    assert (halfway.loss(9e3), halfway.price(5.0)) == (pytest.approx(1.0), pytest.approx(1e3))


def test_what_half_of_the_draws_of_k_points_reach():
    values = [5.0, math.inf, 1.0, 3.0, 2.0, 4.0, math.inf]
    for k in range(1, 8):
        reached = [min(drawn) for drawn in combinations(values, k)]
        found = typical_best(values, k)
        assert sum(value <= found for value in reached) * 2 >= len(reached)
        assert sum(value < found for value in reached) * 2 < len(reached)


def test_seeds_pair_methods():
    tuned, _ = contest(3e-3)
    one, other = (t for t in tuned if t.setting == tuned[0].setting and t.method.name in ("adamw", "sgd"))
    for mine, theirs in zip(one.trials, other.trials, strict=True):
        assert (mine.seed, mine.data_seed, mine.workload) == (theirs.seed, theirs.data_seed, theirs.workload)


def test_expected_best_of_k():
    values = np.random.default_rng(0).random(7)
    assert best_of(values, 1) == pytest.approx(values.mean())
    assert best_of(values, 7) == pytest.approx(values.min())
    draws = np.random.default_rng(1)
    seen = np.mean([draws.choice(values, 3, replace=False).min() for _ in range(4000)])
    assert best_of(values, 3) == pytest.approx(seen, abs=0.01)
    assert all(b <= a for a, b in pairwise(best_of(values, k) for k in range(1, 8)))


def test_a_diverged_run_has_no_rank_after_its_end():
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8), 40)]}, 2, 2)
    methods = [load_submission("adamw"), load_submission("lion")]
    tuned = tune(methods, arena, lambda trials: {t.id: {"final_loss": 1.0, "status": "ok"} for t in trials})
    ended = {"adamw": 40, "lion": 20}
    curves = {
        trial.id: (np.arange(10, ended[one.method.name] + 1, 10), np.full(ended[one.method.name] // 10, 0.5))
        for one in tuned
        for trial in one.trials
    }
    found = _moments(("adamw", "lion"), tuned, tuned[0].setting, curves)
    expected = [[0.5, 0.5], [0.5, 0.5], [0.5, np.nan], [0.5, np.nan]]
    np.testing.assert_array_equal(found, np.repeat(np.array(expected)[:, :, None], 2, axis=2))


def test_a_workload_on_which_all_diverge_is_left_out():
    """The page of the others is made all the same."""
    lost, found = ImageMLP(width=8), Regression(width=8)
    settings = {w.name: [Setting(w, steps) for steps in (40, 20, 10)] for w in (lost, found)}
    arena = Arena(settings, 2, 2)
    rows = {}

    def train(trials):
        for trial in trials:
            loss = math.nan if trial.workload == lost else 1 / trial.horizon + 1e-4 * trial.seed
            row = {
                "final_loss": loss,
                "initial_loss": 2.0,
                "status": "ok" if loss == loss else "diverged",
                "params": 10,
            }
            rows[trial.id] = row
        return rows

    tuned = tune([load_submission("adamw"), load_submission("lion")], arena, train)
    aims = target_runs(tuned, arena)
    assert set(aims) == {("adamw", "image_mlp"), ("adamw", "regression")}
    reporting = {trial.id for one in tuned for trial in one.trials}
    assert not reporting & {trial.id for trials in aims.values() for trial in trials}
    train([trial for one in tuned for trial in one.trials] + [trial for trials in aims.values() for trial in trials])
    curves = pa.table(
        {key: pa.array([], kind) for key, kind in (("trial", "string"), ("step", "int64"), ("eval_loss", "float64"))}
    )
    judged = judge(tuned, rows, curves, {name: [StepTime(1.0)] * 2 for name in settings}, aims, 0.01)
    assert list(judged.targets) == ["regression"]
    worst = max(rows[trial.id]["final_loss"] for trial in aims["adamw", "regression"])
    assert judged.targets["regression"].loss == pytest.approx(1.01 * worst)
    assert judged.to_target["lion", "regression"] == (math.inf, math.inf)  # there are no curves
    assert any(section.title == "Tuning charged" for section in sections_of(judged))


def test_methods_with_batch_sizes_of_their_own_are_charged_for_what_they_see():
    arena = Arena({"image_mlp": [Setting(ImageMLP(width=8, batch_size=16), 10)]}, 2, 2)
    method = replace(load_submission("adamw"), batch_sizes={"image_mlp": 100})
    (one,) = tune([method], arena, lambda trials: {t.id: {"final_loss": 1.0, "status": "ok"} for t in trials})
    assert (one.trials[0].horizon, one.tokens) == (2, 200)  # of 160
    assert [step for frontier in charged([one]) for step in frontier.tokens] == [200]


PROFILE = """
points: 3
studies: 2
workloads:
  - workload: image_mlp
    widths: [8]
    steps: [30, 60, 120]
    fields: {batch_size: 16, depth: 1}
"""
SUBMISSION = """
import optax, time

FAMILY = "adam"

def make(learning_rate, b1=0.9, b2=0.999, weight_decay=1e-4):
    time.sleep(0.01)  # while it is traced, which nothing times
    return optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay)

def nan(learning_rate):
    return optax.chain(optax.scale(float("nan")), optax.scale_by_learning_rate(learning_rate))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    (folder / "profile.yaml").write_text(PROFILE)
    (folder / "mine.py").write_text(SUBMISSION)
    (folder / "space.yaml").write_text(
        "learning_rate: {log: [1.0e-4, 1.0e-1]}\nweight_decay: {log: [5.0e-3, 1.0]}\n"
        "b1: {one_minus_log: [0.8, 0.98]}\nb2: {one_minus_log: [0.9, 0.999]}\n"
    )
    return folder


def judged(folder, *words):
    arguments = [f"profile={folder / 'profile.yaml'}", "baselines=adamw", f"results={folder}", *words]
    code = main(arguments)
    name = next(word.partition("=")[2] for word in words if word.startswith("name="))
    return code, json.loads((folder / name / "judge.json").read_text()), folder / name


def test_adamw_under_another_name_is_no_slower_and_is_scored(workplace, capsys):
    words = (f"optimizer={workplace / 'mine.py'}:make", f"space={workplace / 'space.yaml'}", "name=same")
    target = ("target_params=7e9", "target_tokens=1.4e11", "target_batch=4e6")
    code, found, folder = judged(workplace, *words, *target)
    assert code == 0
    for one in found["at_target"]:
        assert one["flops_share"] == pytest.approx(20 / (6 * 4e6), rel=0.01)  # AdamW: 20 FLOPs a parameter
    assert "At the target" in (folder / "report.html").read_text()
    assert found["overall"]["verdict"] in ("equivalent", "undecided")
    assert (folder / "report.html").is_file()
    assert set(json.loads((folder / "scores.json").read_text())) == {"adamw", "mine:make"}
    assert "Tuning" in capsys.readouterr().out


def test_a_submission_of_nans_scores_nothing(workplace):
    (workplace / "rate.yaml").write_text("learning_rate: {log: [1.0e-3, 1.0e-1]}\n")
    words = (f"optimizer={workplace / 'mine.py'}:nan", f"space={workplace / 'rate.yaml'}", "name=nan")
    code, found, folder = judged(workplace, *words)
    assert code == 1
    assert found["overall"]["verdict"] == "slower"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["mine:nan"]["score"] == 0
    assert scores["adamw"]["score"] == 1


def test_bad_arguments_name_the_fix(workplace, capsys):
    def said(*words):
        assert cli.run(main, list(words)) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "optimizer=FILE.py:FUNCTION" in said()
    assert "Did you mean 'quick'" in said("optimizer=lion", "profile=quik")
    assert "Did you mean 'adam'" in said("optimizer=adamv")
    assert "not in profile" in said("optimizer=lion", "workloads=vision")
    assert "there is no file" in said("optimizer=nowhere.py:make")
    assert "takes at least two" in said("optimizer=lion", "hyperparameter_free=true", "workloads=image_mlp")
    assert "relax=nan" in said("optimizer=lion", "relax=nan")
    assert "points=0" in said("optimizer=lion", "points=0")
    assert "studies=51" in said("optimizer=lion", "studies=51")
    for folder in "ab":
        (workplace / folder).mkdir()
        (workplace / folder / "opt.py").write_text(f"# {folder}{SUBMISSION}")
    twice = ",".join(f"{workplace / folder / 'opt.py'}:make" for folder in "ab")
    assert "two baselines are called opt:make" in said("optimizer=lion", f"baselines={twice}")
    (workplace / "points.yaml").write_text("[{learning_rate: 0.1}, {learning_rate: 0.2}, {learning_rate: 0.3}]")
    listed = ("optimizer=lion", f"space={workplace / 'points.yaml'}")
    assert "set points=3" in said(*listed, "points=2")
    for words, entry in (
        ("has no workloads", "points: 2"),
        (
            "twice",
            "workloads: [{workload: ctr, widths: [8], steps: [1, 2, 3]}, {workload: ctr, widths: [4], steps: [1, 2, 3]}]",
        ),
        ("1 or more", "workloads: [{workload: ctr, widths: [8], steps: [0, 2, 3]}]"),
        (
            "heads",
            "workloads: [{workload: language_model, widths: [8], rate_widths: [10], steps: [1, 2, 3], fields: {heads: 4}}]",
        ),
    ):
        (workplace / "own.yaml").write_text(entry)
        assert words in said("optimizer=lion", f"profile={workplace / 'own.yaml'}")
    assert "go together" in said("optimizer=lion", "target_params=7e9")
    assert "go together" in said("optimizer=lion", "target_params=7e9", "target_tokens=-1", "target_batch=1")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_setting_of_a_shipped_profile_makes_a_model(profile):
    arena = _arena(JudgeConfig(optimizer="lion", profile=profile), _profile(profile))
    method = load_submission("adamw")
    for setting in arena.all:
        setting.workload.validate()
    for scored, *_ in arena.settings.values():
        assert arena.trial(method, scored, {}, 0).evaluations >= 50  # as AlgoPerf's
    for name, widths in arena.rate_widths.items():
        for width in widths:
            arena.settings[name][0].workload.replace(width=width).validate()
    assert profile != "full" or set(arena.settings) == set(WORKLOADS) - {"regression"}
