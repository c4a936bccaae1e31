"""Training with AlgoPerf submissions: the engine's curve, what is evaluated and timed, how it ends, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from harness import compete
from harness.algoperf import Run, Task, facade, load, logged, train
from harness.algoperf.records import BrokenOff
from harness.budget import Budget
from harness.config import CONFIG_DIR
from harness.engine.program import make_train
from harness.goals import read_goals
from harness.parametrizations import PARAMETRIZATIONS
from harness.records.store import Store
from harness.rulesets import RULESETS
from tests.trials import small_trial
from workloads.base import BadInput, Workload
from workloads.image_mlp import ImageMLP
from workloads.regression import Regression

DIGITS = ImageMLP(width=8, depth=1)
LINEAR = Regression(width=8, batch_size=8)
SHORT = {"steps": 6, "evaluations": 3, "seed": 0}
ADAMW = {"learning_rate": 1e-2, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.1}
SGD = """
import functools, random, time
import jax, jax.numpy as jnp, numpy as np
from algoperf import spec

def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    return ()

@functools.partial(jax.jit, static_argnums=0)
def train_step(workload, params, batch, rng, rate):
    def loss_of(params):
        logits, _ = workload.model_fn(params, batch, None, spec.ForwardPassMode.TRAIN, rng, update_batch_norm=True)
        loss = workload.loss_fn(batch["targets"], logits, batch.get("weights"), label_smoothing=SMOOTHING)
        return loss["summed"] / loss["n_valid_examples"]
    return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss_of)(params))

SMOOTHING = 0.0

def update_params(workload, current_param_container, current_params_types, model_state, hyperparameters, batch, loss_type,
                  optimizer_state, eval_results, global_step, rng):
    return optimizer_state, train_step(workload, current_param_container, batch, rng, 0.1), model_state

def get_batch_size(workload_name):
    return {"regression": 8}[workload_name]

def data_selection(workload, input_queue, optimizer_state, current_param_container, model_state, hyperparameters, global_step,
                   rng):
    return next(input_queue)
"""
UPDATE = "def update_params(workload, current_param_container, *, model_state, optimizer_state, batch, global_step, rng, **_):"


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Run]:
    """Train by gradient descent, with more code at the end of its file."""

    def trained(more: str = "", workload: Workload = LINEAR, **options: Any) -> Run:
        path = tmp_path / "submission.py"
        path.write_text(SGD + more)
        return train(load(path), workload, options.pop("hyperparameters", {}), **{**SHORT, **options})

    return trained


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Gradient descent with nothing added."""
    path = tmp_path_factory.mktemp("plain") / "submission.py"
    path.write_text(SGD)
    return train(load(path), LINEAR, {}, **SHORT)


def losses(run: Run) -> list[float]:
    return [evaluation.loss for evaluation in run.evaluations]


def test_adamw_trains_as_the_engine_does() -> None:
    found = train(load(Path(__file__).with_name("adamw.py")), DIGITS, ADAMW, steps=20, evaluations=4, seed=3)
    trial = replace(
        small_trial(optimizer__learning_rate=1e-2, optimizer__weight_decay=0.1, optimizer__b2=0.99),
        workload=DIGITS,
        parametrization=PARAMETRIZATIONS["sp"](base_width=8),
        budget=Budget(steps=20),
        seed=3,
    )
    init, chunk, evaluate, _ = map(jax.jit, make_train(trial.static()))
    hparams, data = trial.hparams(), DIGITS.load().arrays
    state = init(hparams)
    for evaluation in found.evaluations:
        state, _ = chunk(state, hparams, np.int32(evaluation.step), data)
        scores = evaluate(state, hparams, data)
        assert evaluation.loss == pytest.approx(float(scores["validation"]["loss"]), rel=1e-5)
        assert evaluation.metric == pytest.approx(float(scores["validation"]["error_rate"]), rel=1e-5)
    assert [evaluation.step for evaluation in found.evaluations] == [5, 10, 15, 20]
    assert found.test_loss == pytest.approx(float(scores["test"]["loss"]), rel=1e-5)
    assert found.test_metric == pytest.approx(float(scores["test"]["error_rate"]), rel=1e-5)
    assert found.batch_size == DIGITS.batch_size  # it knows no workload of this name
    assert (found.ended, found.steps) == ("steps", 20)


def test_compiling_is_not_timed(trained: Callable[..., Run], plain: Run) -> None:
    seconds = [evaluation.seconds for evaluation in plain.evaluations]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == plain.seconds


def test_work_in_a_call_that_compiles_is_timed(trained: Callable[..., Run]) -> None:
    """As is a sleep while JAX traces: compiling is what is free, not the call in which it happens."""
    slow_to_trace = """
fast = train_step.__wrapped__

@functools.partial(jax.jit, static_argnums=0)
def train_step(*args):
    time.sleep(1.5)
    return fast(*args)
"""
    assert trained(slow_to_trace).seconds > 0.7
    burst = f"""
@functools.partial(jax.jit, static_argnums=0)
def many(workload, params, batches, rng):
    def body(params, step):
        batch = jax.tree.map(lambda leaf: leaf[step % 20], batches)
        return train_step(workload, params, batch, rng, 0.1), None
    return jax.lax.scan(body, params, jnp.arange(COUNT))[0]

def data_selection(workload, input_queue, optimizer_state, current_param_container, model_state, hyperparameters, global_step,
                   rng):
    batch = next(input_queue)
    return batch if global_step else jax.tree.map(lambda *x: jnp.stack(x), *(next(input_queue) for _ in range(20)))

{UPDATE}
    if global_step == 0:
        time.sleep(SLEEP)
        return (), many(workload, current_param_container, batch, rng), None
    return (), train_step(workload, current_param_container, batch, rng, 0.1), None
"""
    short, long, asleep = (
        trained(f"COUNT, SLEEP = {count}, {sleep}\n{burst}").seconds for count, sleep in ((1, 0), (600_000, 0), (1, 1))
    )
    assert long > short + 0.2
    assert asleep > 0.9


def test_prepare_for_eval_is_timed_and_its_weights_are_evaluated_and_kept(
    trained: Callable[..., Run], plain: Run
) -> None:
    prepare = """
def prepare_for_eval(*, current_param_container, model_state, optimizer_state, **_):
    time.sleep(0.1)
    return optimizer_state, jax.tree.map(jnp.zeros_like, current_param_container), model_state
"""
    zeros = trained(prepare, evaluations=6)
    np.testing.assert_allclose(losses(zeros), 2 + LINEAR.noise_std**2, rtol=0.2)
    assert len(set(losses(zeros))) == 1  # training went on from zeros, where each evaluation found it again
    assert zeros.seconds > 0.6
    assert [evaluation.seconds > 0.1 * k for k, evaluation in enumerate(zeros.evaluations, 1)] == [True] * 6
    average = """
def update_params(workload, current_param_container, *, model_state, optimizer_state, batch, rng, **_):
    if optimizer_state:
        current_param_container = optimizer_state[0]
    return (train_step(workload, current_param_container, batch, rng, 0.1),), current_param_container, model_state

def prepare_for_eval(*, current_param_container, model_state, optimizer_state, **_):
    return optimizer_state, optimizer_state[0], model_state
"""
    assert losses(trained(average)) == losses(plain)


def test_data_selection_may_take_more_batches(trained: Callable[..., Run], plain: Run) -> None:
    two = """
def data_selection(workload, input_queue, *_):
    first, second = next(input_queue), next(input_queue)
    assert not np.array_equal(first["targets"], second["targets"])
    assert first["targets"].shape == (8,) and first["inputs"]["innovations"].shape == (8, 8)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second)
"""
    assert losses(trained(two)) != losses(plain)
    second = "def data_selection(workload, input_queue, *_):\n    next(input_queue)\n    return next(input_queue)\n"
    assert losses(trained(second)) != losses(plain)


def test_get_batch_size_is_honoured(trained: Callable[..., Run], plain: Run) -> None:
    assert plain.batch_size == 8
    same = trained("def get_batch_size(name): return None\n")
    assert losses(same) == losses(plain)
    longer = trained("", LINEAR.replace(batch_size=16))  # as many examples
    assert (longer.batch_size, longer.steps) == (8, 12)
    assert [evaluation.step for evaluation in longer.evaluations] == [4, 8, 12]
    for error in ("KeyError", "ValueError", "NotImplementedError"):
        assert losses(trained(f"def get_batch_size(name): raise {error}(name)\n")) == losses(plain)
    with pytest.raises(BadInput, match="get_batch_size returned 'many'"):
        trained("def get_batch_size(name): return 'many'\n")


def test_early_completion_is_evaluated(trained: Callable[..., Run]) -> None:
    body = f"""
{UPDATE}
    if global_step == 3:
        raise spec.TrainingCompleteError
    return optimizer_state, train_step(workload, current_param_container, batch, rng, 0.1), model_state
"""
    found = trained(body)
    assert (found.ended, found.steps) == ("submission", 4)
    assert [evaluation.step for evaluation in found.evaluations] == [2, 4]
    assert found.test_loss == found.evaluations[-1].loss  # all splits of this workload agree


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raise RuntimeError('broken')", "step 4 raised RuntimeError: broken"),
        ("raise SystemExit(0)", "step 4 raised SystemExit"),
        ("return optimizer_state, {}, model_state", "in another tree"),
    ],
)
def test_what_breaks_it_off_leaves_what_was_reached(
    trained: Callable[..., Run], plain: Run, tmp_path: Path, what: str, words: str
) -> None:
    body = f"""
{UPDATE}
    if global_step == 4:
        {what}
    return optimizer_state, train_step(workload, current_param_container, batch, rng, 0.1), model_state
"""
    with pytest.raises(BrokenOff, match=words) as caught:
        trained(body)
    run = caught.value.run
    assert (run.ended, run.steps) == ("error", 4)
    assert losses(run) == losses(plain)[:2]
    assert run.test_loss == losses(run)[-1]  # all splits of this workload agree
    task = Task(load(tmp_path / "submission.py"), LINEAR, {}, **SHORT)
    kept = logged(task, tmp_path / "log", "loss")
    assert (kept.error, kept.steps, losses(kept)) == (run.error, 4, losses(run))
    assert logged(task, tmp_path / "log", "loss") == kept


def test_what_may_be_the_machines_fault_is_no_run(trained: Callable[..., Run], tmp_path: Path) -> None:
    body = f"""
{UPDATE}
    if global_step == 4:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: somebody else's")
    return optimizer_state, train_step(workload, current_param_container, batch, rng, 0.1), model_state
"""
    (tmp_path / "submission.py").write_text(SGD + body)
    with pytest.raises(BadInput, match="RESOURCE_EXHAUSTED"):
        logged(Task(load(tmp_path / "submission.py"), LINEAR, {}, **SHORT), tmp_path / "log", "loss")
    assert not (tmp_path / "log").exists()


def test_a_run_of_nan_is_read_as_it_was_written(trained: Callable[..., Run], tmp_path: Path) -> None:
    body = UPDATE + "\n    return (), jax.tree.map(lambda p: p * jnp.nan, current_param_container), model_state\n"
    (tmp_path / "submission.py").write_text(SGD + body)
    task = Task(load(tmp_path / "submission.py"), LINEAR, {}, **SHORT)
    first, again = (logged(task, tmp_path / "log", "loss") for _ in range(2))
    assert first.test_loss is not None
    assert np.isnan([first.test_loss, again.test_loss]).all()


def test_a_first_step_that_fails_is_no_run(trained: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "submission.py").write_text(f"{SGD}{UPDATE}\n    raise RuntimeError('broken')\n")
    with pytest.raises(BadInput, match="step 0 raised RuntimeError: broken"):
        logged(Task(load(tmp_path / "submission.py"), LINEAR, {}, **SHORT), tmp_path / "log", "loss")
    assert not (tmp_path / "log").exists()


def test_only_update_params_may_complete_training(trained: Callable[..., Run]) -> None:
    with pytest.raises(BadInput, match="prepare_for_eval after step 2 raised TrainingCompleteError"):
        trained("def prepare_for_eval(*_, **__): raise spec.TrainingCompleteError\n")


def test_more_time_is_used(trained: Callable[..., Run], tmp_path: Path) -> None:
    """A run that a limit ended is made again with a larger one; and its log has the test curve that it has."""
    body = UPDATE + "\n    time.sleep(0.05)\n    return optimizer_state, current_param_container, model_state\n"
    (tmp_path / "submission.py").write_text(SGD + body)
    task = Task(load(tmp_path / "submission.py"), LINEAR, {}, **SHORT, max_seconds=0.25, test_curve=True)
    first = logged(task, tmp_path / "log", "loss")
    assert first.ended == "time"
    assert "test/loss" in (tmp_path / "log" / "eval_measurements.csv").read_text()
    assert logged(task, tmp_path / "log", "loss") == first
    assert logged(replace(task, max_seconds=9.0), tmp_path / "log", "loss").ended == "steps"


def test_time_ends_it(trained: Callable[..., Run]) -> None:
    body = UPDATE + "\n    time.sleep(0.05)\n    return optimizer_state, current_param_container, model_state\n"
    found = trained(body, max_seconds=0.25)
    assert found.ended == "time"
    assert found.steps < 6
    assert found.seconds > 0.05 * found.steps
    assert [evaluation.step for evaluation in found.evaluations] in ([], [2], [2, 4])


def test_nan_goes_on(trained: Callable[..., Run]) -> None:
    body = UPDATE + "\n    return (), jax.tree.map(lambda p: p * jnp.nan, current_param_container), model_state\n"
    found = trained(body)
    assert (found.ended, found.steps) == ("steps", 6)
    assert np.isnan(losses(found)).all()


def test_pmap_runs_on_all_devices(trained: Callable[..., Run], plain: Run) -> None:
    body = """
from flax import jax_utils

@functools.partial(jax.pmap, axis_name="batch", static_broadcasted_argnums=0, donate_argnums=1)
def pmapped(workload, params, batch, rng):
    def loss_of(params):
        logits, _ = workload.model_fn(params, batch, None, spec.ForwardPassMode.TRAIN, rng, update_batch_norm=True)
        loss = workload.loss_fn(batch["targets"], logits)
        return loss["summed"], loss["n_valid_examples"]
    grads, count = jax.lax.psum(jax.grad(loss_of, has_aux=True)(params), "batch")
    return jax.tree.map(lambda p, g: p - 0.1 * g / count, params, grads)

def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    return jax_utils.replicate({"count": jnp.zeros(())})

def update_params(workload, current_param_container, *, batch, optimizer_state, model_state, rng, **_):
    rngs = jax.random.split(rng, jax.local_device_count())
    return optimizer_state, pmapped(workload, current_param_container, batch, rngs), model_state
"""
    np.testing.assert_allclose(losses(trained(body)), losses(plain), rtol=1e-5)
    with pytest.raises(BadInput, match="is not divisible"):
        trained(body + "\ndef get_batch_size(name): return 7\n")


def test_a_mesh_of_its_own(trained: Callable[..., Run], plain: Run) -> None:
    body = f"""
from jax.sharding import Mesh, NamedSharding, PartitionSpec

{UPDATE}
    mesh = Mesh(jax.devices(), ("batch",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    step = jax.jit(train_step.__wrapped__, static_argnums=0, in_shardings=(whole, split, whole, whole), out_shardings=whole)
    return optimizer_state, step(workload, current_param_container, batch, rng, 0.1), model_state
"""
    np.testing.assert_allclose(losses(trained(body)), losses(plain), rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return (), jax.tree.map(lambda p: p[:4], current_param_container), None",
            r"shape \(4, 1\) where the model has",
        ),
        ("return (), {'readout': jnp.zeros(3)}, None", "in another tree"),
        ("return current_param_container", "must return"),
        ("raise RuntimeError('broken')", "step 0 raised RuntimeError: broken"),
        ("return (), workload.model_fn(current_param_container, batch, None, None, rng)[0] + 1, None", "TypeError"),
        ("return jnp.exp(workload.model_fn(current_param_container, batch, None, None, rng)[0])", "tell no logits"),
        ("return workload.loss_fn(batch['targets'], jnp.zeros(8))", "tell no logits"),
        ("return workload.validation_target_value", "not offered to submissions"),
        ("return workload._workload.load().arrays", "not offered to submissions"),
        ("raise KeyError('x')", r"REPLICATED = True"),
        (
            "l, _ = workload.model_fn(current_param_container, batch, None, None, rng); "
            "workload.loss_fn(batch['targets'], l)['per_example']",
            "tell no losses of single examples",
        ),
        (
            "l, _ = workload.model_fn(current_param_container, batch, None, None, rng); workload.loss_fn(0, l, jnp.ones(8))",
            "mask",
        ),
    ],
)
def test_refused(trained: Callable[..., Run], body: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        trained(f"{UPDATE}\n    {body}\n")


def test_label_smoothing_is_honoured_or_refused(trained: Callable[..., Run], plain: Run) -> None:
    with pytest.raises(BadInput, match="'regression' has none"):
        trained(hyperparameters={"label_smoothing": 0.1})
    with pytest.raises(BadInput, match="'regression' has none"):
        trained("SMOOTHING = 0.1\n")
    traced = """
def train_step(workload, params, batch, rng, rate):
    return smoothing_step(workload, params, batch, rng, rate, TRACED)

@functools.partial(jax.jit, static_argnums=0)
def smoothing_step(workload, params, batch, rng, rate, smoothing):
    def loss_of(params):
        logits, _ = workload.model_fn(params, batch, None, spec.ForwardPassMode.TRAIN, rng, update_batch_norm=True)
        loss = workload.loss_fn(batch["targets"], logits, label_smoothing=smoothing)
        return loss["summed"] / loss["n_valid_examples"]
    return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss_of)(params))
"""
    with pytest.raises(BadInput, match="'regression' has none"):
        trained(traced + "TRACED = 0.1\n")
    np.testing.assert_allclose(losses(trained(traced + "TRACED = 0.0\n")), losses(plain), rtol=1e-5)
    digits = trained("SMOOTHING = 0.1\n", DIGITS, steps=2, evaluations=1)
    np.testing.assert_allclose(
        losses(trained(traced + "TRACED = 0.1\n", DIGITS, steps=2, evaluations=1)), losses(digits), rtol=1e-5
    )
    np.testing.assert_allclose(
        losses(trained("", DIGITS.replace(label_smoothing=0.1), steps=2, evaluations=1)), losses(digits), rtol=1e-5
    )


def test_what_it_does_to_the_process_ends_with_it(trained: Callable[..., Run], plain: Run) -> None:
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), dict(jax.config.values)
    meddling = f"""
jax.config.update("jax_enable_x64", True)
drawn = []
{UPDATE}
    assert jax.config.jax_enable_x64
    random.seed(0); np.random.seed(0); jax.config.update("jax_numpy_rank_promotion", "allow")
    assert not drawn or drawn[0] == global_step - 1
    drawn[:] = [global_step]
    return optimizer_state, train_step(workload, current_param_container, batch, rng, np.float32(0.1)), model_state
"""
    np.testing.assert_allclose(losses(trained(meddling)), losses(plain), rtol=1e-6)
    assert (random.getstate(), np.random.get_state()[1].tolist(), dict(jax.config.values)) == before
    failing = (
        meddling
        + f"{UPDATE}\n    np.random.seed(1); jax.config.update('jax_numpy_rank_promotion', 'allow'); raise KeyError('x')\n"
    )
    with pytest.raises(BadInput, match="KeyError"):
        trained(failing)
    assert (random.getstate(), np.random.get_state()[1].tolist(), dict(jax.config.values)) == before
    moved = "jax.tree.map(lambda p: p + random.random() + np.random.rand(), current_param_container)"
    draws = f"{UPDATE}\n    return (), {moved}, None\n"
    first, again, other = (losses(trained(draws, steps=2, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_dropout_is_honoured_or_said_to_be_ignored(
    trained: Callable[..., Run], plain: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    passing = """
def train_step(workload, params, batch, rng, rate):
    return dropping_step(workload, params, batch, rng, rate, *TRACED)

@functools.partial(jax.jit, static_argnums=0)
def dropping_step(workload, params, batch, rng, rate, *traced):
    def loss_of(params):
        logits, _ = workload.model_fn(params, batch, None, MODE, rng, dropout_rate=(*traced, STATIC)[0])
        loss = workload.loss_fn(batch["targets"], logits)
        return loss["summed"] / loss["n_valid_examples"]
    return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss_of)(params))

MODE = spec.ForwardPassMode.TRAIN
TRACED, STATIC = (), None
"""
    assert losses(trained(passing)) == losses(plain)
    assert "dropout" not in capsys.readouterr().out
    facade._say.cache_clear()
    for asked, said in (("STATIC = 0.1", "dropout_rate 0.1 is"), ("TRACED = (0.1,)", "of a traced value is")):
        assert losses(trained(f"{passing}{asked}\n")) == losses(plain)
        trained(f"{passing}{asked}\n")
        assert capsys.readouterr().out.count(f"{said} without effect: workload 'regression'") == 1
    trained(hyperparameters={"dropout_rate": 0.3})
    assert "dropout_rate 0.3 is without effect" in capsys.readouterr().out

    class Dropping(Regression):
        """Adds its rate to the loss's scale."""

        dropout: float | None = None

        def loss(self, params: Any, batch: Any, key: Any) -> Any:
            value, others = super().loss(params, batch, key)
            return value * (1.0 if self.dropout is None else 1.0 - self.dropout), others

    small = dataclasses.dataclass(frozen=True)(Dropping)(width=8, batch_size=8)
    assert losses(trained(passing, small)) == losses(plain)
    assert losses(trained(f"{passing}STATIC = 0.0\n", small)) == losses(plain)
    halved = losses(trained(f"{passing}STATIC = 0.5\n", small))
    assert halved != losses(plain)
    for other in (f"{passing}TRACED = (0.5,)\n", passing):
        given = {} if "0.5" in other else {"dropout_rate": 0.5}
        np.testing.assert_allclose(losses(trained(other, small, hyperparameters=given)), halved, rtol=1e-5)
    evaluating = f"{passing}STATIC = 0.5\nMODE = spec.ForwardPassMode.EVAL\n"
    assert losses(trained(evaluating, small)) == losses(plain)


def test_more_time_is_not_told(trained: Callable[..., Run]) -> None:
    """Self-tuning submissions train for longer than their step_hint says, as in AlgoPerf."""
    told = f"""
{UPDATE}
    raise RuntimeError((workload.step_hint, workload.max_allowed_runtime_sec, workload.eval_period_time_sec))
"""
    with pytest.raises(BadInput, match=r"\(6, 8\.0, 4\.0\)"):
        trained(told, steps=9, max_seconds=12.0, stretch=1.5)
    with pytest.raises(BadInput, match=r"\(12, 8\.0, 4\.0\)"):  # of its own batch size, half of ours
        trained(told, LINEAR.replace(batch_size=16), steps=9, max_seconds=12.0, stretch=1.5)


@pytest.mark.parametrize("ruleset", RULESETS)
def test_the_hint_is_that_of_external_tuning(tmp_path: Path, ruleset: str) -> None:
    (tmp_path / "tuning_search_space.json").write_text('{"learning_rate": {"min": 1, "max": 2}}')
    (tmp_path / "mine.py").write_text(SGD)
    goal = read_goals(CONFIG_DIR / "targets")["image_mlp"]
    runs = compete._runs(load(tmp_path / "mine.py"), RULESETS[ruleset](), [goal], Store(tmp_path / "results"), False)
    task = runs[0].task
    told = facade.Facade(task.workload, task.steps, task.evaluations, math.inf, task.stretch).step_hint
    assert told == math.ceil(goal.steps * 4 / 3)
    assert task.steps == RULESETS[ruleset]().longest(goal.steps)


def test_train_state(trained: Callable[..., Run]) -> None:
    checks = f"""
{UPDATE.replace("**_", "train_state, **_")}
    assert train_state["is_time_remaining"] and not train_state["training_complete"]
    assert train_state["accumulated_logging_time"] == 0
    assert train_state["last_step_end_time"] <= time.time()
    if global_step in (0, 1):
        assert train_state["last_eval_time"] == train_state["accumulated_eval_time"] == 0
    if global_step == 2:
        assert 0 < train_state["accumulated_eval_time"] < 60
        assert 0 <= train_state["last_step_end_time"] - train_state["last_eval_time"] < 60
    assert (train_state["accumulated_submission_time"] > 0) == (global_step > 0)
    return (), train_step(workload, current_param_container, batch, rng, 0.1), model_state
"""
    assert trained(checks).ended == "steps"
    with pytest.raises(BadInput, match="not told whether targets"):
        trained(checks + "def update_params(*, train_state, **_): train_state['test_goal_reached']\n")
