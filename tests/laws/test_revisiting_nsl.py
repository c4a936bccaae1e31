"""The learning curves of Alabdulmohsin et al. 2022: M1's published errors, and the recommended extrapolator beside M4's."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from harness.laws import Objective, PowerLaw, PowerLawOffset
from harness.laws.bnsl import BrokenNeuralScalingLaw
from harness.laws.fitting.backtest import fit_subsets
from harness.laws.fitting.select import select
from harness.laws.fitting.solver import predict
from harness.laws.m3 import M3
from harness.laws.m4 import M4

DATA = Path(__file__).parents[3] / "shared/data/revisiting_nsl"
LAWS = (PowerLaw(), PowerLawOffset(), M3(), M4(), BrokenNeuralScalingLaw())

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data/revisiting_nsl is not here")


def read(name):
    with open(DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def tasks():
    """Task -> (examples seen, loss, fitted) arrays, as the table has them."""
    points = defaultdict(list)
    for row in read("benchmark.lang.csv"):
        key = (row["Domain"], row["Task"], row["Model"])
        points[key].append((float(row["Seen Examples"]), float(row["Loss"]), row["Training"] == "1"))
    return {key: tuple(np.array(column) for column in zip(*rows, strict=True)) for key, rows in points.items()}


def published(estimator):
    rows = read("m1_m4_reference_errors_lang.csv")
    return {(row["dom"], row["task"], row["model"]): float(row[estimator]) for row in rows}


def rms(predicted, observed):
    return float(np.sqrt(np.mean(np.log(predicted / observed) ** 2)))


def recommended(size, loss, fitted):
    """The selection from the fitted points of a task, told only how far the forecast goes; each size once."""
    sizes, first = np.unique(size[fitted], return_index=True)
    return select(LAWS, {"N": sizes}, loss[fitted][first], reach=size.max() / sizes.max())


def test_m1_has_the_published_errors():
    table = tasks()
    owner = np.repeat(np.arange(len(table)), [len(size) for size, _, _ in table.values()])
    size, loss, fitted = (np.concatenate(column) for column in zip(*table.values(), strict=True))
    masks = [fitted & (owner == task) for task in range(len(table))]
    lines = fit_subsets(PowerLaw(), Objective("mse"), {"N": size}, loss, np.ones(size.size), masks).best()
    predicted = np.exp(predict(PowerLaw(), Objective("mse"), {"N": size}, lines))
    assert len(table) == 20
    for task, key in enumerate(table):
        held = ~fitted & (owner == task)
        assert rms(predicted[task, held], loss[held]) == pytest.approx(published("M1")[key], rel=1e-9), key


def test_the_recommended_extrapolator_beats_m4_on_average():
    errors = []
    for size, loss, fitted in tasks().values():
        selection = recommended(size, loss, fitted)
        errors.append(rms(selection.forecast({"N": size[~fitted]}), loss[~fitted]))
    assert np.mean(errors) < np.mean(list(published("M4").values()))
