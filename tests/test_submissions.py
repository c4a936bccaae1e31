"""What a submission may declare beside its optimizer, and the rulesets that it trains under."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import CONFIG_DIR
from harness.goals import read_goals
from harness.judging.contest import Arena, Setting
from harness.records.files import read_json
from harness.rulesets import FIRST_POINTS, RULESETS
from harness.schedules import SCHEDULES
from harness.submissions import load_submission
from harness.tuning import Points, Space
from workloads.base import BadInput
from workloads.ctr import CTR
from workloads.image_mlp import ImageMLP

MAKE = """
import optax

def make(learning_rate=1e-3, b1=0.9, inner=2, nesterov=False):
    return optax.adam(learning_rate, b1, nesterov=nesterov)
"""


@pytest.fixture
def submission(tmp_path):
    def load(said, space=""):
        path = tmp_path / "mine.py"
        path.write_text(f"{said}\n{MAKE}")
        return load_submission(str(path), space)

    return load


def test_defaults(submission):
    one = submission("")
    assert one.schedule == SCHEDULES["cosine"]()
    assert one.horizon == 3 / 4
    assert set(one.space.axes) == {"learning_rate", "b1"}
    assert one.workload(CTR()) == CTR()
    assert load_submission("adamw").name == "adamw"


def test_what_a_file_declares(submission):
    one = submission(
        'SCHEDULE = {"name": "wsd", "warmup": "5%"}\nBATCH_SIZE = {"ctr": 64}\nHORIZON = 1\n'
        'SPACE = {"learning_rate": {"log": [1e-4, 1e-2]}}'
    )
    assert (one.schedule.name, one.schedule.warmup, one.horizon) == ("wsd", "5%", 1.0)
    assert one.workload(CTR()).batch_size == 64
    assert one.workload(ImageMLP()) == ImageMLP()
    assert isinstance(one.space, Space)
    assert set(one.space.axes) == {"learning_rate"}


def test_listed_whole_numbers_and_switches_stay_such(submission):
    one = submission('SPACE = [{"learning_rate": 1, "inner": 3, "nesterov": True}]')
    point = one.space.points(1, 0)[0]
    assert [(type(value), value) for value in point.values()] == [(float, 1.0), (int, 3), (bool, True)]


def test_a_users_weight_decay_is_tuned(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import optax\n\ndef make(learning_rate, weight_decay=0.0, b1=0.9):\n    return None\n"
    )
    assert set(load_submission(str(tmp_path / "mine.py")).space.axes) == {"learning_rate", "weight_decay", "b1"}
    assert set(load_submission("lars").space.axes) == {"learning_rate", "momentum"}


def test_a_list_of_points(submission, tmp_path):
    one = submission('SPACE = [{"learning_rate": 1e-3}, {"learning_rate": 3e-3, "b1": 0.8}]')
    assert isinstance(one.space, Points)
    assert one.space.points(2, 5) == [{"learning_rate": 1e-3}, {"learning_rate": 3e-3, "b1": 0.8}]
    with pytest.raises(BadInput, match="lists 2 points where 3"):
        one.space.points(3, 0)
    (tmp_path / "points.yaml").write_text("- {learning_rate: 0.01}\n")
    assert submission("", str(tmp_path / "points.yaml")).space.points(1, 0) == [{"learning_rate": 0.01}]


def test_an_algoperf_submission_is_said_to_be_one(tmp_path):
    path = tmp_path / "theirs.py"
    theirs = "def update_params(workload):\n    pass\n"
    for source in (theirs, (Path(__file__).parent / "algoperf" / "adamw.py").read_text()):
        path.write_text(source)
        for name in (path, f"{path}:make", f"{path}:update_params"):
            with pytest.raises(
                BadInput, match=rf"AlgoPerf submission .* python -m harness.compete submissions={path}\."
            ):
                load_submission(str(name))
    path.write_text(theirs + MAKE)
    assert load_submission(str(path)).name == "theirs:make"
    path.write_text(MAKE)
    with pytest.raises(BadInput, match=r"^theirs\.py has no function 'mak'"):
        load_submission(f"{path}:mak")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('SCHEDULE = "cosin"', "Did you mean 'cosine'"),
        ('SCHEDULE = {"name": "cosine", "warmpu": "5%"}', "warmpu"),
        ('BATCH_SIZE = {"ctr": 0}', "examples a step"),
        ('BATCH_SIZE = {"ctr": True}', "examples a step"),
        ('BATCH_SIZE = {"crt": 64}', "Did you mean 'ctr'"),
        ('SCHEDULE = {"name": "cosine", "final": "0.1"}', "SCHEDULE = .*final"),
        ('SPACE = [{"learning_rate": 1e-2, "inner": 2.5}]', "no whole number"),
        ('SPACE = [{"learning_rate": 1e-2, "nesterov": 1}]', "true or false"),
        ('SPACE = {"learning_rate": {"log": [1e-4, 1]}, "inner": {"linear": [1, 6]}}', "has no axis"),
        ("HORIZON = 1.5", "must lie in"),
        ('SPACE = {"b1": {"linear": [0.8, 0.9]}}', "no axis learning_rate"),
        ('SPACE = {"learning_rate": {"log": ["a", 1]}}', "no finite number"),
        ('SPACE = [{"rate": 1}]', "no hyperparameter 'rate'"),
        ("SPACE = []", "lists no points"),
        ("SPACES = {}", "Did you mean 'SPACE'"),
    ],
)
def test_declarations_that_are_none_name_the_fix(submission, said, words):
    with pytest.raises(BadInput, match=words):
        submission(said)


def test_external_tuning_draws_points_of_its_own_in_every_study():
    ruleset = RULESETS["external_tuning"](trials=5, studies=3)
    adamw = load_submission("adamw")
    assert ruleset.longest(300) == 400
    studies = [ruleset.points(adamw, study) for study in range(3)]
    assert [len(points) for points in studies] == [5, 5, 5]
    assert len({str(points) for points in studies}) == 3
    assert ruleset.points(adamw, 1) == studies[1]


def test_no_study_holds_a_configuration_that_set_a_target():
    """Of any algorithm whose runs were looked at, in the first studies, however many trials they have."""
    ruleset = RULESETS["external_tuning"](trials=50)
    studies = {}
    for path in sorted((CONFIG_DIR / "targets").glob("*.json")):
        for name, found in read_json(path)["algorithms"].items():
            if name not in studies:
                submission = load_submission(name)
                studies[name] = [point for study in range(10) for point in ruleset.points(submission, study)]
            won = found["configuration"]
            assert not [point for point in studies[name] if point == pytest.approx(won, rel=1e-6)], (path.name, name)


def test_no_study_draws_by_a_seed_that_targets_are_tuned_with():
    goals = read_goals(CONFIG_DIR / "targets").values()
    settings = [Setting(goal.workload, goal.steps) for goal in goals]
    assert max(setting.first_seed for setting in settings) + 1000 < FIRST_POINTS
    adamw, ruleset = load_submission("adamw"), RULESETS["external_tuning"]()
    tuned_with = [
        Arena({setting.workload.name: [setting]}, 5, 1).first_points(adamw, setting, 0)[0] for setting in settings
    ]
    drawn = [point for study in range(10) for point in ruleset.points(adamw, study)]
    assert not [point for point in drawn if point in tuned_with]


def test_self_tuning_is_one_trial_with_the_default_and_half_as_long_again(submission):
    ruleset = RULESETS["self_tuning"]()
    assert ruleset.longest(300) == 600
    assert ruleset.points(load_submission("adamw"), 2) == [{"learning_rate": 1e-3, "weight_decay": 1e-2}]
    assert ruleset.points(load_submission("momentum"), 0) == [{"learning_rate": 0.1}]
    assert ruleset.points(submission(""), 0) == [{"learning_rate": 1e-3}]  # the function's own
    assert ruleset.points(submission('SPACE = [{"learning_rate": 0.02}]'), 0) == [{"learning_rate": 0.02}]


def test_self_tuning_takes_no_optimizer_without_a_default(tmp_path):
    ruleset = RULESETS["self_tuning"]()
    with pytest.raises(BadInput, match=r"no default of lars.*ruleset=external_tuning"):
        ruleset.points(load_submission("lars"), 0)
    (tmp_path / "bare.py").write_text(MAKE.replace("learning_rate=1e-3", "learning_rate"))
    with pytest.raises(BadInput, match=r"bare:make has no learning rate of its own.*SPACE = \["):
        ruleset.points(load_submission(str(tmp_path / "bare.py")), 0)
