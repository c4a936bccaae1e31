"""Every registered law: one row in tests/laws/rows buys exact recovery, honest intervals and a documented equation."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from harness.laws import LAWS, Grid, Objective, PowerLaw, PowerLawOffset, fit
from harness.laws.fitting.solver import predict, solve
from harness.laws.procedures import PROCEDURES
from tests.laws.rows import ROWS
from workloads.base import BadInput

N = np.array([1.2e4, 2.4e4, 4e4, 8e4, 1.3e5, 2.8e5])
OFFSET = PowerLawOffset()


def internal(law, params):
    return np.array([kind.internal(params[name]) for name, kind in law.parameters.items()])


def starts_of(law, losses):
    return np.stack([law.start_points({"N": N}, loss) for loss in losses])


def truth_of(name):
    """The law, its features, and the exact response (n,) of the row's parameters."""
    row = ROWS[name]
    law = LAWS[name](**row.options)
    features = law.features(dict(row.columns))
    log_response = predict(law, Objective(), features, internal(law, row.truth)[None])[0]
    return row, law, features, np.exp(log_response)


def test_every_law_has_a_row():
    assert set(LAWS) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_noise_free_points_give_the_parameters_back(name):
    row, law, features, response = truth_of(name)
    units = np.array([1.0]) if row.units is None else np.array([1e-4, 1.0, 1e5])
    target = np.log(response) + np.log(units)[:, None]
    starts = np.stack([law.start_points(features, np.exp(t)) for t in target])
    solution = solve(law, Objective(), features, target, np.ones_like(target), starts)
    scale = np.where([p in (row.units or ()) for p in law.parameters], units[:, None], 1.0)
    expected = law.natural(internal(law, row.truth)) * scale
    np.testing.assert_allclose(law.natural(solution.best()), expected, rtol=row.rtol)
    assert solution.converged[np.arange(units.size), solution.objective.argmin(1)].all()


@pytest.mark.parametrize("name", ROWS)
def test_a_noisy_fit_covers_its_truth_and_says_what_it_knows(name):
    row, law, _, response = truth_of(name)
    noise = np.exp(row.noise * np.random.default_rng(1).normal(size=response.size))
    fitted = fit(law, row.columns, response * noise, bootstrap=100)
    entry = json.loads(json.dumps(fitted.to_json(), allow_nan=False))
    assert set(entry["params"]) == set(entry["stderr"]) == set(entry["ci95"]) == set(row.truth)
    covered = [low * 0.999 <= row.truth[k] <= high * 1.001 for k, (low, high) in fitted.ci95.items()]
    assert np.mean(covered) >= 0.5
    predicted = fitted.predict(row.columns)
    assert np.isfinite(predicted).all()
    assert np.mean((predicted.low <= response) & (response <= predicted.high)) >= 0.9


@pytest.mark.parametrize("name", ROWS)
def test_the_docstring_is_the_equation_and_its_source(name):
    text = LAWS[name].__doc__
    assert re.match(r"[A-Za-z]+(\([^)]*\))? = ", text), "begin with the equation: L(N) = ..."
    assert re.search(r"\d{4}|Own\.", text), "cite the paper, or say Own."
    for parameter in LAWS[name].parameters:
        assert re.search(rf"(?<![A-Za-z]){re.escape(parameter)}(?![A-Za-z])", text), f"{parameter} is not explained"


@pytest.mark.parametrize("name", ROWS)
def test_simpler_laws_exist_and_read_no_more_columns(name):
    for simpler in LAWS[name].simpler:
        assert set(LAWS[simpler].inputs) <= set(LAWS[name].inputs)
        assert len(LAWS[simpler].parameters) < len(LAWS[name].parameters)


def test_unknown_law_names_the_nearest():
    with pytest.raises(BadInput, match="Did you mean 'power_law'"):
        LAWS["powerlaw"]


def test_grid_is_the_product_of_its_axes():
    points = Grid(alpha=(0, 1, 3), log_A=(5, 6, 2)).points(("log_A", "alpha"))
    assert points.shape == (6, 2)
    assert set(points[:, 0]) == {5.0, 6.0}


def test_huber_minimum_agrees_with_scipy():
    rng = np.random.default_rng(0)
    y = np.log(1.5 + 8 * N**-0.35) + rng.normal(size=N.size) * 0.01
    y[2] += 0.2
    solution = solve(
        OFFSET, Objective(delta=0.01), {"N": N}, y[None], np.ones((1, 6)), starts_of(OFFSET, np.exp(y[None]))
    )

    def residual(t):
        return np.logaddexp(t[0], t[1] - t[2] * np.log(N)) - y

    best = min(
        least_squares(residual, s, loss="huber", f_scale=0.01, xtol=1e-14, ftol=1e-14, gtol=1e-14).cost
        for s in OFFSET.start_points({"N": N}, np.exp(y))
    )
    assert solution.objective.min() <= best * (1 + 1e-6)


def test_a_zero_weight_leaves_the_point_out():
    y = np.log(5.0 * N**-0.11)
    broken = y.copy()
    broken[3] = 2.0
    weight = np.ones((1, 6))
    weight[0, 3] = 0.0
    solution = solve(PowerLaw(), Objective(), {"N": N}, broken[None], weight, starts_of(PowerLaw(), np.exp(y[None])))
    np.testing.assert_allclose(PowerLaw.natural(solution.best()[0]), [5.0, 0.11], rtol=1e-8)


def test_float64_stays_inside():
    solution = solve(PowerLaw(), Objective(), {"N": N}, np.zeros((1, 6)), np.ones((1, 6)), np.zeros((1, 1, 2)))
    assert solution.theta.dtype == np.float64
    assert jnp.ones(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("bad", [{"kind": "l1"}, {"space": "sqrt"}, {"delta": 0.0}])
def test_bad_objective(bad):
    with pytest.raises(BadInput):
        Objective(**bad)


def test_laws_and_procedures_share_no_name():
    assert not set(LAWS) & set(PROCEDURES)
