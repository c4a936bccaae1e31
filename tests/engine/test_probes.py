"""Probes measure the model that a trial has at its evaluations, and change nothing."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.budget import Budget
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.probes import PROBES
from harness.records.store import Store
from harness.schedules import SCHEDULES
from harness.transfer.effective_rate import matrix_norms
from harness.trial import Trial
from tests.trials import run, small_trial
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP


def probed(*names, **values):
    return replace(small_trial(**values), probes=names)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Every probe that knows AdamW on a trial of three evaluations, and the same trial without."""
    store = Store(tmp_path_factory.mktemp("probes"))
    known = [name for name in PROBES if name != "linear_stability"]
    trials = [probed(*known), small_trial(), probed("norms", optimizer__learning_rate=2e-2)]
    run(trials, store)
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    return store, trials, rows


def test_probes_do_not_change_the_training(records):
    _, trials, rows = records
    assert trials[0].id != trials[1].id
    assert rows[trials[0].id]["final_loss"] == rows[trials[1].id]["final_loss"]
    assert rows[trials[0].id]["test_loss"] == rows[trials[1].id]["test_loss"]


def test_every_probe_is_recorded_at_every_evaluation_and_in_the_row(records):
    store, trials, rows = records
    curve = store.curves([trials[0].id])
    measured = [name for name in curve.column_names if name.startswith("probe.")]
    assert len(measured) > 12
    at = [i for i, loss in enumerate(curve["eval_loss"].to_pylist()) if loss is not None]
    for name in measured:
        values = curve[name].to_pylist()
        assert [i for i, value in enumerate(values) if value is not None] == at
        assert np.isfinite([values[i] for i in at]).all(), name
        assert rows[trials[0].id][name] == pytest.approx(values[at[-1]])


def test_what_is_measured_is_the_trained_model(records):
    _, trials, rows = records
    trial = trials[2]
    train = make_train(trial.static())
    data = {name: jnp.asarray(array) for name, array in trial.workload.load().arrays.items()}
    hparams = trial.hparams()
    state = jax.jit(
        lambda: jax.lax.fori_loop(0, 12, lambda _, s: train.step(s, hparams, data)[0], train.init(hparams))
    )()
    for path, norm in matrix_norms(state.params).items():
        assert rows[trial.id][f"probe.norm:{path}"] == pytest.approx(float(norm), rel=1e-5)


def test_linear_stability_scales_with_the_learning_rate_and_knows_sgd_only(tmp_path):
    trials = [
        Trial(
            workload=ImageMLP(width=8, depth=1),
            optimizer=OPTIMIZERS["sgd"](learning_rate=rate),
            schedule=SCHEDULES["constant"](warmup="0 steps"),
            parametrization=PARAMETRIZATIONS["sp"](),
            budget=Budget(steps=1),
            evaluations=1,
            probes=("linear_stability", "sharpness"),
        )
        for rate in (1e-3, 2e-3)
    ]
    store = Store(tmp_path)
    run(trials, store)
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    low, high = (rows[trial.id] for trial in trials)
    batch = trials[0].workload.batch_size
    assert low["probe.stability_top"] == pytest.approx(1e-3 * (1 + 1 / batch) * low["probe.sharpness"], rel=0.02)
    assert high["probe.stability_top"] == pytest.approx(2 * low["probe.stability_top"], rel=0.05)
    assert 0 < low["probe.stability_total"] < high["probe.stability_total"] < 1
    with pytest.raises(BadInput, match="knows sgd only, not 'adamw'"):
        run([probed("linear_stability")], Store(tmp_path / "adamw"))


def test_unknown_probes_are_refused():
    with pytest.raises(BadInput, match="Did you mean 'sharpness'"):
        probed("sharpnes").validate()


def test_probes_that_a_workload_cannot_answer_are_refused(tmp_path):
    trial = replace(small_trial(), workload=ImageMLP(width=8), optimizer=OPTIMIZERS["sgd"](), probes=("instabilities",))
    with pytest.raises(BadInput, match="attention logits"):
        run([trial], Store(tmp_path))
