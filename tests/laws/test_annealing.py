"""The annealing law against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.laws.annealing import Annealing
from harness.laws.curves import LearningRates
from workloads.base import BadInput

LR = np.array([0.0, 1, 2, 3, 3, 3, 2, 1.5, 1.5, 1, 1, 1]) * 1e-3
WARMUP = 3  # the last step of the rise


def double_sum(decay, step):
    """S2 as it is written: differences of the warmup left out."""
    total = 0.0
    for i in range(1, step + 1):
        for k in range(1, i + 1):
            if k > WARMUP:
                total += (LR[k - 1] - LR[k]) * decay ** (i - k)
    return total


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_areas_are_the_sums_of_the_paper(decay):
    steps = np.arange(1, LR.size)
    features = Annealing(lambdas=(decay,)).rows_of(LearningRates.of(LR), steps)
    np.testing.assert_allclose(features["S1"], [LR[: s + 1].sum() for s in steps])
    np.testing.assert_allclose(features[f"S2_{decay:g}"], [double_sum(decay, s) for s in steps], atol=1e-18)


def test_the_loss_is_the_equation():
    law = Annealing(lambdas=(0.5,))
    with jax.enable_x64(True):
        features = {k: jnp.asarray(v) for k, v in law.rows_of(LearningRates.of(LR), np.array([11])).items()}
        found = float(jnp.exp(law.log_loss(law.unpack(jnp.log(jnp.array([2.0, 0.1, 30.0, 0.5]))), **features))[0])
    assert found == pytest.approx(2.0 + 0.1 * LR.sum() ** -0.5 - 30.0 * double_sum(0.5, 11), rel=1e-9)


def test_every_lambda_is_a_variant_that_can_be_read_alone():
    variants = Annealing(warmup=5).variants()
    assert [form.lambdas for form in variants] == [(0.99,), (0.995,), (0.999,)]
    assert all(form.warmup == 5 for form in variants)
    assert set(variants[1].rows_of(LearningRates.of(LR), np.array([5]))) == {"S1", "S2_0.995"}


def test_lambdas_come_as_a_list_from_the_command_line():
    assert Annealing(lambdas=[0.9]) == Annealing(lambdas=(0.9,))
    hash(Annealing(lambdas=[0.9]))
    with pytest.raises(BadInput, match="between 0 and 1"):
        Annealing(lambdas=(1.0,))
    with pytest.raises(BadInput, match="between 0 and 1"):
        Annealing(lambdas=())
