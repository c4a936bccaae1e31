"""Learning-rate transfer on simulated sweeps with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.transfer import learning_rate_transfer
from harness.transfer.basin import Trials, mean_curve
from tests.transfer.sweeps import OCTAVES, WIDTHS, simulate
from workloads.base import BadInput


def check(sweep, base_scale=16):
    return learning_rate_transfer(**sweep.columns(), base_scale=base_scale)


def simulated(count, drift, **options):
    rng = np.random.default_rng(11)
    sweeps = [simulate(rng, drift, **options) for _ in range(count)]
    return sweeps, [check(sweep) for sweep in sweeps]


def decided(results, verdict):
    return np.mean([result.verdict == verdict for result in results])


def held(sweep, result):
    """Whether each width's interval holds its best learning rate, (W,)."""
    low, high = np.log2(result.best_lr_ci95).T
    return (low <= sweep.best) & (sweep.best <= high)


VERDICTS = {0.0: ("transfers", "does_not_transfer"), -0.5: ("does_not_transfer", "transfers")}


@pytest.mark.parametrize("drift", VERDICTS)
def test_coverage_and_power_at_the_default_budget(drift):
    """6 widths x 6 learning rates x 2 seeds."""
    sweeps, results = simulated(100, drift)
    right, wrong = VERDICTS[drift]
    assert decided(results, right) >= 0.8
    assert decided(results, wrong) <= 0.05
    covered = [low <= drift <= high for low, high in (r.drift.interval(0.95) for r in results)]
    assert 0.90 <= np.mean(covered) <= 1.0
    assert 0.92 <= np.mean([held(*pair) for pair in zip(sweeps, results, strict=True)]) <= 0.99


def test_drift_at_the_bound_is_not_called_transfer():
    assert decided(simulated(60, -0.15)[1], "transfers") <= 0.1


def test_one_seed_gets_residual_based_intervals():
    _, results = simulated(60, 0.0, seeds=1)
    assert decided(results, "transfers") >= 0.8
    assert np.mean([low <= 0 <= high for low, high in (r.drift.interval(0.95) for r in results)]) >= 0.88
    assert all(np.isnan(r.noise.seed) and not r.regret.cross_fitted for r in results)
    assert all(np.isnan(r.loss_at_best_stderr).all() for r in results)


def test_lack_of_fit_between_widths_widens_the_drift_interval():
    width = [np.mean([np.ptp(r.drift.interval(0.95)) for r in simulated(20, 0.0, wobble=w)[1]]) for w in (0.0, 0.2)]
    assert width[1] > 2 * width[0]


def test_loss_at_best_is_unbiased_with_the_stated_error():
    _, results = simulated(60, 0.0, sd=0.006)
    error = np.array([np.log(r.loss_at_best) - 1.0 for r in results])
    assert abs(error.mean()) < 0.0015
    paired = np.array([r.loss_at_best_stderr_paired / r.loss_at_best for r in results])
    across = error - error.mean(1, keepdims=True)
    assert 0.7 < np.sqrt(np.mean(across**2) * 6 / 5 / np.mean(paired**2)) < 1.2
    assert np.mean([r.noise.seed**2 for r in results]) > np.mean([r.noise.paired**2 for r in results])


def test_regret_is_what_the_base_learning_rate_costs():
    sweeps, results = simulated(30, -0.5, sd=0.003, cliff=False)
    value = np.array([r.regret.value for r in results])
    assert np.all(value[:, 0] == 0)
    distance = sweeps[0].best[0] - sweeps[0].best[-1]
    assert 0.02 * distance**2 < np.nanmedian(value[:, -1]) < 0.15 * distance**2
    assert np.all(np.diff(np.nanmedian(value, axis=0)) > 0)
    assert all(r.regret.ci95[-1, 0] > 0 for r in results if np.isfinite(r.regret.value[-1]))
    null = np.array([r.regret.value for r in simulated(30, 0.0)[1]])
    assert abs(np.nanmedian(null)) < 5e-4


def test_regret_intervals_cover_the_true_cost():
    fine, hits = np.linspace(-9, -4, 501), []
    for i in range(40):
        options = {"drift": -0.25, "cliff": False}
        noisy = simulate(np.random.default_rng(i), sd=0.006, **options)
        exact = simulate(np.random.default_rng(i), sd=1e-9, seeds=1, lrs=fine, **options)
        curves = np.log(exact.loss).reshape(WIDTHS.size, fine.size)
        cost = np.array([np.interp(noisy.best[0], fine, curve) - curve.min() for curve in curves])
        low, high = np.log1p(check(noisy).regret.ci95).T
        hits.append((low <= cost + 1e-6) & (cost - 1e-6 <= high))
    assert 0.90 <= np.mean(hits) <= 0.99


def test_regret_of_a_diverging_base_rate_is_infinite():
    rng = np.random.default_rng(0)
    sweep = simulate(rng, 0.0, sd=0.003, cliff=False, center=-6.7)
    steep = sweep.scale == 96
    # at the largest width the best learning rate is 2 octaves lower and everything from the base rate's up diverges
    columns = sweep.columns()
    columns["learning_rate"] = np.where(steep, sweep.learning_rate / 4, sweep.learning_rate)
    columns["diverged"] = steep & (columns["learning_rate"] > 2.0**-7.5)
    columns["loss"] = np.where(columns["diverged"], np.nan, columns["loss"])
    result = learning_rate_transfer(**columns, base_scale=16)
    assert result.regret.value[-1] == np.inf
    assert result.to_json()["base_lr_regret"][-1] == "inf"


def test_line_extrapolates_the_best_learning_rate():
    sweeps, results = simulated(20, -0.5, sd=0.003)
    for sweep, result in zip(sweeps, results, strict=True):
        assert np.log2(result.best_lr_at(128)) == pytest.approx(sweep.best[-1] - 0.5 * np.log2(128 / 96), abs=0.25)


def test_json_has_the_documented_keys_and_round_trips():
    entry = json.loads(json.dumps(check(simulate(np.random.default_rng(0), 0.0)).to_json(), allow_nan=False))
    documented = {"widths", "best_lr", "best_lr_ci95", "drift_exponent", "drift_ci95", "base_lr_regret", "verdict"}
    assert documented | {"drift_ci90", "reason", "loss_at_best", "notes"} <= set(entry)
    assert np.shape(entry["best_lr_ci95"]) == (6, 2)


EDGES = {
    "lowest": (OCTAVES[3:], "extend the grid downwards"),
    "highest": (OCTAVES[:3], "extend it upwards"),
    "coarse": (np.array([-12.0, -6.0, 0.0]), "space the grid by one octave"),
}


@pytest.mark.parametrize("case", EDGES)
def test_an_optimum_at_the_edge_is_no_optimum(case):
    lrs, words = EDGES[case]
    result = check(simulate(np.random.default_rng(0), 0.0, lrs=lrs, cliff=False, center=-6.2))
    assert result.verdict == "undecided"
    assert words in result.reason
    assert "scale 16" in result.reason
    assert result.drift is None
    assert result.to_json()["best_lr"] == [None] * 6
    with pytest.raises(BadInput, match="no best learning rate"):
        result.best_lr_at(128)


@pytest.mark.parametrize(("width", "verdict"), [(96, "undecided"), (16, "undecided"), (32, "transfers")])
def test_only_an_extreme_width_without_an_optimum_blocks_the_verdict(width, verdict):
    sweep = simulate(np.random.default_rng(3), 0.0, sd=0.003, cliff=False, center=-6.2)
    keep = (sweep.scale != width) | (sweep.learning_rate > 2.0**-6.5)
    result = learning_rate_transfer(**sweep.where(keep), base_scale=24)
    assert list(result.notes) == [float(width)]
    assert result.verdict == verdict
    assert np.isnan(result.best_lr[width == WIDTHS]).all()


def test_divergence_right_above_the_best_asks_for_a_finer_grid():
    sweep = simulate(np.random.default_rng(3), 0.0, sd=0.003, cliff=False, center=-6.2)
    columns = sweep.columns()
    columns["diverged"] = sweep.learning_rate > 2.0**-5.5
    result = learning_rate_transfer(**columns, base_scale=16)
    assert "refine the grid between 2^-6 and 2^-5" in result.reason


def test_a_diverged_seed_censors_its_learning_rate_and_its_loss_is_never_read():
    sweep = simulate(np.random.default_rng(3), 0.0, sd=0.003, cliff=False, center=-6.8)
    columns = sweep.columns()
    high = (sweep.learning_rate == 2.0**-4) & (sweep.seed == 0)
    answers = []
    for value in (np.nan, 1e9):
        columns["diverged"], columns["loss"] = high, np.where(high, value, sweep.loss)
        answers.append(learning_rate_transfer(**columns, base_scale=16).best_lr)
    dropped = learning_rate_transfer(**sweep.where(sweep.learning_rate != 2.0**-4), base_scale=16).best_lr
    np.testing.assert_array_equal(*answers)
    np.testing.assert_allclose(answers[0], dropped)


def test_flat_noise_is_not_an_optimum():
    rng = np.random.default_rng(0)
    sweep = simulate(rng, 0.0)
    for _ in range(10):
        noise = np.exp(0.01 * rng.normal(size=sweep.loss.size))
        columns = {**sweep.columns(), "loss": noise, "diverged": np.zeros(noise.size, bool)}
        assert learning_rate_transfer(**columns, base_scale=16).verdict == "undecided"


def test_exact_parabolas_are_recovered():
    scale, x, seed = (a.ravel() for a in np.meshgrid(WIDTHS, OCTAVES, [0, 1], indexing="ij"))
    best = -6.3 - 0.4 * np.log2(scale / 16)
    loss = np.exp(1 + 0.03 * (x - best) ** 2)
    result = learning_rate_transfer(scale, 2.0**x, loss, seed, np.zeros(x.size, bool), base_scale=16)
    np.testing.assert_allclose(np.log2(result.best_lr), -6.3 - 0.4 * np.log2(WIDTHS / 16), atol=1e-6)
    assert result.drift.exponent == pytest.approx(-0.4, abs=1e-6)
    assert result.verdict == "does_not_transfer"
    np.testing.assert_allclose(result.loss_at_best, np.e, rtol=1e-6)
    assert result.regret.value[3] == pytest.approx(np.expm1(0.03 * (0.4 * np.log2(3)) ** 2), rel=1e-3)


def test_two_widths_are_undecided():
    sweep = simulate(np.random.default_rng(0), 0.0, widths=WIDTHS[:2])
    assert "add scales" in check(sweep).reason


def test_order_of_trials_units_and_names_of_seeds_do_not_matter():
    sweep = simulate(np.random.default_rng(5), -0.3)
    order = np.random.default_rng(1).permutation(sweep.loss.size)
    columns = sweep.where(order)
    columns["loss"], columns["seed"] = 100 * columns["loss"], np.array(["b", "a"])[columns["seed"]]
    one, other = check(sweep), learning_rate_transfer(**columns, base_scale=16)
    np.testing.assert_allclose(one.best_lr, other.best_lr)
    assert one.drift.exponent == pytest.approx(other.drift.exponent)
    np.testing.assert_allclose(100 * one.loss_at_best, other.loss_at_best)


def test_missing_trials_do_not_shift_the_mean_curve_by_their_seed():
    x, seed = (a.ravel() for a in np.meshgrid(np.arange(4.0), [0, 1], indexing="ij"))
    y = x**2 + np.where(seed == 1, 10.0, 0.0)
    keep = np.arange(8) != 3
    _, mean = mean_curve(Trials(x, y, seed, np.zeros(8, bool)).where(keep))
    np.testing.assert_allclose(np.diff(mean), np.diff(np.arange(4.0) ** 2), atol=1e-9)


def test_seeds_that_share_no_learning_rate_are_averaged_as_they_are():
    x, seed = np.array([0.0, 1, 3, 0, 1, 3, 2, 2]), np.array([0, 0, 0, 1, 1, 1, 8, 9])
    y = (x - 1) ** 2 + 0.01 * seed
    _, mean = mean_curve(Trials(x, y, seed, np.zeros(8, bool)))
    np.testing.assert_allclose(mean, [1.005, 0.005, 1.085, 4.005])


BAD = {
    "lengths": (lambda c: c | {"loss": c["loss"][:3]}, "one entry a trial"),
    "nan loss": (lambda c: c | {"loss": c["loss"] * np.nan}, "mark trials"),
    "negative lr": (lambda c: c | {"learning_rate": -c["learning_rate"]}, "positive"),
    "base": (lambda c: c | {"scale": c["scale"] + 1}, "base_scale=16 has no trials"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    spoil, words = BAD[case]
    columns = spoil(simulate(np.random.default_rng(0), 0.0, cliff=False).columns())
    with pytest.raises(BadInput, match=words):
        learning_rate_transfer(**columns, base_scale=16)
