"""FLOPs of optimizers: loops count as often as they run, factorizations by their formulas, data movement not at all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harness.engine.update_flops import update_flops
from harness.optimizers import OPTIMIZERS
from harness.optimizers.base import Optimizer


def square(width: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {"w": jax.ShapeDtypeStruct((width, width), np.float32)}


def doing(update) -> Optimizer:
    """An optimizer that makes its update of each matrix so."""

    class Own(Optimizer):
        learning_rate = 1.0
        decoupled_decay = False

        def build(self, learning_rate):
            return optax.stateless(lambda grads, params: jax.tree.map(update, grads))

    return Own()


def test_elementwise_optimizers_cost_as_much_per_parameter_at_every_size():
    small, large = (update_flops(OPTIMIZERS["adamw"](), square(width)) / width**2 for width in (16, 256))
    assert small == pytest.approx(large, rel=0.02)
    assert 10 < large < 30


def test_muon_costs_five_iterations_of_three_products():
    """X X^T, its square, and their product with X: 6 n^3 FLOPs each time."""
    width = 256
    own = update_flops(OPTIMIZERS["muon"](), square(width))
    assert own == pytest.approx(30 * width**3, rel=0.02)


@pytest.mark.parametrize(
    ("update", "flops"),
    [
        (lambda g: g @ g, 2 * 64**3),
        (lambda g: jax.lax.fori_loop(0, 7, lambda _, x: x @ g, g), 7 * 2 * 64**3),
        (lambda g: jax.lax.cond(g[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, g), 4 * 64**3),
        (lambda g: jnp.linalg.eigh(g)[1], 9 * 64**3),
        (lambda g: jnp.linalg.qr(g)[0], 8 / 3 * 64**3),
        (lambda g: jnp.linalg.cholesky(g), 64**3 / 3),
        (lambda g: g.T.reshape(64, 64), 0),
    ],
    ids=["product", "loop", "branch", "eigh", "qr", "cholesky", "transpose"],
)
def test_counts(update, flops):
    bare = update_flops(doing(lambda g: g), square(64))
    own = update_flops(doing(update), square(64)) - bare
    assert own == pytest.approx(flops, rel=0.1, abs=4 * 64**2)
