"""Rules by which hyperparameters follow batch size and duration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.budget import Budget
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.parametrizations.rescale import Rescaling, Run
from harness.transfer import main
from harness.transfer.explain import table
from tests.trials import small_trial
from workloads.base import BadInput

ADAMW = OPTIMIZERS["adamw"](learning_rate=1e-3, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1)
BASE = {"base_batch": 16, "base_tokens": 1000}
FOUR_BATCHES = Run(batch=64, tokens=1000, steps=10)


def test_off_changes_nothing():
    assert Rescaling(**BASE).apply(ADAMW, FOUR_BATCHES) == ADAMW


def test_the_square_root_rule_is_that_of_adams_sde():
    found = Rescaling(batch_rule="sqrt", **BASE).apply(ADAMW, FOUR_BATCHES)
    assert (found.learning_rate, found.b1, found.b2, found.eps) == pytest.approx((2e-3, 0.6, 0.996, 5e-9))
    assert found.weight_decay == 0.1


def test_the_linear_rule_is_for_the_rate_alone():
    sgd = OPTIMIZERS["momentum"](learning_rate=0.1, momentum=0.9)
    assert Rescaling(batch_rule="linear", **BASE).apply(sgd, FOUR_BATCHES) == replace(sgd, learning_rate=0.4)


@pytest.mark.parametrize(("rule", "power"), [("power_scheduler", -0.51), ("step_law", 0.307)])
def test_duration_rules(rule, power):
    found = Rescaling(duration_rule=rule, **BASE).apply(ADAMW, Run(batch=16, tokens=8000, steps=500))
    assert found == replace(ADAMW, learning_rate=1e-3 * 8**power)


def test_the_decay_timescale_stays_the_same_share_of_the_run():
    rescaling = Rescaling(batch_rule="sqrt", duration_rule="power_scheduler", decay_timescale=True, **BASE)
    for run, steps in ((Run(64, 1000, 10), 1 / 4), (Run(16, 8000, 500), 8.0), (Run(64, 8000, 80), 2.0)):
        found = rescaling.apply(ADAMW, run)
        shrink_of_the_run = found.learning_rate * found.weight_decay * steps
        assert shrink_of_the_run == pytest.approx(1e-3 * 0.1)


def test_momentum_that_would_leave_its_range_is_refused():
    with pytest.raises(BadInput, match=r"optimizer\.b1=0\.9 to -0\.6 at 16 times"):
        Rescaling(batch_rule="sqrt", **BASE).apply(ADAMW, Run(256, 1000, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_rule": "cube"}, "unknown parametrization.batch_rule"),
        ({"duration_rule": "long"}, "unknown parametrization.duration_rule"),
        ({"batch_rule": "sqrt"}, "needs parametrization.base_batch"),
        ({"decay_timescale": True}, "base_tokens"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        Rescaling(**options).validate()


def test_trials_train_with_the_rescaled_numbers_in_the_same_program():
    trial = small_trial()
    k4 = PARAMETRIZATIONS["sp"](batch_rule="sqrt", base_batch=trial.workload.batch_size // 4)
    scaled = replace(trial, parametrization=k4, optimizer=ADAMW, budget=Budget(steps=4))
    assert scaled.hparams().optimizer["learning_rate"] == pytest.approx(2e-3)
    assert scaled.static() == replace(scaled, parametrization=PARAMETRIZATIONS["sp"]()).static()


WORDS = ["workload.width=128", "workload.depth=8", "optimizer=adamw", "optimizer.weight_decay=0.1", "budget.steps=10"]


def test_explain_shows_base_and_here(capsys):
    assert main(["explain", *WORDS, "parametrization=complete_p"]) == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "128 x 512 hidden, repeated" in lines["layer_0/mlp_in"]
    assert "0.001 -> 0.00025 0.1 -> 0.4 1e-08 -> 6.25e-10" in lines["layer_0/mlp_in"]
    assert "layer_1/mlp_in" not in lines
    assert lines["residual_scale:"] == "residual_scale: 0.25"


def test_explain_covers_every_leaf_of_every_parametrization():
    for name in ("sp", "mup", "abc", "depth_mup"):
        rows = table(replace(small_trial(), parametrization=PARAMETRIZATIONS[name](base_width=8)))
        assert {"embedding", "readout", "final_norm", "layer_0/mlp_in"} <= {row["parameter"] for row in rows}
