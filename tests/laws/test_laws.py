"""Every registered law: one row here buys exact recovery, scale-freedom and a documented equation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from harness.laws import LAWS, Grid, Objective, PowerLaw, PowerLawOffset
from harness.laws.solver import predict, solve
from workloads.base import BadInput

N = np.array([1.2e4, 2.4e4, 4e4, 8e4, 1.3e5, 2.8e5])
TRUTH = {
    "power_law": {"A": 5.0, "alpha": 0.11},
    "power_law_offset": {"E": 1.5, "A": 8.0, "alpha": 0.35},
}
OFFSET = PowerLawOffset()


def internal(law, params):
    return np.array([kind.internal(params[name]) for name, kind in law.parameters.items()])


def starts_of(law, losses):
    return np.stack([law.start_points({"N": N}, loss) for loss in losses])


def test_every_law_has_a_row():
    assert set(LAWS) == set(TRUTH)


@pytest.mark.parametrize("name", TRUTH)
def test_noise_free_points_give_the_parameters_back(name):
    law = LAWS[name]()
    theta = internal(law, TRUTH[name])
    units = np.array([1e-4, 1.0, 1e5])  # the unit of the loss must not matter to the starts
    target = predict(law, Objective(), {"N": N}, theta[None])[0] + np.log(units)[:, None]
    solution = solve(law, Objective(), {"N": N}, target, np.ones_like(target), starts_of(law, np.exp(target)))
    scale = np.where([p in ("E", "A") for p in law.parameters], units[:, None], 1.0)
    np.testing.assert_allclose(law.natural(solution.best()), law.natural(theta) * scale, rtol=1e-5)
    assert solution.converged[np.arange(3), solution.objective.argmin(1)].all()


@pytest.mark.parametrize("name", TRUTH)
def test_the_docstring_is_the_equation(name):
    assert LAWS[name].__doc__.startswith("L(")


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
