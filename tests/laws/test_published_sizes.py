"""Published fits of loss to size and data, met in objective, parameters, standard errors and allocation."""

from __future__ import annotations

import numpy as np
import pytest

from harness.laws import Objective, fit
from harness.laws.allocation import allocate
from harness.laws.chinchilla import Chinchilla
from harness.laws.fitting.backtest import fit_subsets
from tests.laws import published

HUBER = Objective(delta=1e-3)


@pytest.fixture(scope="module")
def besiroglu():
    """The 240 points of Besiroglu et al. 2024 (arXiv:2404.10102), without the five of highest loss, and their fit."""
    columns = published.numbers(
        published.rows("chinchilla_besiroglu", "svg_extracted_data.csv"), N="Model Size", C="Training FLOP", loss="loss"
    )
    kept = np.argsort(columns["loss"])[:-5]
    points = {"N": columns["N"][kept], "D": (columns["C"] / 6 / columns["N"])[kept]}
    return points, fit(Chinchilla(), points, columns["loss"][kept], objective=HUBER, bootstrap=4000, kind="points")


def test_besiroglu_objective_and_parameters(besiroglu):
    result = besiroglu[1]
    assert result.objective <= 0.00101828
    target = {"A": 477.83, "B": 2143.4, "E": 1.8172, "alpha": 0.3473, "beta": 0.3672}
    stderr = {"A": 124.52, "B": 1293.28, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206}
    for name, value in target.items():
        assert abs(result.params[name] - value) < 0.1 * stderr[name]


def test_besiroglu_bootstrap_standard_errors(besiroglu):
    published_stderr = {"A": 116, "B": 1426, "E": 0.0261, "alpha": 0.0146, "beta": 0.0208}
    for name, value in published_stderr.items():
        assert besiroglu[1].bootstrap_stderr[name] == pytest.approx(value, rel=0.25)


def test_besiroglu_allocation(besiroglu):
    """a = 0.513 with standard error 0.020; for Chinchilla's budget about 20 tokens a parameter."""
    points, result = besiroglu
    found = allocate(result, [1e20, 1e22, 5.76e23], columns=points)
    a, params = found.exponents["N"], result.params
    assert a.value == pytest.approx(0.513, abs=0.002)
    assert a.value == pytest.approx(params["beta"] / (params["alpha"] + params["beta"]), abs=1e-7)
    assert a.stderr == pytest.approx(0.020, rel=0.25)
    assert a.ci95[0] < 0.5 < a.ci95[1]
    assert 15 < found.multiplier[-1] < 30
    assert any("largest budget" in warning for warning in found.warnings)


def test_gemstones_objective_and_exponents():
    records = published.rows("gemstones", "wandb_df_for_fitting_hot.jsonl")
    columns = published.numbers(records, N="params_active_precise", D="tokens", loss="final_loss")
    assert columns["loss"].size == 220
    law, loss = Chinchilla(), columns.pop("loss")
    everything = np.ones(loss.size, bool)
    solution = fit_subsets(law, HUBER, law.features(columns), loss, np.ones(loss.size), [everything])
    assert solution.objective.min() <= 0.0019816129
    params = dict(zip(law.parameters, law.natural(solution.best()[0]), strict=True))
    assert params["alpha"] == pytest.approx(0.2929, abs=1e-3)
    assert params["beta"] == pytest.approx(0.7129, abs=1e-3)
