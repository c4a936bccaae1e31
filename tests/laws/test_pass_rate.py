"""Pass rates from repeated sampling: unbiased estimates, tries without a pass kept, intervals that cover."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.procedures import pass_until as module
from harness.laws.procedures.base import Settings
from harness.laws.procedures.pass_until import PassUntil, likelihood_fit, unbiased
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=200)
SIZES = np.geomspace(3e7, 2.4e9, 6)
TARGET = 10 * SIZES[-1]


def sampled(rate, rng, until=2, budget=2000.0, draws=()):
    """passes, tries of sampling at `rate` until so many passes, or until the budget is spent."""
    waits = rng.geometric(rate, size=(until, *draws, *np.shape(rate))).cumsum(0)
    return np.sum(waits <= budget, axis=0).astype(float), np.minimum(waits[-1], budget).astype(float)


def columns(passes, tries, sizes=SIZES):
    count = passes.shape[0]
    names = np.repeat([f"q{i}" for i in range(count)], sizes.size)
    return {"N": np.tile(sizes, count), "instance": names, "tries": tries.ravel(), "passes": passes.ravel()}


def instances(count, seed=5):
    """c and a of instances, their rates at SIZES, and the true mean rate at TARGET."""
    rng = np.random.default_rng(seed)
    c, a = np.exp(rng.normal(np.log(4), 0.5, count)), rng.normal(0.35, 0.05, count)
    size = np.append(SIZES, TARGET) / SIZES[0]
    rate = np.exp(-c[:, None] * size ** -a[:, None])
    return rate[:, :-1], float(rate[:, -1].mean())


@pytest.mark.parametrize(("until", "budget"), [(2, 1e9), (5, 1e9), (2, 12.0), (5, 12.0)])
def test_the_estimate_is_unbiased_for_every_budget(until, budget):
    passes, tries = sampled(np.array([0.05, 0.3, 0.9]), np.random.default_rng(0), until, budget, (200_000,))
    found = unbiased(passes, tries, until)
    error = found.std(0) / np.sqrt(found.shape[0])
    assert np.all(np.abs(found.mean(0) - [0.05, 0.3, 0.9]) < 4 * error)
    naive = passes / tries
    assert np.any(np.abs(naive.mean(0) - [0.05, 0.3, 0.9]) > 10 * error)


def test_the_likelihood_fit_is_exact_on_exact_shares():
    rate = np.exp(-4.0 * (SIZES / SIZES[0]) ** -0.35)
    theta = likelihood_fit(1e6 * rate[None], np.full((1, 6), 1e6), SIZES)
    np.testing.assert_allclose(theta, [[np.log(4.0) + 0.35 * np.log(SIZES[0]), 0.35]], rtol=1e-4)


@pytest.fixture(scope="module")
def found():
    rate, _ = instances(30)
    return PassUntil().run(columns(*sampled(rate, np.random.default_rng(1))), SETTINGS)


def test_the_result_names_every_size_and_the_prediction(found):
    values = json.loads(json.dumps(found.values, allow_nan=False))
    assert values["target"] == TARGET
    assert values["ci95"][0] < values["pass_rate"] < values["ci95"][1] < 1
    assert [row["N"] for row in values["sizes"]] == SIZES.tolist()
    rate, _ = instances(30)
    for row, mean in zip(values["sizes"], rate.mean(0), strict=True):
        assert abs(row["estimate"] - mean) < 4 * row["stderr"]
    assert found.fits["averages"].params["a"] > 0


def test_intervals_cover_and_the_prediction_is_not_biased(found, monkeypatch):
    monkeypatch.setattr(module, "_averages_fit", lambda *_: None)
    rate, truth = instances(30)
    runs = [PassUntil().run(columns(*sampled(rate, np.random.default_rng(s))), SETTINGS).values for s in range(40)]
    covered = np.mean([r["ci95"][0] <= truth <= r["ci95"][1] for r in runs])
    guess = np.array([r["pass_rate"] for r in runs])
    assert covered >= 0.85
    assert abs(guess.mean() - truth) < 3.5 * guess.std() / np.sqrt(40)


def test_instances_that_never_pass_are_counted_and_lower_the_mean(found):
    rate, _ = instances(30)
    passes, tries = sampled(rate, np.random.default_rng(1))
    passes[:10], tries[:10] = 0.0, 2000.0
    result = PassUntil().run(columns(passes, tries), SETTINGS)
    assert result.values["never_passed"] == result.values["counted_as_zero"] == 10
    assert result.n == found.n == 180
    assert any("count as 0" in w for w in result.warnings)
    assert result.values["pass_rate"] < found.values["pass_rate"]
    assert result.values["sizes"][0]["without_pass"] >= 10


def test_rarely_passed_instances_are_fitted_together():
    rate, _ = instances(30)
    passes, tries = sampled(rate, np.random.default_rng(1))
    passes[:4], tries[:4] = 0.0, 2000.0
    passes[0, 4], passes[1, 5], passes[2, 5], passes[3, 3] = 1, 1, 1, 1
    values = PassUntil().run(columns(passes, tries), SETTINGS).values
    assert values["pooled"] == 4
    assert values["counted_as_zero"] == 0


def bad(**changes):
    table = columns(*sampled(instances(10)[0], np.random.default_rng(1)))
    return {**table, **{name: change(table[name].copy()) for name, change in changes.items()}}


def put(value, row=0):
    def change(column):
        column[row] = value
        return column

    return change


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (bad(passes=put(3.0), tries=put(9.0)), "more than until=2"),
        (bad(passes=put(-1.0)), "whole numbers"),
        (bad(tries=put(2.5)), "whole numbers"),
        (bad(tries=put(0.0)), "tries"),
        (bad(N=lambda c: np.where(c < 1e9, 3e7, 2e9)), "at least 3"),
        (bad(instance=lambda c: np.where(c == "q1", "q0", c)), "several rows"),
        (bad(passes=lambda c: 0 * c), "no instance was passed"),
        (columns(*sampled(instances(3)[0], np.random.default_rng(1))), "3 instances"),
    ],
)
def test_bad_tables_are_refused_with_the_fix(table, message):
    with pytest.raises(BadInput, match=message):
        PassUntil().run(table, SETTINGS)


def test_one_pass_has_no_unbiased_estimate():
    with pytest.raises(BadInput, match="at least 2"):
        PassUntil(until=1)
