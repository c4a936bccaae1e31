"""The lower envelope of training curves: exponents known from the law that the curves follow, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.procedures.base import Settings
from harness.laws.procedures.envelope import Envelope
from workloads.base import BadInput

E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37
EXPONENT = BETA / (ALPHA + BETA)


def curves(sizes=8, noise=0.0, points=60, seed=0, longest=200.0):
    """Runs of `sizes` sizes, observed from 1 to `longest` tokens per parameter."""
    rng = np.random.default_rng(seed)
    size = np.repeat(np.geomspace(3e7, 3e9, sizes) * np.exp(rng.uniform(-0.05, 0.05, sizes)), points)
    data = size * np.tile(np.geomspace(1, longest, points), sizes)
    loss = E + A * size**-ALPHA + B * data**-BETA
    return {"N": size, "D": data, "loss": loss * np.exp(noise * rng.normal(size=size.size))}


def run(columns, **options):
    return Envelope(**options).run(columns, Settings())


def test_exact_curves_give_the_exponents_and_the_optima():
    found = run(curves())
    for quantity, truth in {"N": EXPONENT, "D": 1 - EXPONENT}.items():
        low, high = found.values[quantity]["ci95"]
        assert found.values[quantity]["exponent"] == pytest.approx(truth, abs=0.003)
        assert low < truth < high
        assert high - low < 0.02
    assert len(found.values["crossings"]) == 7
    scale = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    for crossing in found.values["crossings"]:
        assert crossing["N"] == pytest.approx(scale * (crossing["C"] / 6) ** EXPONENT, rel=0.02)
        assert crossing["C"] == pytest.approx(6 * crossing["N"] * crossing["D"], rel=1e-9)


def test_a_line_through_all_budgets_is_flattened_by_the_stair():
    found = run(curves(sizes=6)).values["N"]
    assert found["stair_exponent"] < EXPONENT - 0.005
    assert found["exponent"] == pytest.approx(EXPONENT, abs=0.003)


def test_intervals_hold_the_truth_as_often_as_they_say():
    covered = 0
    for seed in range(40):
        low, high = run(curves(noise=0.002, seed=seed), smooth=5).values["N"]["ci95"]
        covered += low <= EXPONENT <= high
    assert covered >= 34, "binomial(40, .95) is lower in one of 200 such tests"


def test_seeds_of_one_size_are_curves_of_their_own():
    one, other = curves(noise=0.001, seed=1), curves(noise=0.001, seed=1)
    label = np.repeat(np.arange(8), 60)
    both = {name: np.concatenate([one[name], other[name]]) for name in one}
    with pytest.raises(BadInput, match=r"repeats D.*columns\.curve"):
        run(both)
    named = run({**both, "curve": np.concatenate([label, label + 100])}, smooth=5)
    assert named.values["curves"] == 16
    assert named.values["N"]["exponent"] == pytest.approx(EXPONENT, abs=0.03)


def test_where_a_curve_ends_nothing_crosses():
    """Each larger size is worse wherever both train, so no size takes over; the winner changes only as curves end."""
    size = np.repeat(np.geomspace(1e7, 1e9, 6), 40)
    compute = np.tile(np.geomspace(1e17, 1e18, 40), 6) * np.repeat(np.geomspace(1, 1e3, 6), 40)
    loss = 3.0 + 0.1 * np.log(size / 1e7) - 0.01 * np.log(compute / 1e17)
    with pytest.raises(BadInput, match=r"the curves of 0 pair\(s\) of sizes cross"):
        run({"N": size, "D": compute / 6 / size, "loss": loss})


def test_short_curves_are_dropped_and_counted():
    columns = {name: np.append(column, column[-1] * 2) for name, column in curves().items()}
    found = run(columns)
    assert found.dropped == {"a curve of fewer points than two or the smoothing window": 1}
    assert found.n == 480


def test_final_losses_alone_are_refused():
    columns = {name: column[59::60] for name, column in curves().items()}
    with pytest.raises(BadInput, match="use isoflop or law=chinchilla"):
        run(columns)


def test_one_run_has_one_size():
    columns = curves()
    with pytest.raises(BadInput, match="several N"):
        run({**columns, "curve": np.repeat(np.arange(4), 120)})


def test_json_tables_and_plots_are_plain():
    found = run(curves())
    json.dumps(found.values, allow_nan=False)
    assert [plot.name for plot in found.plots] == ["envelope", "optimum"]
    assert all(np.isfinite(layer.y).all() for plot in found.plots for layer in plot.layers)
    assert all(len(row) == len(table.header) for table in found.tables for row in table.rows)


@pytest.mark.parametrize("bad", [{"levels": 3}, {"smooth": 0}, {"flops_per": 0.0}])
def test_bad_options(bad):
    with pytest.raises(BadInput):
        Envelope(**bad)
