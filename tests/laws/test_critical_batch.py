"""The critical batch: the hyperbola, and B_crit(L) from training curves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws import Objective, fit
from harness.laws.critical_batch import CriticalBatch, min_examples
from harness.laws.fitting.solver import predict
from harness.laws.procedures.base import Settings
from harness.laws.procedures.critical_batch_curve import CriticalBatchCurve
from harness.laws.time_batch import TimeBatch
from workloads.base import BadInput

BATCH = np.geomspace(1e4, 2e6, 8)
STEP = np.geomspace(300, 1e5, 120)
TRUTH = {"N_c": 6.5e13, "a_N": 0.077, "S_c": 2100.0, "a_S": 0.76, "B_star": 2e8, "a_B": 0.21}


def curves(noise=0.0, size=1e8, seed=0):
    """Training curves of the Kaplan law at the eight batches."""
    columns = {"N": np.full(STEP.size * BATCH.size, size), "S": np.tile(STEP, 8), "B": np.repeat(BATCH, STEP.size)}
    theta = np.array([kind.internal(TRUTH[name]) for name, kind in TimeBatch.parameters.items()])
    log_loss = predict(TimeBatch(), Objective(), columns, theta[None])[0]
    log_loss = log_loss + noise * np.random.default_rng(seed).normal(size=log_loss.size)
    return {"B": columns["B"], "step": columns["S"], "loss": np.exp(log_loss)}


def run(columns, **options):
    return CriticalBatchCurve(**options).run(columns, Settings())


@pytest.fixture(scope="module")
def noisy():
    return run(curves(0.005))


def test_the_law_is_the_hyperbola_of_steps_and_examples():
    theta = np.log([[2e4, 3e5]])
    steps = np.exp(predict(CriticalBatch(), Objective(), {"B": BATCH}, theta)[0])
    examples = steps * BATCH
    np.testing.assert_allclose((steps / 2e4 - 1) * (examples / (2e4 * 3e5) - 1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(np.exp(predict(CriticalBatch(), Objective(), {"B": np.array([3e5])}, theta)), 4e4)


def test_least_examples_and_their_interval():
    noise = np.exp(0.01 * np.array([0.3, -1.1, 0.8, 0.5, -0.9, 0.4, 1.0, -0.7]))
    fitted = fit(CriticalBatch(), {"B": BATCH}, 2e4 * (1 + 3e5 / BATCH) * noise, bootstrap=200)
    value, (low, high) = min_examples(fitted)
    assert value == pytest.approx(fitted.params["S_min"] * fitted.params["B_crit"])
    assert low < 6e9 < high
    assert high / low < 1.2


def test_batches_far_above_the_critical_one_do_not_tell_it():
    steps = 2e4 * (1 + 3.0 / BATCH) * np.exp(1e-3 * np.array([0.3, -1.1, 0.8, 0.5, -0.9, 0.4, 1.0, -0.7]))
    assert "B_crit" in fit(CriticalBatch(), {"B": BATCH}, steps, bootstrap=200).identifiable.loose


def test_noise_free_curves_give_the_law_back():
    found = run(curves())
    assert found.values["B_star"]["value"] == pytest.approx(2e8, rel=1e-3)
    assert found.values["a_B"]["value"] == pytest.approx(0.21, rel=1e-4)
    for level in found.values["levels"]:
        assert level["B_crit"] == pytest.approx(2e8 / level["loss"] ** (1 / 0.21), rel=1e-3)
        time = level["loss"] - (TRUTH["N_c"] / 1e8) ** TRUTH["a_N"]
        assert level["S_min"] == pytest.approx(TRUTH["S_c"] * time ** (-1 / TRUTH["a_S"]), rel=1e-3)
        assert level["E_min"] == pytest.approx(level["S_min"] * level["B_crit"])
    assert not found.warnings


def test_noisy_curves_cover_it(noisy):
    json.dumps(noisy.values, allow_nan=False)
    for name, truth in {"B_star": 2e8, "a_B": 0.21}.items():
        low, high = noisy.values[name]["ci95"]
        assert low < truth < high
        assert high / low < 4
    covered = [r["ci95"][0] < 2e8 / r["loss"] ** (1 / 0.21) < r["ci95"][1] for r in noisy.values["levels"]]
    assert np.mean(covered) >= 0.75


def test_levels_are_never_extrapolated():
    columns = curves()
    lowest = columns["loss"].min()
    levels = (6.5, 6.0, 5.5, 5.2, 4.8, 4.4, 4.0, 3.9)
    short = ~((columns["B"] == BATCH[0]) & (columns["loss"] < 5))
    found = run({k: v[short] for k, v in columns.items()}, levels=(*levels, lowest * 0.99))
    assert [r["loss"] for r in found.values["levels"]] == list(levels)
    assert [r["curves"] for r in found.values["levels"]] == [8, 8, 8, 8, 7, 7, 7, 7]
    assert any("fewer than 3 batch sizes" in w for w in found.warnings)


def test_curves_of_two_sizes_share_one_critical_batch():
    small, large = curves(), curves(size=1e9)
    columns = {k: np.concatenate([small[k], large[k]]) for k in small}
    columns["N"] = np.repeat([1e8, 1e9], small["B"].size)
    found = run(columns, count=4)
    assert {r["N"] for r in found.values["levels"]} == {1e8, 1e9}
    assert found.values["a_B"]["value"] == pytest.approx(0.21, rel=1e-3)


def test_diverged_rows_and_step_zero_are_counted():
    columns = curves()
    columns["loss"][3] = np.nan
    columns["step"][0] = 0.0
    assert run(columns).dropped == {"no finite loss": 1, "step 0": 1}


def test_bad_tables_are_refused():
    columns = curves()
    two = np.isin(columns["B"], BATCH[:2])
    with pytest.raises(BadInput, match="at least 3"):
        run({k: v[two] for k, v in columns.items()})
    with pytest.raises(BadInput, match="more than one B"):
        run({**columns, "curve": np.full(columns["B"].size, "a")})
    with pytest.raises(BadInput, match=r"0 level\(s\)"):
        run(columns, levels=(1.0, 0.9, 0.8))
    with pytest.raises(BadInput, match="count=2"):
        run(columns, count=2)
    above = {**columns, "B": columns["B"] * 1e9}
    with pytest.raises(BadInput, match="both sides"):
        run({**above, "loss": np.tile(columns["loss"][-STEP.size :], 8) * (1 + 1e-6 * np.arange(8).repeat(STEP.size))})
