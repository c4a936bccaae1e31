"""Best learning rate and loss by width."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from harness.laws.procedures.base import Settings
from harness.laws.procedures.width import Width, parabola, resolve
from tests.laws.rows.row import grid
from workloads.base import BadInput

SETTINGS = Settings(bootstrap=200)
TABLE = grid(width=np.array([16.0, 32, 64, 128]), lr=2.0 ** np.arange(-9, -3), seed=np.arange(3.0))


def best(width):
    return 0.02 * (width / 16) ** -0.5


def floor(width):
    return 1.5 + 4 * width**-0.5


def loss(table, seed=0, noise=0.002, at=best):
    bowl = 0.02 * np.log(table["lr"] / at(table["width"])) ** 2
    random = noise * np.random.default_rng(seed).normal(size=bowl.size)
    return floor(table["width"]) * np.exp(bowl + 0.004 * (table["seed"] - 1) + random)


@pytest.fixture(scope="module")
def found():
    return Width().run({**TABLE, "loss": loss(TABLE, seed=2)}, SETTINGS)


def test_rates_losses_and_the_drift_cover_their_truth(found):
    values = json.loads(json.dumps(found.values, allow_nan=False))
    hits = []
    for row in values["widths"]:
        hits += [row["lr_ci95"][0] < best(row["width"]) < row["lr_ci95"][1]]
        hits += [row["loss_ci95"][0] < floor(row["width"]) < row["loss_ci95"][1]]
    assert np.mean(hits) >= 0.75
    low, high = values["lr_exponent_ci95"]
    assert low < -0.5 < high
    assert high - low < 0.15
    assert values["loss"]["E"] == pytest.approx(1.5, abs=0.1)


def test_local_intervals_cover_at_their_level():
    log_lr, seeds = np.log(np.repeat(2.0 ** np.arange(-9, -3), 3)), np.tile(np.arange(3.0), 6)
    hits = []
    for draw in range(200):
        table = {"lr": np.exp(log_lr), "seed": seeds}
        log_loss = {w: np.log(loss({**table, "width": np.full(18, w)}, [draw, int(w)])) for w in (16.0, 64.0)}
        optima, dof = resolve({w: parabola(log_lr, y, seeds) for w, y in log_loss.items()}, {})
        half = stats.t.ppf(0.975, dof)
        hits += [abs(o.log_lr - np.log(best(w))) < half * o.log_lr_stderr for w, o in optima.items()]
    assert 0.92 < np.mean(hits) < 0.98


def test_a_width_at_the_edge_is_left_out_by_name():
    def away(width):
        return np.where(width == 128, 1e-4, best(width))

    result = Width().run({**TABLE, "loss": loss(TABLE, at=away)}, SETTINGS)
    assert [row["width"] for row in result.values["widths"]] == [16, 32, 64]
    assert "edge" in result.values["left_out"]["128"]
    assert any("width 128 left out" in w for w in result.warnings)
    assert sum(result.dropped.values()) == 18
    assert result.values["loss_law"] == "power_law"


def test_all_at_the_edge_is_no_estimate():
    with pytest.raises(BadInput, match="widen it"):
        Width().run({**TABLE, "loss": loss(TABLE, at=lambda w: 1e-4)}, SETTINGS)


def test_noise_that_hides_the_basins_is_no_estimate():
    with pytest.raises(BadInput, match=r"noise hides|edge"):
        Width().run({**TABLE, "loss": loss(TABLE, noise=0.5)}, SETTINGS)


def test_exact_parabolas_have_no_error():
    one = grid(width=np.array([16.0, 32, 64]), lr=np.array([0.005, 0.01, 0.03]), seed=np.zeros(1))
    with pytest.raises(BadInput, match="add rates or seeds"):
        Width().run({**one, "loss": loss(one, at=lambda w: 0.012)}, SETTINGS)
