"""Reading AlgoPerf submissions, and writing the logs of their runs."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.algoperf import Evaluation, Run, is_algoperf_style, load, write_log
from harness.algoperf.facade import BatchForm, Facade
from harness.algoperf.spec import ParameterType
from harness.algoperf.timing import covered
from harness.scoring import read_targets
from harness.scoring.log_tree import read_logs
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP
from workloads.regression import Regression

ADAMW = Path(__file__).with_name("adamw.py")


def test_load_leaves_nothing_behind() -> None:
    submission = load(ADAMW)
    assert submission.sha256 == hashlib.sha256(ADAMW.read_bytes()).hexdigest()
    assert (submission.name, submission.replicated) == ("adamw", False)
    assert not any(name.split(".")[0] in ("algoperf", "chex", "windtunnel_submission") for name in sys.modules)


def test_files_beside_it_and_the_old_name(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def get_batch_size(name): return 8\n")
    functions = "".join(
        f"def {name}(*a): ...\n" for name in ("init_optimizer_state", "update_params", "data_selection")
    )
    path = tmp_path / "old.py"
    path.write_text(f"from algorithmic_efficiency import spec\nfrom beside import get_batch_size\n{functions}# pmap\n")
    assert not load(path).replicated  # a comment is no use of it
    assert "beside" not in sys.modules
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def update_params(): ...\n", "no function init_optimizer_state and no get_batch_size and no data_selection"),
        ("import torch_of_some_kind\n", "PyTorch"),
        ("import nothing_like_it.really\n", "install nothing_like_it"),
        ("from algoperf import halton\n", "cannot import name 'halton'"),
        ("raise KeyError('x')\n", "the file raised KeyError"),
        ("def update_params(:\n", "no Python file"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "submission.py"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        load(path)


def test_style(tmp_path: Path) -> None:
    optax = tmp_path / "optimizer.py"
    optax.write_text("import optax\ndef make(learning_rate): return optax.sgd(learning_rate)  # not update_params\n")
    imported = tmp_path / "imported.py"
    imported.write_text("from elsewhere import update_params\n")
    broken = tmp_path / "broken.py"
    broken.write_text("def (\n")
    assert is_algoperf_style(ADAMW)
    assert is_algoperf_style(imported)
    assert not any(map(is_algoperf_style, (optax, broken, tmp_path, tmp_path / "none.py")))
    with pytest.raises(BadInput, match="there is no file"):
        load(tmp_path / "none.py")


@pytest.mark.parametrize("metric", ["error_rate", "loss"])
def test_logs_can_be_scored(tmp_path: Path, metric: str) -> None:
    values = (0.5, float("nan"), 0.2, 0.1)
    evaluations = tuple(Evaluation(5 * k, 0.25 * k, value, value) for k, value in enumerate(values, 1))
    run = Run(evaluations, "steps", 20, 1.0, 16, test_loss=0.3, test_metric=0.15)
    path = write_log(run, tmp_path / "logs/mine/study_0/image_mlp_jax/trial_1", metric)
    header, *lines = path.read_text().splitlines()
    assert header.split(",")[:3] == ["global_step", "score", f"validation/{metric}"]
    assert {"validation/loss", f"test/{metric}", "accumulated_submission_time"} <= set(header.split(","))
    assert len(lines) == 4
    goal = {"target_metric_name": metric, "validation_target_value": 0.2, "target_metric_goal": "minimize"}
    document = {"benchmark_version": "x", "base_workloads": ["image_mlp"], "workloads": {"image_mlp": goal}}
    (tmp_path / "targets.json").write_text(json.dumps(document))
    table = read_logs(tmp_path / "logs", read_targets(tmp_path / "targets.json"))
    assert table.columns["hit_eval_index"].tolist() == [2]
    assert table.columns["time_to_target_s"].tolist() == [0.75]
    assert table.columns["submission"].tolist() == ["mine"]


def test_the_facade_says_what_the_parameters_are() -> None:
    class Named(Regression):
        """A workload whose parameters are called as those of our Transformers."""

        def init(self, key: jax.Array) -> dict[str, Any]:
            layer = {"query_key_value": jnp.zeros((2, 6)), "attention_out": jnp.zeros((2, 2)), "in": jnp.zeros((2, 8))}
            return {
                "embedding": jnp.zeros((4, 2)),
                "layer_0": layer,
                "norm": {"gain": jnp.ones(2), "bias": jnp.zeros(2)},
            }

    workload = Named(width=8)
    facade = Facade(workload, steps=100, evaluations=4, max_seconds=8.0)
    params = workload.init(jax.random.key(0))
    assert jax.tree.map(lambda shape: shape.shape_tuple, facade.param_shapes) == jax.tree.map(jnp.shape, params)
    kinds = facade.model_params_types
    assert jax.tree.structure(kinds) == jax.tree.structure(params)
    assert kinds["embedding"] == ParameterType.EMBEDDING
    assert kinds["norm"] == {"gain": ParameterType.LAYER_NORM_SCALE, "bias": ParameterType.LAYER_NORM_BIAS}
    assert kinds["layer_0"]["query_key_value"] == ParameterType.ATTENTION_QKV
    assert kinds["layer_0"]["attention_out"] == ParameterType.ATTENTION_OUT
    assert kinds["layer_0"]["in"] == ParameterType.WEIGHT
    assert (facade.step_hint, facade.eval_period_time_sec) == (100, 2.0)
    assert facade.is_output_params("readout")
    assert not hasattr(facade, "test_target_value")


def test_batches_come_back() -> None:
    digits = ImageMLP(width=8, depth=1)
    arrays = digits.load().arrays
    for batch, inputs in (
        (digits.batch(arrays, jax.random.key(0), 0), (16, 64)),
        ({"labels": np.arange(3), "a": np.zeros((3, 2)), "b": np.ones(3)}, {"a": (3, 2), "b": (3,)}),
        (np.zeros((4, 9), np.uint8), (4, 9)),
    ):
        form = BatchForm.of(batch)
        given = form.split(batch)
        assert jax.tree.map(jnp.shape, given["inputs"]) == inputs
        assert len(given["targets"]) == len(jax.tree.leaves(batch)[0])
        back = form.join(given["inputs"], given["targets"])
        assert jax.tree.structure(back) == jax.tree.structure(batch)
        assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(batch)))


def test_overlapping_spans_count_once() -> None:
    assert covered([(1.0, 3.0), (0.0, 2.0), (2.5, 2.6), (5.0, 9.0)], 0.5, 6.0) == pytest.approx(3.5)
    assert covered([], 0.0, 1.0) == 0.0
