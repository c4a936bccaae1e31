"""Jumps of the metric and jumps of the model are told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.procedures.base import Settings
from harness.laws.procedures.mirage import Mirage, break_test, decide, effective_length, emergence
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=200)
N = np.geomspace(1e7, 1e11, 13)
SMOOTH = np.exp(-0.5 * (N / 1e8) ** -0.5)
BROKEN = np.exp(-np.where(N > 1e9, 0.2, 0.8) * (N / 1e8) ** -0.5)


def table(share, length=10, samples=500, seed=0, power=None):
    rng = np.random.default_rng(seed)
    tokens = np.clip(rng.binomial(samples * length, share) / (samples * length), 1e-4, 1 - 1e-4)
    answers = rng.binomial(samples, share ** (power or length)) / samples
    return {"N": N, "linear": tokens, "nonlinear": answers, "samples": np.full(N.size, samples)}


def verdict(share, seed=0, power=None, samples=500):
    return Mirage(length=10).run(table(share, seed=seed, power=power, samples=samples), SETTINGS).values


def test_a_smooth_law_through_the_metric_explains_the_jump():
    values = json.loads(json.dumps(verdict(SMOOTH), allow_nan=False))
    assert values["verdict"] == "supported"
    assert values["evidence"]["covered"] >= 0.8
    assert values["evidence"]["effective_length"] == pytest.approx(10, rel=0.15)
    assert values["evidence"]["rise"] > 0.8


def test_a_jump_of_the_model_is_not_the_metrics():
    values = verdict(BROKEN)
    assert values["verdict"] == "refuted"
    assert 1e9 < values["evidence"]["break_at"] < 3e9
    assert "breaks" in values["reason"]


def test_a_metric_that_is_not_the_power_is_refuted():
    values = verdict(SMOOTH, power=30)
    assert values["verdict"] == "refuted"
    assert "misses" in values["reason"]


def test_nothing_to_explain_is_undecided():
    values = verdict(np.full(N.size, 0.3) + 1e-3 * np.arange(N.size))
    assert values["verdict"] == "undecided"
    assert "does not rise" in values["reason"]


def test_verdicts_hold_over_seeds():
    smooth = [verdict(SMOOTH, seed)["verdict"] for seed in range(12)]
    broken = [verdict(BROKEN, seed)["verdict"] for seed in range(12)]
    assert smooth.count("refuted") <= 1
    assert smooth.count("supported") >= 8
    assert broken.count("refuted") >= 11


def test_the_break_test_keeps_its_level_and_finds_a_step():
    x, rng = np.log(N), np.random.default_rng(1)
    precision = np.linspace(1, 30, N.size)
    level = [break_test(x, 2 - 0.5 * x + rng.normal(size=x.size) / precision, precision, 0)[0] for _ in range(60)]
    assert 0 <= np.mean(np.array(level) < 0.1) <= 0.22
    assert np.mean(level) == pytest.approx(0.5, abs=0.13)
    p, at = break_test(x, 2 - 0.5 * x + 1.0 * (x >= x[6]) + 0.01 * rng.normal(size=x.size), np.ones(x.size), 0)
    assert p < 0.001
    assert at == 6


def test_known_numbers():
    assert effective_length(np.array([0.5, 0.9]), np.array([0.5, 0.9]) ** 7) == pytest.approx(7)
    assert effective_length(np.array([0.5]), np.array([0.0])) is None
    assert emergence(np.arange(1.0, 5), np.array([0.0, 0.1, 0.2, 0.8])) == pytest.approx(8)
    assert emergence(np.arange(1.0, 4), np.array([0.8, 0.4, 0.0])) == pytest.approx(-2)


def test_a_wide_prediction_decides_nothing():
    evidence = {"rise_in_errors": 50.0, "p_smooth": 0.5, "half_width": 0.6, "rise": 0.9, "p_metric": 0.5}
    assert decide(evidence)[0] == "undecided"
    assert decide({**evidence, "half_width": 0.01})[0] == "supported"
    assert decide({**evidence, "half_width": 0.01, "p_metric": 0.02})[0] == "undecided"


GOOD = table(SMOOTH)
BAD = {
    "percent": ({"linear": 100 * GOOD["linear"]}, 10, "percent"),
    "nan": ({"nonlinear": np.full(13, np.nan)}, 10, "share"),
    "all right": ({"linear": np.ones(13)}, 10, "0 or 1"),
    "no length": ({}, None, "length=NUMBER"),
    "one token": ({}, 1, "above 1"),
    "few sizes": ({"N": np.repeat([1e7, 1e8, 1e9], [4, 4, 5])}, 10, "at least 7"),
    "samples": ({"samples": np.zeros(13)}, 10, "samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_with_the_fix(case):
    change, length, message = BAD[case]
    with pytest.raises(BadInput, match=message):
        Mirage(length=length).run({**GOOD, **change}, SETTINGS)
