"""Step times: of trials whose schedules do not fit into the few steps that are timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.engine.cost import compare_step_seconds, step_seconds
from harness.optimizers import OPTIMIZERS
from harness.optimizers.user import load_optimizer
from harness.schedules import SCHEDULES
from harness.trial import Trial
from tests.trials import small_trial


def test_names_make_no_other_program(tmp_path: Path) -> None:
    """Both are timed as one, and what is the same program can be neither faster nor slower."""
    (tmp_path / "mine.py").write_text(
        "import optax\n\ndef make(learning_rate, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0):\n"
        "    return optax.adam(learning_rate, b1, b2, eps, eps_root)\n"
    )
    mine = load_optimizer(str(tmp_path / "mine.py"))
    adam, alias, sgd = compare_step_seconds(
        [
            replace(small_trial(), optimizer=optimizer(learning_rate=1e-3))
            for optimizer in (OPTIMIZERS["adam"], mine, OPTIMIZERS["sgd"])
        ],
        rounds=3,
        round_s=0.0,
    )
    assert adam == alias != sgd
    assert adam.rel_stderr == 0 < sgd.rel_stderr


LAZY = """
import jax, jax.numpy as jnp, optax

def make(learning_rate):
    inner = optax.sgd(learning_rate)
    def init(params):
        return inner.init(params), jnp.int32(0)
    def update(grads, state, params=None):
        state, count = state
        burnt = jax.lax.cond(WHEN, lambda x: jax.lax.fori_loop(0, 300000, lambda i, y: y * 0.5 + 0.5, x), lambda x: x, 1.0)
        updates, state = inner.update(grads, state, params)
        return jax.tree.map(lambda u: u + 0 * burnt, updates), (state, count + 1)
    return optax.GradientTransformation(init, update)
"""


@pytest.mark.parametrize("when", ["learning_rate > 0", "count >= 100"])
def test_slow_steps_cannot_hide_from_the_clock(when: str, tmp_path: Path) -> None:
    """Not where there is something to learn, and not behind the first steps."""
    (tmp_path / "lazy.py").write_text(LAZY.replace("WHEN", when))
    (tmp_path / "honest.py").write_text(LAZY.replace("WHEN", "count < 0"))
    trial = small_trial(budget__steps=200)
    lazy, honest = (load_optimizer(str(tmp_path / name)) for name in ("lazy.py", "honest.py"))
    times = compare_step_seconds(
        [replace(trial, optimizer=one(learning_rate=1e-3)) for one in (honest, lazy)], rounds=3, round_s=0.05
    )
    assert times[1].seconds > 3 * times[0].seconds


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_durations_in_steps_are_no_obstacle(name: str) -> None:
    schedule = SCHEDULES[name]()
    trial: Trial = replace(small_trial(), schedule=replace(schedule, **dict.fromkeys(schedule.durations, "5 steps")))
    trial.validate()
    found = compare_step_seconds([trial, trial], rounds=2, round_s=0.0)
    assert len(found) == 2
    assert found[0] == found[1]  # one program
    assert 0 < found[0].seconds < 1
    assert 0 < step_seconds(trial) < 1
