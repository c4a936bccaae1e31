"""Every family trains beside others as it does alone, mapped over trials as on a GPU."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.engine.compiler import SIDE_BY_SIDE
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from tests.trials import small_trial
from tests.workloads.rows import ROWS

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize(
    "name", sorted(ROWS.keys() - {"regression", "image_mlp", "language_model"})
)  # test_packs has one
def test_who_trains_beside_it_changes_nothing(name: str) -> None:
    """Another seed and learning rate, or the same trial again: a step, and what is then measured, to the bit."""
    row = ROWS[name]
    one = replace(small_trial(budget__steps=1, evaluations=1), workload=row.small)
    first, second = (
        replace(one, optimizer=OPTIMIZERS[row.optimizer](learning_rate=rate), seed=seed)
        for seed, rate in enumerate((row.rate, row.rate / 3))
    )
    data = {key: jnp.asarray(array) for key, array in one.workload.load().arrays.items()}
    train = make_train(first.static(), SIDE_BY_SIDE)

    @functools.partial(quick_jit)
    @functools.partial(jax.vmap, axis_name=SIDE_BY_SIDE)
    def trained(hparams):
        state, losses = train.chunk(train.init(hparams), hparams, jnp.int32(1), data)
        return losses, train.evaluate(state, hparams, data)

    def pair(*trials):
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(trial.hparams() for trial in trials))
        return jax.tree.leaves(trained(stacked))

    beside, alike = pair(first, second), pair(first, first)
    assert all(np.array_equal(a[0], b[0], equal_nan=True) for a, b in zip(beside, alike, strict=True))
    assert not all(np.array_equal(a[1], b[1], equal_nan=True) for a, b in zip(beside, alike, strict=True))
