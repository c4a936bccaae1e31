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
from harness.algoperf.apart import Apart
from harness.algoperf.facade import BatchForm, Facade
from harness.algoperf.spec import ParameterType
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
    path = tmp_path / "old.py"
    path.write_text(
        f"{functions()}from algorithmic_efficiency import spec\nfrom beside import get_batch_size  # pmap\n"
    )
    assert not load(path).replicated  # a comment is no use of it
    assert "beside" not in sys.modules
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def update_params(): ...\n", "no function init_optimizer_state and no get_batch_size and no data_selection"),
        ("import torch_of_some_kind\n", "PyTorch"),
        ("import nothing_like_it.really\n", "install nothing_like_it"),
        (
            "from algoperf import halton\n",
            "cannot import name 'halton'.*there are spec, jax_sharding_utils, random_utils",
        ),
        ("import algoperf.param_utils\n", "of algoperf there are spec, jax_sharding_utils, random_utils"),
        ("from .helper import step\n", "nothing beside it is called helper"),
        ("print(init.__closure__[0])\n", "line 1: __closure__ leads to what submissions may not see"),
        ("def data_selection(w, queue, *_): return queue.gi_frame.f_locals['data']\n", "may not see"),
        ("import jax\nfor a in jax.live_arrays(): ...\n", "line 2: .*live_arrays"),
        ("import jax\njax.monitoring.clear_event_listeners()\n", "jax.monitoring"),
        ("from jax import monitoring\n", "jax.monitoring"),
        ("raise KeyError('x')\n", "the file raised KeyError"),
        ("def update_params(:\n", "no Python file"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "submission.py"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        load(path)


def functions(**others: str) -> str:
    """Those of a submission, which do nothing but what is given."""
    names = ("init_optimizer_state", "update_params", "data_selection", "get_batch_size")
    return "".join(f"def {name}(*a): {others.get(name, '...')}\n" for name in names)


def test_it_is_called_as_its_folder_where_all_have_one_name(tmp_path: Path) -> None:
    (tmp_path / "muon").mkdir()
    for name, expected in (("submission.py", "muon"), ("lion.py", "lion")):
        (tmp_path / "muon" / name).write_text(functions())
        assert load(tmp_path / "muon" / name).name == expected


def test_relative_imports_work_as_in_a_package(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text("from .deeper import SIZE\n")
        (tmp_path / name / "deeper.py").write_text(f"SIZE = {value}\n")
        late = (
            "\n    from . import deeper\n    from .deeper import SIZE as again\n    return SIZE + again + deeper.SIZE"
        )
        text = f"from .helper import SIZE\n{functions(get_batch_size=late)}"
        (tmp_path / name / "submission.py").write_text(text)
        submission = load(tmp_path / name / "submission.py")
        assert [file.name for file in submission.files] == ["submission.py", "deeper.py", "helper.py"]
        apart = Apart(0)
        found = submission.functions(apart)
        with apart:
            assert found.get_batch_size("any") == 3 * value
        assert not any(module.startswith("windtunnel_submission") for module in sys.modules)


def test_what_a_function_imports_is_its_own(tmp_path: Path) -> None:
    """Not what another submission imported by the same name."""
    for name, value in (("one", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "deeper.py").write_text(f"SIZE = {value}\n")
        late = "\n    from .deeper import SIZE\n    return SIZE"
        (tmp_path / name / "submission.py").write_text(functions(get_batch_size=late))
        apart = Apart(0)
        found = load(tmp_path / name / "submission.py").functions(apart)
        with apart:
            assert found.get_batch_size("any") == value
        assert not any(module.startswith("windtunnel_submission") for module in sys.modules)


@pytest.mark.parametrize(
    ("body", "helper", "replicated"),
    [
        ("from helper import step\ndef update_params(*a): step()\n", "import jax\n@jax.pmap\ndef step(x): ...\n", True),
        ("import helper\ndef update_params(*a): helper.step()\n", "import jax\nstep = jax.pmap(len)\n", True),
        ("from jax import pmap as parallel\nstep = parallel(len)\ndef update_params(*a): step()\n", "", True),
        ("def update_params(*a):\n    from jax import pmap\n", "", True),
        ("import jax\ndef legacy(f): return jax.pmap(f)\n", "", False),
        ("from jax import pmap\n", "", False),
        ("from helper import other\n", "import jax\n@jax.pmap\ndef step(x): ...\ndef other(): ...\n", False),
        ("REPLICATED = True\n", "", True),
        ("import jax\nREPLICATED = False\ndef update_params(*a): jax.pmap(len)\n", "", False),
    ],
)
def test_pmap_is_looked_for_where_it_is_used(tmp_path: Path, body: str, helper: str, replicated: bool) -> None:
    (tmp_path / "helper.py").write_text(helper)
    (tmp_path / "submission.py").write_text(functions() + body)
    submission = load(tmp_path / "submission.py")
    assert submission.replicated == replicated
    assert f"REPLICATED = {not replicated}" in submission.replication


def test_it_is_compiled_as_it_is_written(tmp_path: Path) -> None:
    """Our own `from __future__ import annotations` is not its."""
    path = tmp_path / "submission.py"
    path.write_text(f"class A:\n    x: int = 0\nassert A.__annotations__['x'] is int\n{functions()}")
    load(path)


def test_random_utils(tmp_path: Path) -> None:
    path = tmp_path / "submission.py"
    path.write_text(
        "from algoperf import random_utils as prng\nimport jax, numpy as np\n"
        "key = prng.fold_in(prng.split(prng.PRNGKey(3), 2)[1], 5)\n"
        "assert (key == jax.random.fold_in(jax.random.split(jax.random.PRNGKey(3))[1], 5)).all()\n" + functions()
    )
    load(path)


def test_no_attribute_of_the_facade_leads_to_the_workload() -> None:
    facade = Facade(Regression(width=8), steps=100, evaluations=4, max_seconds=8.0)
    seen: list[Any] = []
    left: list[Any] = [facade]
    while left:
        one = left.pop()
        assert not isinstance(one, Regression)
        if not any(one is other for other in seen):
            seen.append(one)
            left += list(getattr(one, "__dict__", {}).values())
            left += one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple) else []
    assert not hasattr(facade, "_workload")


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
