"""Learning-rate sensitivity and the onset of instabilities, on tables with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.transfer.onset import fit_onset, verify_onset
from harness.transfer.sensitivity import learning_rate_sensitivity
from workloads.base import BadInput

RATES = 10.0 ** np.arange(-4, 0, 0.5)
WIDTHS = np.array([32.0, 64, 128, 256])
INIT = 6.0
# intervention -> excess loss per squared decade from the best learning rate, and its growth per doubling of the width
INTERVENTIONS = {"none": (0.30, 0.10), "qk_norm": (0.12, 0.0), "bystander": (0.30, 0.10)}


def table(rng, noise=0.01, seeds=4, interventions=INTERVENTIONS):
    rows = []
    for name, (curvature, growth) in interventions.items():
        for z, width in enumerate(WIDTHS):
            for seed in range(seeds):
                d = np.log10(RATES) + 2.5
                loss = (
                    3 + (curvature + growth * z) * d**2 * np.exp(noise * rng.normal()) + noise * rng.normal(size=d.size)
                )
                loss = np.where(loss > 8, np.nan, loss)
                rows += [(width, rate, value, INIT, seed, name) for rate, value in zip(RATES, loss, strict=True)]
    keys = ("width", "learning_rate", "loss", "init_loss", "seed", "intervention")
    return dict(zip(keys, map(np.array, zip(*rows, strict=True)), strict=True))


def truth(curvature):
    excess = curvature * (np.log10(RATES) + 2.5) ** 2
    return np.mean(np.minimum(excess, INIT - 3)) - excess.min()


def test_sensitivity_is_the_papers_expectation():
    """By hand: losses 4, 3, diverged, 9 with 6 at initialisation: ((4-3) + 0 + (6-3) + (6-3)) / 4."""
    found = learning_rate_sensitivity([8] * 4, [1e-3, 1e-2, 1e-1, 1], [4, 3, np.nan, 9], [6] * 4)
    assert found.mean.tolist() == [[7 / 4]]
    assert np.isnan(found.intervals(0.95)).all()
    assert found.to_json()["interventions"]["none"]["sensitivity_ci95"] == [[None, None]]


def test_sensitivity_by_width_and_intervention_with_intervals():
    found = learning_rate_sensitivity(**table(np.random.default_rng(0)))
    for i, name in enumerate(found.interventions):
        curvature, growth = INTERVENTIONS[name]
        expected = np.array([truth(curvature + growth * z) for z in range(4)])
        np.testing.assert_allclose(found.mean[i], expected, rtol=0.05)
    assert found.growth("none").interval(0.95)[0] > 0.05
    low, high = found.growth("qk_norm").interval(0.95)
    assert low < 0 < high


def test_intervals_cover():
    rng, hits = np.random.default_rng(1), []
    expected = np.mean([learning_rate_sensitivity(**table(rng, 0.05, 100)).mean for _ in range(3)], axis=0)
    for _ in range(40):
        low, high = np.moveaxis(learning_rate_sensitivity(**table(rng, 0.05)).intervals(0.95), 2, 0)
        hits.append((low <= expected) & (expected <= high))
    assert 0.91 <= np.mean(hits) <= 0.98


def test_an_intervention_that_helps_is_supported_and_one_that_does_not_is_refuted():
    found = learning_rate_sensitivity(**table(np.random.default_rng(2)))
    assert found.compare("qk_norm", "none").verdict == "supported"
    expected = truth(0.12) / np.mean([truth(0.3 + 0.1 * z) for z in range(4)])
    assert found.compare("qk_norm", "none").ratio == pytest.approx(expected, abs=0.02)
    assert found.compare("bystander", "none").verdict == "refuted"
    assert found.compare("none", "qk_norm").verdict == "refuted"
    noisy = learning_rate_sensitivity(**table(np.random.default_rng(3), noise=1.0, seeds=2))
    assert noisy.compare("bystander", "none").verdict == "undecided"
    one = learning_rate_sensitivity(**table(np.random.default_rng(3), seeds=1)).compare("qk_norm", "none")
    assert (one.verdict, one.to_json()["ci95"]) == ("undecided", [None, None])


# curvature of an intervention against 0.2 without it -> bounds on the share of (supported, refuted) verdicts
CALIBRATION = {0.20: ((0.0, 0.05), (0.8, 1.0)), 0.18: ((0.0, 1.0), (0.0, 0.08)), 0.15: ((0.8, 1.0), (0.0, 0.02))}


@pytest.mark.parametrize("curvature", CALIBRATION)
def test_verdicts_on_interventions_are_calibrated_and_have_power(curvature):
    rng, pair = np.random.default_rng(4), {"none": (0.2, 0.0), "with": (curvature, 0.0)}
    found = [
        learning_rate_sensitivity(**table(rng, 0.025, interventions=pair)).compare("with", "none") for _ in range(150)
    ]
    for verdict, (low, high) in zip(("supported", "refuted"), CALIBRATION[curvature], strict=True):
        assert low <= np.mean([one.verdict == verdict for one in found]) <= high


def broken(change):
    columns = table(np.random.default_rng(0))
    change(columns)
    return columns


def drop(columns):
    for key in columns:
        columns[key] = np.delete(columns[key], 3)


def repeat(columns):
    for key in columns:
        columns[key] = np.append(columns[key], columns[key][3])


def uneven(columns):
    columns["learning_rate"] = np.where(columns["learning_rate"] > 0.1, 0.9, columns["learning_rate"])


def no_init(columns):
    columns["init_loss"] = np.full(columns["loss"].size, np.nan)


BAD = {drop: "has no run at", repeat: "has several runs at", uneven: "not evenly spaced", no_init: "untrained model"}


@pytest.mark.parametrize("change", BAD)
def test_tables_without_a_common_grid_are_refused(change):
    with pytest.raises(BadInput, match=BAD[change]):
        learning_rate_sensitivity(**broken(change))


def test_unknown_interventions_and_unshared_seeds():
    columns = table(np.random.default_rng(0))
    with pytest.raises(BadInput, match="Did you mean 'qk_norm'"):
        learning_rate_sensitivity(**columns).compare("qknorm", "none")
    columns["seed"] = columns["seed"] + 10 * (columns["intervention"] == "qk_norm")
    with pytest.raises(BadInput, match="same seeds"):
        learning_rate_sensitivity(**columns).compare("qk_norm", "none")


def test_json_round_trips():
    entry = json.loads(
        json.dumps(learning_rate_sensitivity(**table(np.random.default_rng(0))).to_json(), allow_nan=False)
    )
    assert np.shape(entry["interventions"]["qk_norm"]["sensitivity_ci95"]) == (4, 2)


LOGIT, SIZE_EXPONENT, RATE_EXPONENT, THRESHOLD = 2.0, 0.6, 1.1, 1e4
SMALL = np.array([32.0, 64, 128])


def logits(rng, sizes, rates, noise=0.2, curvature=0.0):
    """Largest attention logits over a grid, 2 at size 32 and rate 1e-3; `curvature` bends the law upwards in the rate."""
    size, rate = (a.ravel() for a in np.meshgrid(sizes, rates, indexing="ij"))
    z, x = np.log2(size / 32), np.log2(rate / 1e-3)
    log2 = np.log2(LOGIT) + SIZE_EXPONENT * z + RATE_EXPONENT * x + curvature * np.clip(z - 2, 0, None) * x
    return {"size": size, "learning_rate": rate, "quantity": 2 ** (log2 + noise * rng.normal(size=size.size))}


def true_onset(size):
    return 1e-3 * 2 ** ((np.log2(THRESHOLD / LOGIT) - SIZE_EXPONENT * np.log2(size / 32)) / RATE_EXPONENT)


def test_onset_is_extrapolated_with_an_interval_that_covers_and_is_verified():
    rng, covered, widths = np.random.default_rng(0), [], []
    for _ in range(150):
        fit = fit_onset(**logits(rng, SMALL, 10.0 ** np.arange(-3, 0.5, 0.5)))
        onset = fit.learning_rate(512)
        # a new run whose own noise moves its onset
        covered.append(onset.low <= true_onset(512) * 2 ** (0.2 * rng.normal() / RATE_EXPONENT) <= onset.high)
        widths.append(onset.high / onset.low)
    assert 0.91 <= np.mean(covered) <= 0.99
    assert np.median(widths) < 3
    later = logits(rng, [512], true_onset(512) * 2.0 ** np.arange(-2.5, 3))
    seen = verify_onset(onset, later["learning_rate"], later["quantity"])
    assert seen.verdict == "supported", seen.reason
    assert seen.below < true_onset(512) < seen.above
    size = fit.size(true_onset(512))
    assert size.low < 512 < size.high
    assert fit.size_exponent == pytest.approx(SIZE_EXPONENT, abs=0.15)


def test_a_planted_break_beyond_the_fitted_sizes_is_refuted():
    rng = np.random.default_rng(1)
    rates = 10.0 ** np.arange(-3, 0.5, 0.5)
    onset = fit_onset(**logits(rng, SMALL, rates, curvature=0.4)).learning_rate(512)
    later = logits(rng, [512], onset.value * 2.0 ** np.arange(-5, 3), curvature=0.4)
    assert verify_onset(onset, later["learning_rate"], later["quantity"]).verdict == "refuted"


def test_runs_beyond_the_threshold_are_censored_not_fitted():
    """Past the onset logits explode; the exponents must not follow them, nor be biased by leaving those runs out."""
    rng, exponents, dropped = np.random.default_rng(2), [], []
    for _ in range(60):
        columns = logits(rng, [32, 64, 128, 256], 10.0 ** np.arange(-1, 1.1, 0.25), noise=1.5)
        beyond = columns["quantity"] >= THRESHOLD
        explode = np.where(beyond & (rng.random(beyond.size) < 0.5), np.nan, columns["quantity"] * 1e6**beyond)
        exponents.append(fit_onset(**columns | {"quantity": explode}).rate_exponent)
        keep = {k: v[~beyond] for k, v in columns.items()}
        dropped.append(fit_onset(**keep).rate_exponent)
    assert np.mean(exponents) == pytest.approx(RATE_EXPONENT, abs=0.08)
    assert np.mean(dropped) < RATE_EXPONENT - 0.15


def test_what_does_not_grow_has_no_onset():
    rng = np.random.default_rng(3)
    columns = logits(rng, SMALL, 10.0 ** np.arange(-3, 0.5, 0.5))
    columns["quantity"] = np.exp(0.1 * rng.normal(size=columns["size"].size))
    onset = fit_onset(**columns).learning_rate(512)
    assert (onset.low, onset.high) == (0.0, np.inf)
    seen = verify_onset(onset, [0.1, 0.2], [1.0, 2e4])
    assert seen.verdict == "undecided"
    assert json.loads(json.dumps(seen.to_json(), allow_nan=False))["predicted"]["high"] == "inf"


@pytest.mark.parametrize(
    ("rates", "values", "bracket"),
    [
        ([1, 2, 4, 8], [1, 1, 2e4, 2e4], (2, 4)),
        ([1, 2, 4, 8], [1, 2e4, 1, 2e4], (1, 8)),
        ([1, 2, 2, 4], [1, 1, np.nan, 2e4], (1, 4)),
        ([1, 2], [1, 1], (2, np.inf)),
        ([1, 2], [2e4, 2e4], (0, 1)),
    ],
)
def test_the_bracket_holds_every_run(rates, values, bracket):
    onset = fit_onset(**logits(np.random.default_rng(4), SMALL, 10.0 ** np.arange(-3, 0.5, 0.5))).learning_rate(512)
    seen = verify_onset(onset, rates, values)
    assert (seen.below, seen.above) == bracket


def test_a_bracket_or_interval_too_wide_decides_nothing():
    onset = fit_onset(**logits(np.random.default_rng(4), SMALL, 10.0 ** np.arange(-3, 0.5, 0.5))).learning_rate(512)
    wide = verify_onset(onset, [onset.value / 10, onset.value * 10], [1.0, 2e4])
    assert (wide.verdict, "run values between" in wide.reason) == ("undecided", True)


def test_onset_needs_runs_below_the_threshold():
    columns = logits(np.random.default_rng(4), SMALL, [1e-3])
    with pytest.raises(BadInput, match="2 learning rates"):
        fit_onset(**columns)
    columns = logits(np.random.default_rng(4), SMALL, [1e-3, 1e-2])
    with pytest.raises(BadInput, match=r"0 runs stay below the threshold 0\.01"):
        fit_onset(**columns, threshold=0.01)
    with pytest.raises(BadInput, match="magnitude"):
        fit_onset(**columns | {"quantity": -columns["quantity"]})
    with pytest.raises(BadInput, match="threshold="):
        fit_onset(**columns, threshold=0.0)


def test_onset_json_round_trips():
    fit = fit_onset(**logits(np.random.default_rng(4), SMALL, 10.0 ** np.arange(-3, 0.5, 0.5)))
    entry = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    low, high = entry["rate_exponent_ci95"]
    assert low < RATE_EXPONENT < high
    value, below, above = fit.predict(64, 1e-2)
    assert below < value < above
