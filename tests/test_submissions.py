"""What a submission may declare beside its optimizer, and the rulesets that it trains under."""

from __future__ import annotations

import pytest

from harness.rulesets import RULESETS
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


def test_self_tuning_is_one_trial_with_the_defaults_and_half_as_long_again(submission):
    ruleset = RULESETS["self_tuning"]()
    assert ruleset.longest(300) == 600
    assert ruleset.points(load_submission("adamw"), 2) == [{}]
    assert ruleset.points(submission('SPACE = [{"learning_rate": 0.02}]'), 0) == [{"learning_rate": 0.02}]
