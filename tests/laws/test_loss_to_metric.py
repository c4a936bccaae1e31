"""Loss to accuracy, and the chain from size through the loss."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.accuracy_sigmoid import AccuracyExponential, AccuracySigmoid, accuracy_of
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict
from harness.laws.procedures.base import Settings
from harness.laws.procedures.loss_to_metric import LossToMetric
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=200)
N = np.geomspace(1e18, 1e22, 10)
SIGMOID = {"floor": 0.25, "ceil": 0.9, "k": 4.0, "L_0": 3.0}


def exact_loss(size):
    return 1.8 + 12 * (size / 1e16) ** -0.2


def table(seed=0, floor=0.25):
    rng = np.random.default_rng(seed)
    loss = exact_loss(N) * np.exp(0.002 * rng.normal(size=N.size))
    accuracy = accuracy_of({**SIGMOID, "floor": floor}, loss) + 0.004 * rng.normal(size=N.size)
    return {"N": N, "loss": loss, "accuracy": np.clip(accuracy, 0, 1)}


def test_the_sigmoid_runs_from_ceiling_to_floor_and_half_way_at_L_0():
    law, loss = AccuracySigmoid(), np.array([1e-6, 3.0, 50.0])
    theta = np.array([kind.internal(SIGMOID[name]) for name, kind in law.parameters.items()])
    value = np.exp(predict(law, Objective(), {"loss": loss}, theta[None]))[0]
    np.testing.assert_allclose(value, [0.9, 0.575, 0.25], atol=1e-5)
    np.testing.assert_allclose(value, accuracy_of(SIGMOID, loss), rtol=1e-9)


def test_far_above_the_transition_the_sigmoid_is_the_exponential():
    loss = np.array([6.0, 7.0, 8.0])
    k = 0.65 * np.exp(4 * 3.0)
    value = np.exp(predict(AccuracyExponential(), Objective(), {"loss": loss}, np.log([[0.25, k, 4.0]])))[0]
    np.testing.assert_allclose(value, accuracy_of(SIGMOID, loss), rtol=1e-6)


@pytest.fixture(scope="module")
def found():
    return LossToMetric(target=1e23).run(table(), SETTINGS)


def test_the_chain_predicts_a_larger_size_within_its_interval(found):
    values = json.loads(json.dumps(found.values, allow_nan=False))
    truth = accuracy_of(SIGMOID, exact_loss(1e23))
    low, high = values["ci95"]
    assert low < truth < high
    assert 0.005 < high - low < 0.1
    assert values["loss"] == pytest.approx(exact_loss(1e23), rel=0.02)


def test_both_steps_widen_the_interval(found):
    fits = found.fits
    step = fits["loss to accuracy"].predict({"loss": np.array([found.values["loss"]])})
    assert found.values["ci95"][1] - found.values["ci95"][0] > 0.9 * float(step.high[0] - step.low[0])


def test_the_backtest_stands_beside_one_step_from_size(found):
    backtest = found.values["backtest"]
    assert [fold["sizes_fitted"] for fold in backtest["folds"]] == [5, 6, 7, 8, 9]
    assert backtest["mean_abs_error"]["chain"] < 0.05
    best = min(backtest["mean_abs_error"], key=backtest["mean_abs_error"].get)
    assert found.values["better"] == best


def test_the_backtest_does_not_see_the_held_out_run(found):
    moved = table()
    moved["accuracy"][-1] -= 0.1
    folds = LossToMetric().run(moved, SETTINGS).values["backtest"]["folds"]
    before = found.values["backtest"]["folds"]
    assert folds[:-1] == before[:-1]
    assert folds[-1]["error"]["chain"] == pytest.approx(before[-1]["error"]["chain"] + 0.1, abs=0.02)


def test_accuracy_zero_is_kept():
    low = table(floor=1e-9)
    low["accuracy"][:2] = 0.0
    result = LossToMetric().run(low, SETTINGS)
    assert result.n == 10
    assert any("run(s) have accuracy 0" in w for w in result.warnings)
    assert result.fits["loss to accuracy"].params["floor"] < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": 100 * table()["accuracy"]}, "percent"),
        ({"accuracy": np.full(10, 0.25)}, "the same in every run"),
        ({"N": np.repeat([1e18, 1e19], 5)}, "at least 5"),
        ({"loss": np.full(10, np.nan)}, "loss"),
    ],
)
def test_bad_tables_are_refused_with_the_fix(change, message):
    with pytest.raises(BadInput, match=message):
        LossToMetric().run({**table(), **change}, SETTINGS)


def test_a_target_is_a_size():
    with pytest.raises(BadInput, match="target"):
        LossToMetric(target=-1.0).run(table(), SETTINGS)
