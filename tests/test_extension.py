"""What undecided transfers ask for is what decides them."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis import LEARNING_RATE
from harness.config import StudyConfig, compose_study
from harness.extension import ROUNDS, extension
from harness.study import investigate
from harness.sweep import flatten
from workloads.base import BadInput

AXIS = "workload.width"


def study() -> StudyConfig:
    return StudyConfig(name="made", question="?", sweep={AXIS: [], LEARNING_RATE: []}, analyses=[{"transfer": AXIS}])


def losses(points, drift, noise):
    """Rows of sweeps whose best learning rate is 2^-6 at width 16 and moves by `drift`."""
    cells = []
    for point in points:
        seed = [point["seed"], point[AXIS], round(160 + 8 * np.log2(point[LEARNING_RATE]))]
        away = np.log2(point[LEARNING_RATE]) + 6 - drift * np.log2(point[AXIS] / 16)
        loss = 2 * np.exp(0.02 * away**2 + noise * np.random.default_rng(seed).standard_normal())
        cells.append({**point, "final_loss": loss, "status": "ok", "trial": str(seed)})
    return cells


def grid(rates, seeds):
    return [
        {AXIS: width, LEARNING_RATE: 2.0**rate, "seed": seed}
        for width in (16, 32, 64, 128)
        for rate in rates
        for seed in range(seeds)
    ]


def investigated(tmp_path, points, rounds, drift, noise):
    from harness.analysis import Cell

    asked = []

    def train(points):
        asked.append(list(points))
        return [Cell(p, row) for p, row in zip(points, losses(points, drift, noise), strict=True)]

    outcome = investigate(study(), points, train, tmp_path, rounds)
    return outcome.transfers["all"], [part for part in asked if part]


def test_rates_are_added_where_the_optimum_lies_beyond_the_grid(tmp_path):
    points = grid(range(-8, -4), 3)
    undecided, _ = investigated(tmp_path, points, 0, -1.0, 0.002)
    assert undecided.verdict == "undecided"
    found, asked = investigated(tmp_path, points, ROUNDS, -1.0, 0.002)
    assert found.verdict == "does_not_transfer"
    added = asked[1]
    assert {point[AXIS] for point in added} <= {64, 128}
    assert max(point[LEARNING_RATE] for point in added) < 2.0**-8
    assert not [point for point in added if point in points]


def test_seeds_are_added_where_noise_hides_the_drift(tmp_path):
    points = grid(range(-8, -3), 2)
    undecided, _ = investigated(tmp_path, points, 0, 0.0, 0.012)
    assert undecided.verdict == "undecided"
    assert np.isfinite(undecided.seeds_factor)
    found, asked = investigated(tmp_path, points, ROUNDS, 0.0, 0.012)
    assert found.verdict == "transfers"
    assert min(point["seed"] for part in asked[1:] for point in part) == 2


def test_decided_transfers_ask_for_nothing(tmp_path):
    points = grid(range(-8, -3), 3)
    found, asked = investigated(tmp_path, points, ROUNDS, 0.0, 0.002)
    assert found.verdict == "transfers"
    assert len(asked) == 1
    assert extension(points, {"all": found}, AXIS) == []


def test_a_scale_changes_entries_of_base_and_sweep_and_other_parts_whole():
    plain = compose_study(["study=lr_width"]).study
    scaled = compose_study(["study=lr_width", "scale=gpu"]).study
    changes = plain.scales.gpu
    assert scaled.name == "lr_width_gpu"
    assert scaled.base.workload == plain.base.workload
    for part in ("base", "sweep"):
        for key, value in flatten(changes.get(part, {})).items():
            assert flatten(scaled[part])[key] == value
    with pytest.raises(BadInput, match=r"no scale 'tpu'.*gpu"):
        compose_study(["study=lr_width", "scale=tpu"])
