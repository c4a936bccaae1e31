"""Normalize-and-Project in the engine: every matrix keeps its initial norm, whatever the parametrization's factors."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.engine.program import make_train
from harness.records.store import Store
from harness.transfer.effective_rate import matrix_norms
from tests.trials import run, small_trial
from workloads.base import BadInput


def kept(**values):
    normalised = {"workload__qk_norm": True, "workload__hidden_norm": True}
    return replace(small_trial(**{**normalised, "optimizer__weight_decay": 0.5, **values}), keep_norms=True)


def test_matrices_keep_their_norms_and_zero_ones_stay_in_their_ball():
    trial = kept()
    trial.validate()
    train, hparams = make_train(trial.static()), trial.hparams()
    data = {name: jnp.asarray(array) for name, array in trial.workload.load().arrays.items()}
    start = jax.jit(train.init)(hparams)
    end = jax.jit(lambda s: jax.lax.fori_loop(0, 12, lambda _, s: train.step(s, hparams, data)[0], s))(start)
    before, after = matrix_norms(start.params), matrix_norms(end.params)
    for path, norm in before.items():
        if norm > 0:
            assert after[path] == pytest.approx(float(norm), rel=1e-5), path
        else:
            assert 0 < after[path] <= 1.001 * trial.workload.width**0.5, path


def test_it_is_another_trial_and_resumes_with_its_records(tmp_path):
    trials = [kept(), replace(kept(), keep_norms=False)]
    assert trials[0].id != trials[1].id
    store = Store(tmp_path)
    run(trials, store)
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    assert [rows[trial.id]["keep_norms"] for trial in trials] == [True, False]
    assert np.isfinite([rows[trial.id]["final_loss"] for trial in trials]).all()
    assert rows[trials[0].id]["final_loss"] != rows[trials[1].id]["final_loss"]


@pytest.mark.parametrize("missing", ["qk_norm", "hidden_norm"])
def test_models_that_lack_a_normalisation_are_refused(missing):
    with pytest.raises(BadInput, match=rf"workload\.{missing}=true"):
        kept(**{f"workload__{missing}": False}).validate()
