"""An optimizer that draws more examples than it trains on, and chooses."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.engine import keys
from harness.engine.flops import step_flops
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.optimizers.user import load_optimizer
from harness.records.store import Store
from tests.trials import run, small_trial
from tests.workloads.rows import ROWS
from workloads.base import BadInput

RATE = 0.1
SGD = "import jax.numpy as jnp, optax\n\ndef make(learning_rate):\n    return optax.sgd(learning_rate)\n"
LARGEST = "CANDIDATES = 3\n\ndef select(drawn, losses, count, key):\n    return jnp.argsort(-losses)[:count]\n"


@pytest.fixture
def optimizer(tmp_path):
    def load(said):
        path = tmp_path / "selecting.py"
        path.write_text(SGD + said)
        return load_optimizer(str(path))(learning_rate=RATE)

    return load


def one_step(trial):
    """(state before, state after, loss, data) of the first step."""
    train = make_train(trial.static())
    data = {name: jnp.asarray(array) for name, array in trial.workload.load().arrays.items()}
    hparams = trial.hparams()
    before = jax.jit(train.init)(hparams)
    after, loss = jax.jit(train.step)(before, hparams, data)
    return before, after, loss, data


def test_a_step_is_taken_on_the_selected_examples(optimizer):
    trial = replace(small_trial(schedule__warmup="0 steps"), optimizer=optimizer(LARGEST))
    before, after, loss, data = one_step(trial)
    workload, count = trial.workload, trial.workload.batch_size
    drawn = workload.replace(batch_size=3 * count).batch(data, keys.key(jnp.int32(0)), jnp.int32(0))
    noise = jax.random.key(0)
    loss_of = jax.jit(lambda example: workload.replace(batch_size=1).loss(before.params, example, noise)[0])
    alone = [float(loss_of(jax.tree.map(lambda x, i=i: x[i : i + 1], drawn))) for i in range(3 * count)]
    rows = np.argsort(alone)[::-1][:count]
    assert float(loss) == pytest.approx(np.mean(np.array(alone)[rows]), rel=1e-5)
    grads = jax.jit(jax.grad(lambda p: workload.loss(p, jax.tree.map(lambda x: x[rows], drawn), noise)[0]))(
        before.params
    )
    expected = jax.tree.map(lambda p, g: p - RATE * g, before.params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params, expected)


def test_selected_trials_are_recorded_with_what_looking_costs(optimizer, tmp_path):
    plain = replace(small_trial(), optimizer=OPTIMIZERS["sgd"](learning_rate=RATE))
    hard = replace(plain, optimizer=optimizer(LARGEST))
    store = Store(tmp_path / "records")
    run([plain, hard], store)
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    assert len(rows) == 2
    first = [min((row["step"], row["train_loss"]) for row in store.curves([t.id]).to_pylist()) for t in (plain, hard)]
    assert first[0] < first[1]
    assert rows[hard.id]["matmul_flops"] == pytest.approx(2 * rows[plain.id]["matmul_flops"])  # 3 forward passes of 1/3
    assert 1.5 < step_flops(hard) / step_flops(plain) < 2.5


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_family_can_be_selected_from(name, optimizer):
    trial = replace(small_trial(), workload=ROWS[name].small, optimizer=optimizer(LARGEST))
    train, hparams = make_train(trial.static()), trial.hparams()
    data = dict(trial.workload.load().arrays)
    state = jax.eval_shape(train.init, hparams)
    after, loss = jax.eval_shape(train.step, state, hparams, data)
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, state.params)
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("CANDIDATES = 0", "1 to 64"),
        ("CANDIDATES = 2.5", "whole number of batches"),
        ("CANDIDATES = 2", "needs a function select"),
    ],
)
def test_a_selection_that_is_none_names_the_fix(optimizer, said, words):
    with pytest.raises(BadInput, match=words):
        optimizer(said)


@pytest.mark.parametrize("returned", ["losses[:count]", "jnp.argsort(losses)", "jnp.argsort(losses)[0]"])
def test_what_is_selected_must_be_rows(optimizer, returned):
    said = LARGEST.replace("jnp.argsort(-losses)[:count]", returned)
    with pytest.raises(BadInput, match="must return count=4 whole numbers"):
        one_step(replace(small_trial(), optimizer=optimizer(said)))
