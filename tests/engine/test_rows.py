"""What a row says: results, cost, clocks, environment; and data order that depends on nothing but (data seed, step)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from harness.engine import flops
from harness.engine.flops import step_flops
from harness.records.store import Store
from tests.trials import run, small_trial
from workloads.data.zipf_markov import parse
from workloads.language_model import LanguageModel


def test_a_row_is_complete(tmp_path: Path) -> None:
    trial = small_trial()
    store = Store(tmp_path / "rows")
    summary = run([trial], store)
    (row,) = store.trials().to_pylist()
    assert row["trial"] == trial.id
    assert json.loads(row["config"]) == trial.config()
    assert row["status"] == "ok"
    assert row["steps"] == row["horizon"] == 12
    assert row["tokens"] == 12 * 4 * 8
    shapes = jax.eval_shape(trial.workload.init, jax.random.key(0))
    assert row["params"] == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert row["flops"] == 12 * step_flops(trial)
    assert row["flops_6nd"] == 6 * row["params"] * row["tokens"]
    assert row["matmul_flops"] == 12 * trial.workload.matmul_flops()
    assert row["final_loss"] >= row["best_loss"]
    assert np.isfinite(row["test_loss"])
    assert all(row[f"{clock}_s"] >= 0 for clock in ("compile", "data", "train", "eval", "checkpoint", "records"))
    assert row["train_s"] > 0
    assert {"jax", "jaxlib", "optax", "numpy", "python"} <= json.loads(row["packages"]).keys()
    assert row["devices"] == 2
    assert "xla_cpu_multi_thread_eigen=false" in row["xla_flags"]
    assert summary.cache.hits + summary.cache.misses > 0


def test_curve_holds_every_step_and_evaluation(tmp_path: Path) -> None:
    trial = small_trial()
    store = Store(tmp_path / "curve")
    run([trial], store)
    curve = store.curves([trial.id]).to_pydict()
    assert curve["step"] == list(range(1, 13))
    assert [step for step, loss in zip(curve["step"], curve["eval_loss"], strict=True) if loss is not None] == [
        4,
        8,
        12,
    ]
    assert curve["tokens"][-1] == 12 * 4 * 8
    # 10% warmup of 12 steps, then cosine to zero: the last step's rate is the cosine one step before its end.
    assert curve["lr"][0] == pytest.approx(1e-2 / 1.2, rel=1e-5)
    assert curve["lr"][-1] == pytest.approx(1e-2 * 0.5 * (1 + np.cos(np.pi * (11 - 1.2) / (12 - 1.2))), rel=1e-4)


def test_thinned_curve_averages_the_steps_between_points(tmp_path: Path) -> None:
    trial = small_trial()
    full, thin = Store(tmp_path / "full"), Store(tmp_path / "thin")
    run([trial], full)
    run([trial], thin, curve_points=3)
    all_losses = np.array(full.curves([trial.id])["train_loss"])
    points = thin.curves([trial.id]).to_pydict()
    assert points["step"] == [4, 8, 12]
    np.testing.assert_allclose(points["train_loss"], all_losses.reshape(3, 4).mean(axis=1), rtol=1e-5)


def test_batches_are_the_same_at_every_width_and_learning_rate() -> None:
    small, large = (small_trial(workload__width=width).workload for width in (8, 32))
    data = dict(small.load().arrays)
    key = jax.random.key(3)
    np.testing.assert_array_equal(small.batch(data, key, 5), large.batch(data, key, 5))
    assert not np.array_equal(small.batch(data, key, 5), small.batch(data, key, 6))
    assert not np.array_equal(small.batch(data, key, 5), small.batch(data, jax.random.key(4), 5))


def test_step_flops_are_the_matrix_products_when_these_dominate() -> None:
    """XLA's count of the single step against the analytic count, where elementwise work is small: within 2%."""
    trial = small_trial(
        workload__corpus="stdlib", workload__width=768, workload__heads=4, workload__context=64, workload__batch_size=16
    )
    assert step_flops(trial) == pytest.approx(trial.workload.matmul_flops(), rel=0.02)


@pytest.mark.parametrize("steps", [400])
def test_zipf_markov_model_cannot_beat_its_source(tmp_path: Path, steps: int) -> None:
    """mean(loss_model - loss_source) on the same held-out tokens: at least -3 paired standard errors, and small."""
    corpus = "zipf_markov:vocab_size=16"
    workload = LanguageModel(
        corpus=corpus, width=32, depth=1, heads=2, context=32, batch_size=16, evaluation_sequences=256
    )
    from dataclasses import replace

    from harness.budget import Budget
    from harness.engine.program import make_train

    trial = replace(small_trial(optimizer__learning_rate=1e-2), workload=workload, budget=Budget(steps=steps))
    trial = replace(trial, evaluations=1)
    train = make_train(trial.static())
    data = {name: jax.numpy.asarray(array) for name, array in workload.load().arrays.items()}
    hparams = jax.tree.map(jax.numpy.asarray, trial.hparams())
    state, _losses = jax.jit(train.chunk)(train.init(hparams), hparams, jax.numpy.int32(steps), data)
    model_loss = -np.asarray(jax.jit(workload.log_probabilities)(state.params, data["validation"]), np.float64)

    source = parse("vocab_size=16")
    tokens = np.asarray(workload.load().arrays["validation"])
    true_log_probabilities = source.log_probabilities(tokens)
    starts = workload.evaluation_starts(len(tokens))
    offset = len(tokens) - len(true_log_probabilities)
    window = starts[:, None] + 1 + np.arange(workload.context)[None, :]
    excess = (model_loss + true_log_probabilities[window - offset]).mean(axis=1)
    standard_error = excess.std(ddof=1) / np.sqrt(len(excess))
    assert excess.mean() >= -3 * standard_error
    assert excess.mean() < 0.05


def test_flops_are_known_without_a_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's step has no analysis before it is compiled, so the CPU's counts; JAX_PLATFORMS may leave the CPU out."""
    expected = step_flops(small_trial())

    def no_cpu(backend: str) -> Any:
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(flops, "_flops", {})
    monkeypatch.setattr(jax, "local_devices", no_cpu)
    assert step_flops(small_trial()) == pytest.approx(expected, rel=0.1)
