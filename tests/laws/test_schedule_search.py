"""Unseen schedules predicted, ranked and searched for, on curves whose law is known."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from harness.laws import Objective
from harness.laws.annealing import Annealing
from harness.laws.curves import LearningRates, stack
from harness.laws.fitting.solver import predict
from harness.laws.multi_power import MultiPower
from harness.laws.procedures import Settings
from harness.laws.procedures.schedules import Schedule
from harness.laws.schedule_search import Frame, final_features, monotone, search
from workloads.base import BadInput

FRAME = Frame(steps=4000, warmup=200, peak=1e-3, floor=1e-4)
SHAPES = FRAME.shapes()
SUDDEN = np.where(np.arange(4001) < 1600, SHAPES["constant"], 3e-4)
FITTED = {
    "constant": SHAPES["constant"],
    "cosine": SHAPES["cosine"],
    "sudden": SUDDEN,
    "late": SHAPES["wsd linear 40%"],
}
UNSEEN = {"wsd": SHAPES["wsd exponential 20%"], "linear": SHAPES["linear"]}
MULTI_POWER = np.log([3.0, 0.4, 250.0, 0.5, 0.5, 0.45, 0.6])
ANNEALING = np.log([3.0, 0.4, 1.5, 0.5])
NOISE = 5e-4


def final(law, theta, schedules):
    features = stack(final_features(law, list(schedules)), np.arange(len(schedules)))
    return np.exp(predict(law, Objective(), features, theta[None])[0])


def rows(label, lr, law, theta, rng):
    """Every fifth step describes the schedule; every hundredth has a loss."""
    step = np.unique(np.concatenate([np.arange(0, 4001, 5), [1599, 1600]]))
    loss = np.full(step.size, np.nan)
    seen = (step > 200) & (step % 100 == 0)
    if law is not None:
        log_loss = predict(law, Objective(), law.rows_of(LearningRates.of(lr), step[seen]), theta[None])[0]
        loss[seen] = np.exp(log_loss + NOISE * rng.normal(size=seen.sum()))
    return {"curve": np.full(step.size, label), "step": step.astype(float), "lr": lr[step], "loss": loss}


def table(law, theta, unseen=UNSEEN, fitted=FITTED):
    rng = np.random.default_rng(0)
    parts = [rows(label, lr, law, theta, rng) for label, lr in fitted.items()]
    parts += [rows(label, lr, None, theta, rng) for label, lr in unseen.items()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def found():
    """The procedure on curves of the multi-power law."""
    return Schedule(points=25).run(table(MultiPower(), MULTI_POWER), Settings(bootstrap=200))


@pytest.fixture(scope="module")
def simple():
    """The procedure on curves of the annealing law."""
    law = Annealing(lambdas=(0.995,))
    return Schedule(points=25).run(table(law, ANNEALING), Settings(bootstrap=200))


def test_the_law_that_made_the_curves_is_recommended(found, simple):
    assert found.values["backtest"]["recommended"] == found.values["law"] == "multi_power"
    assert found.values["backtest"]["ratio"] < 1
    assert simple.values["backtest"]["recommended"] == simple.values["law"] == "annealing"
    assert simple.fits["annealing"].law.lambdas == (0.995,)


def test_left_out_errors_are_those_of_the_fits_own_backtest(simple):
    """Here every fold chooses the same lambda as the whole, so choosing it without the curve changes nothing."""
    left_out = simple.values["backtest"]["left_out"]
    for name, fitted in simple.fits.items():
        for fold in fitted.backtest["folds"]:
            assert left_out[fold["left_out"]][name] == pytest.approx(abs(fold["error"][name]), rel=1e-6)


def test_a_worse_law_is_spoken_of(simple):
    assert simple.values["backtest"]["ratio"] > 1.3
    assert any("simpler law is recommended" in warning for warning in simple.warnings)


def test_whole_unseen_curves_lie_in_their_bands(found):
    for label, lr in UNSEEN.items():
        curve = {key: np.array(value) for key, value in found.values["predicted"][label].items()}
        features = MultiPower().rows_of(LearningRates.of(lr), curve["step"])
        truth = np.exp(predict(MultiPower(), Objective(), features, MULTI_POWER[None])[0])
        assert curve["step"][0] == 200
        assert curve["step"][-1] == 4000
        assert np.mean((curve["low"] <= truth) & (truth <= curve["high"])) > 0.9
        assert np.abs(curve["loss"] / truth - 1)[curve["step"] > 400].max() < 2e-3


def test_unseen_schedules_are_ranked_with_paired_intervals(found):
    first, second = found.values["ranking"]
    truth = dict(zip(UNSEEN, final(MultiPower(), MULTI_POWER, UNSEEN.values()), strict=True))
    assert [first["schedule"], second["schedule"]] == sorted(truth, key=truth.get)
    excess = np.log(truth[second["schedule"]] / truth[first["schedule"]])
    low, high = second["excess_ci95"]
    assert low <= excess <= high
    assert second["decided"] == (low > 0)
    assert high - low < np.log(second["ci95"][1] / second["ci95"][0])
    assert first["excess"] == 0


def test_the_best_schedule_is_reported_beside_the_usual_ones(found):
    best = found.values["best_schedule"]
    assert best["against"][0]["schedule"] == "best found"
    assert {"cosine", "linear", "constant"} < {entry["schedule"] for entry in best["against"]}
    assert [best[key] for key in ("steps", "warmup", "peak", "floor")] == pytest.approx([4000, 200, 1e-3, 1e-4])
    assert len(best["knots"]["step"]) == len(best["knots"]["lr"])
    assert [plot.name for plot in found.plots] == ["curves", "best_schedule"]


def test_everything_is_plain_json_and_counted(found):
    json.dumps(found.values, allow_nan=False)
    assert found.n == 4 * 25
    assert found.dropped == {"losses beyond 25 of a curve": 4 * (38 - 25)}
    assert len(found.tables) == 3


@pytest.mark.parametrize("steps", [4000, 12_000])
def test_under_the_multi_power_law_it_is_best_to_stay_and_then_decay(steps):
    frame = Frame(steps, 200, 1e-3, 1e-4)
    best = search(MultiPower(), MULTI_POWER, frame)
    assert 0.5 < best.stable < 0.9
    assert best.lr[0] == pytest.approx(1e-3, rel=1e-6)
    assert best.lr[-1] == pytest.approx(1e-4, rel=1e-6)
    shapes = frame.shapes()
    losses = dict(
        zip([*shapes, "best"], final(MultiPower(), MULTI_POWER, [*shapes.values(), best.per_step]), strict=True)
    )
    assert min(losses, key=losses.get) == "best"
    assert losses["best"] < losses["cosine"] - 0.005


def test_all_starts_end_in_the_same_place():
    reached = list(search(MultiPower(), MULTI_POWER, FRAME).reached.values())
    assert max(reached) - min(reached) < 2e-5


@pytest.mark.parametrize(("law", "theta"), [(MultiPower(), MULTI_POWER), (Annealing(lambdas=(0.995,)), ANNEALING)])
def test_a_found_schedule_keeps_to_its_frame(law, theta):
    lr = search(law, theta, FRAME).per_step
    np.testing.assert_allclose(lr[:201], lr[200] * np.arange(201) / 200)
    assert np.all(np.diff(lr[200:]) <= 1e-18)
    assert lr[200:].min() >= FRAME.floor * (1 - 1e-12)
    assert lr.max() <= FRAME.peak * (1 + 1e-12)


def test_the_projection_is_isotonic_regression():
    values = np.random.default_rng(0).normal(size=40)
    with jax.enable_x64(True):
        found = np.asarray(monotone(jnp.asarray(values), jnp.asarray(-0.3), jnp.asarray(0.4)))
    expected = IsotonicRegression(increasing=False, y_min=-0.3, y_max=0.4).fit_transform(np.arange(40), values)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((100, 100, 1.0, 0.1), "shorter than steps"),
        ((100, 0, 1.0, 1.0), "below peak"),
        ((100, 0, 1.0, 0.0), "positive"),
    ],
)
def test_impossible_frames(frame, message):
    with pytest.raises(BadInput, match=message):
        Frame(*frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "multi-power"}, "Did you mean 'multi_power'"),
        ({"points": 3}, "at least 5"),
        ({"warmup": -1}, "warmup=-1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        Schedule(**options).run(table(Annealing(), ANNEALING), Settings(200))


def test_too_few_curves_and_curves_that_never_anneal():
    with pytest.raises(BadInput, match="2 curve"):
        Schedule().run(table(Annealing(), ANNEALING, fitted=dict(list(FITTED.items())[:2])), Settings(200))
    same = {name: SHAPES["constant"] * share for name, share in {"a": 1, "b": 0.5, "c": 0.2}.items()}
    with pytest.raises(BadInput, match="no fitted curve lowers"):
        Schedule().run(table(Annealing(), ANNEALING, fitted=same), Settings(200))
