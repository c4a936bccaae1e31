"""Prediction intervals cover, and the verdict on a prediction follows its three conditions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.laws import PowerLaw, PowerLawOffset, fit, prediction_verdict
from harness.laws.fitting.fit import Prediction
from workloads.base import BadInput

N = np.array([1.2e4, 2.4e4, 4e4, 8e4, 1.3e5, 2.8e5])
NEXT = 4.5e5


def truth(size):
    return 1.5 + 8 * np.asarray(size) ** -0.35


def coverage(stated, sets):
    """Share of simulated sweeps whose 95% interval holds the next size's noisy loss.

    stated: standard errors given to the fit as a multiple of the true noise; None gives none.
    """
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(sets):
        sd = rng.uniform(0.002, 0.01)
        loss = truth(N) * np.exp(rng.normal(size=6) * sd)
        result = fit(
            PowerLawOffset(), {"N": N}, loss, stderr=None if stated is None else stated * sd * loss, bootstrap=200
        )
        low, high = (bound[0] for bound in result.predict({"N": NEXT})[1:])
        hits += low <= truth(NEXT) * np.exp(rng.normal() * sd) <= high
    return hits / sets


@pytest.mark.parametrize("stated", [None, 1.0])
def test_95_percent_intervals_cover_90_to_99(stated):
    assert 0.90 <= coverage(stated, sets=150) <= 0.99


def test_interval_of_a_linear_law_is_the_textbook_one():
    rng = np.random.default_rng(1)
    x = np.log(N)
    y = 1.0 - 0.1 * x + 0.005 * rng.normal(size=6)
    result = fit(PowerLaw(), {"N": N}, np.exp(y), bootstrap=20000)
    predicted = result.predict({"N": NEXT})
    line = stats.linregress(x, y)
    s = np.sqrt(np.sum((y - line.intercept - line.slope * x) ** 2) / 4)
    leverage = 1 / 6 + (np.log(NEXT) - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
    half = stats.t.ppf(0.975, 4) * s * np.sqrt(1 + leverage)
    assert np.log(predicted.mean[0]) == pytest.approx(line.intercept + line.slope * np.log(NEXT), abs=1e-6)
    assert np.log(predicted.high[0] / predicted.low[0]) / 2 == pytest.approx(half, rel=0.05)


def test_trading_parameters_do_not_widen_the_prediction():
    loss = truth(N) * np.exp(0.003 * np.array([0.3, -1.1, 0.8, 0.5, -0.9, 0.4]))
    result = fit(PowerLawOffset(), {"N": N}, loss, stderr=0.003 * loss, bootstrap=200)
    predicted = result.predict({"N": NEXT})
    alone = sum((np.diff(result.ci95["E"]), np.diff(result.ci95["A"])[0] * NEXT**-0.35))
    assert not result.identifiable.ok
    assert predicted.high[0] - predicted.low[0] < 0.3 * alone[0]
    assert predicted.high[0] - predicted.low[0] < 0.05


def test_more_seeds_of_the_new_run_narrow_the_interval_and_level_widens_it():
    loss = truth(N)
    result = fit(PowerLawOffset(), {"N": N}, loss, stderr=0.003 * loss, bootstrap=200)

    def width(**options):
        predicted = result.predict({"N": NEXT}, **options)
        return (predicted.high - predicted.low)[0]

    assert width(noise=0.0) < width() < width(noise=0.02)
    assert width(level=0.5) < width(level=0.95) < width(level=0.99)


def test_residual_noise_is_not_replaced_by_a_smaller_claim():
    loss = truth(N) * np.exp(0.01 * np.array([0.3, -1.1, 0.8, 0.5, -0.9, 0.4]))
    result = fit(PowerLawOffset(), {"N": N}, loss, bootstrap=200)
    claimed, silent = (result.predict({"N": NEXT}, noise=noise) for noise in (1e-6, None))
    assert claimed.low == silent.low


@pytest.mark.parametrize("options", [{"level": 1.0}, {"noise": -1.0}, {"noise": np.nan}])
def test_bad_prediction_options(options):
    result = fit(PowerLaw(), {"N": N}, truth(N), bootstrap=200)
    with pytest.raises(BadInput):
        result.predict({"N": NEXT}, **options)
    with pytest.raises(BadInput, match="missing"):
        result.predict({"D": NEXT})


LOSSES = np.array([2.0, 1.8, 1.6, 1.0])  # range 1: half-widths up to 0.03 are narrow


@pytest.mark.parametrize(
    ("half", "observed", "line", "verdict", "words"),
    [
        (0.02, 0.91, 0.93, "supported", "covers"),
        (0.02, 0.93, 0.93, "refuted", "outside"),
        (0.04, 0.91, 0.95, "undecided", "half-width"),
        (0.04, 0.99, 0.95, "undecided", "half-width"),
        (0.02, 0.91, 0.912, "undecided", "straight line"),
        (0.02, np.nan, 0.95, "undecided", "no finite loss"),
    ],
)
def test_verdict(half, observed, line, verdict, words):
    predicted = Prediction(np.array([0.9]), np.array([0.9 - half]), np.array([0.9 + half]))
    result = prediction_verdict(predicted, observed, LOSSES, line)
    assert result.verdict == verdict
    assert words in result.reason
    assert result.reason.count(". ") == 0
    assert result.evidence["half_width_allowed"] == pytest.approx(0.03)


def test_verdict_is_about_one_point():
    with pytest.raises(BadInput):
        prediction_verdict(Prediction(*np.ones((3, 2))), 1.0, LOSSES, 1.0)
