"""The power scheduler's rule: a learning rate proportional to the batch, a power of the tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.procedures.base import Settings
from harness.laws.procedures.power_scheduler import PowerScheduler
from workloads.base import BadInput

A, POWER = 4.6, -0.51
CELLS = [(b, n) for b in (16.0, 64.0, 256.0) for n in (1e9, 8e9, 6.4e10)]
QUICK = Settings(bootstrap=200)


def sweep(noise=0.0, exponent=1.0, seed=0):
    """Eleven learning rates about the optimum of each cell."""
    rng, rows = np.random.default_rng(seed), []
    for batch, tokens in CELLS:
        best = np.log(A) + exponent * np.log(batch) + POWER * np.log(tokens)
        x = best + np.arange(-5, 6) * 0.3 + 0.1
        loss = 3 * np.exp(0.02 * (x - best) ** 2 + noise * rng.normal(size=x.size))
        rows += [(batch, tokens, rate, value) for rate, value in zip(np.exp(x), loss, strict=True)]
    return dict(zip(("B", "tokens", "lr", "loss"), np.array(rows).T, strict=True))


def run(columns, **options):
    return PowerScheduler(**options).run(columns, QUICK)


def test_exact_parabolas_give_the_rule_back():
    found = run(sweep(), at={"B": 64.0, "tokens": 1e11})
    assert found.values["laws"]["quadratic"]["params"] == pytest.approx({"a": A, "b": POWER}, rel=1e-6)
    assert found.values["rules"] == ["lr = a B tokens^b"]
    assert found.values["at"]["lr"]["value"] == pytest.approx(A * 64 * 1e11**POWER, rel=0.05)
    json.dumps(found.values, allow_nan=False)


def test_noisy_intervals_and_reference():
    found = run(sweep(5e-4), reference={"a": A, "b": -0.3})
    low, high = found.values["laws"]["curvature_weighted"]["ci95"]["b"]
    assert low < POWER < high
    assert not found.values["reference"]["verdicts"]["b"]["supported"]
    assert found.values["reference"]["verdicts"]["b"]["reference"] == -0.3
    assert any("tokens exponent of lr, b=-0.3" in w for w in found.warnings)


def test_the_regret_by_hand():
    """Off by a factor r the parabola loses 0.02 log(r)^2; the interpolation between exact runs adds little."""
    found = run(sweep(), reference={"a": A * np.exp(0.5), "b": POWER})
    regret = found.values["reference"]["regret"]
    assert regret["smoothed_left_out"]["mean"] == pytest.approx(np.expm1(0.02 * 0.25), rel=1e-6)
    assert regret["left_out"]["mean"] == pytest.approx(np.expm1(0.02 * 0.25), rel=0.15)


def test_a_free_batch_exponent_shows_whether_it_is_one():
    found = run(sweep(5e-4, exponent=0.5), free_batch=True)
    low, high = found.values["laws"]["curvature_weighted"]["ci95"]["g"]
    assert low < 0.5 < high < 1
    proportional = run(sweep(5e-4, exponent=0.5))
    assert proportional.values["recommended"]["regret"]["mean"] > 2 * found.values["recommended"]["regret"]["mean"]


def test_outside_the_sweep_there_is_no_regret():
    found = run(sweep(), reference={"a": 1e3 * A, "b": POWER})
    assert found.values["reference"]["regret"]["in_sample"]["outside"] == len(CELLS)
    assert found.values["reference"]["regret"]["in_sample"]["mean"] is None


def test_bad_input():
    columns = sweep()
    with pytest.raises(BadInput, match=r"3 cell\(s\)"):
        run({k: v[columns["B"] == 16.0] for k, v in columns.items()})
    with pytest.raises(BadInput, match="must vary"):
        run({**columns, "tokens": np.full(columns["B"].size, 1e9), "B": np.repeat(np.geomspace(8, 512, 9), 11)})
    with pytest.raises(BadInput, match=r"1 value\(s\) of lr"):
        run({**columns, "lr": np.full(columns["B"].size, 1e-3)})
