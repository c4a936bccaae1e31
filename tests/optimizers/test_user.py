"""Optimizers from a user's file: what works, and what is caught."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import cli
from harness import train as train_command
from harness.config import StudyConfig
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.optimizers.user import load_optimizer
from harness.records.store import Store
from harness.sweep import trials_of
from tests.test_bad_input import SMALL
from tests.trials import run, small_trial
from workloads.base import BadInput

FILE = """
import jax, jax.numpy as jnp, numpy, optax, random

FAMILY = "adam"

def make(learning_rate=2e-3, b1=0.9, b2=0.999, nesterov=False, weight_decay=0.0):
    return optax.adamw(learning_rate, b1, b2, nesterov=nesterov, weight_decay=weight_decay)

def reseeds(learning_rate):
    random.seed(0); numpy.random.seed(0)
    return optax.sgd(learning_rate)

def reshapes(learning_rate):
    def update(grads, state, params=None):
        return jax.tree.map(lambda g: jnp.concatenate([g, g]), grads), state
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

def renames(learning_rate):
    return optax.GradientTransformation(lambda params: optax.EmptyState(), lambda g, s, p=None: ({"other": 0.0}, s))

def grows(learning_rate):
    def update(grads, state, params=None):
        return jax.tree.map(lambda g: -learning_rate * g, grads), jnp.concatenate([state, state])
    return optax.GradientTransformation(lambda params: jnp.zeros(1), update)

def nothing(learning_rate):
    return 3

def raises(learning_rate):
    raise ValueError("no such luck")

def fails(learning_rate):
    def update(grads, state, params=None):
        return range(learning_rate), state
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

def needs(learning_rate, momentum):
    return optax.sgd(learning_rate, momentum)

def unfit(rate):
    return optax.sgd(rate)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(FILE)
    return path


def step(optimizer):
    trial = replace(small_trial(), optimizer=optimizer)
    train = make_train(trial.static())
    data = {name: jnp.asarray(array) for name, array in trial.workload.load().arrays.items()}
    return jax.eval_shape(lambda h: train.step(train.init(h), h, data), trial.hparams())


def test_hyperparameters_come_from_the_signature(file):
    made = load_optimizer(f"{file}:make")()
    assert (made.learning_rate, made.b1, made.nesterov, made.weight_decay) == (2e-3, 0.9, False, 0.0)
    assert (made.name, made.family) == ("mine:make", "adam")
    assert load_optimizer(f"{file}:make") is load_optimizer(f"{file}")
    assert load_optimizer("lion").name == "lion"


def test_a_default_of_the_learning_rate_makes_a_default_for_those_who_do_not_tune(file):
    made = load_optimizer(f"{file}:make").literature
    assert made.values == {"learning_rate": 2e-3}
    assert made.source == "the default of learning_rate in make() of mine.py"
    without = load_optimizer(f"{file}:reseeds")
    assert without.literature is None
    assert without().learning_rate == 1e-3  # as recorded trials have it


@pytest.mark.parametrize("rate", ["-1e-3", "float('inf')", "float('nan')"])
def test_a_default_learning_rate_that_is_none_is_refused(tmp_path, rate):
    path = tmp_path / "mine.py"
    path.write_text(f"import optax\n\ndef make(learning_rate={rate}):\n    return optax.sgd(learning_rate)\n")
    with pytest.raises(BadInput, match=r"default learning_rate=.* non-negative finite number; or give none"):
        load_optimizer(str(path))


def test_it_trains_as_the_registered_one_does(file, tmp_path):
    trials = [
        small_trial(optimizer__learning_rate=5e-3, optimizer__weight_decay=0.0),
        replace(small_trial(), optimizer=load_optimizer(f"{file}:make")(learning_rate=5e-3)),
    ]
    store = Store(tmp_path)
    run(trials, store)
    losses = {row["trial"]: row["final_loss"] for row in store.trials().to_pylist()}
    assert losses[trials[0].id] == pytest.approx(losses[trials[1].id], rel=1e-5)


def test_a_changed_file_is_another_trial(file, tmp_path):
    other = tmp_path / "mine.py"
    other.write_text(FILE + "\n# changed\n")
    ids = {replace(small_trial(), optimizer=load_optimizer(f"{path}:make")()).id for path in (file, other)}
    assert len(ids) == 2


def test_train_and_studies_take_it_as_any_other(file, results, capsys):
    words = [*SMALL, f"results={results}"]
    assert cli.run(train_command.main, [*words, f"optimizer={file}:make", "optimizer.b1=0.8"]) == 0
    assert cli.run(train_command.main, ["-m", *words, f"optimizer=adam,{file}:make", "study_name=swept"]) == 0
    (row,) = Store(results / "train").trials().to_pylist()
    assert (row["optimizer"], row["optimizer.b1"], row["optimizer.b2"]) == ("mine:make", 0.8, 0.999)
    swept = {row["optimizer"] for row in Store(results / "swept").trials().to_pylist()}
    assert swept == {"adam", "mine:make"}
    study = StudyConfig(name="s", base={"workload": "regression", "budget": {"steps": 5}})
    points = [{"optimizer": name, "optimizer.learning_rate": 0.5} for name in ("adam", f"{file}:make")]
    assert [trial.optimizer.name for trial in trials_of(study, points)] == ["adam", "mine:make"]
    assert "mine:make" not in list(OPTIMIZERS)
    capsys.readouterr()
    assert cli.run(train_command.main, [*words, f"optimizer={file}:make", "optimizer.b3=0.8"]) == 2
    assert "unknown key 'optimizer.b3'. Did you mean 'optimizer.b2'?" in " ".join(capsys.readouterr().err.split())
    assert cli.run(train_command.main, [*words, "optimizer=nowhere.py:make"]) == 2
    assert "there is no file nowhere.py" in " ".join(capsys.readouterr().err.split())


STACKS = """
import jax, jax.numpy as jnp, optax

def make(learning_rate):
    def update(grads, state, params=None):
        def whitened(g):
            stack = jnp.broadcast_to(jnp.eye(8), (4, 8, 8)) + jnp.sum(g)
            return -learning_rate * g * MAP(lambda m: jnp.linalg.eigh(m)[0][0], stack).sum()
        return jax.tree.map(whitened, grads), state
    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
"""


def test_stacks_of_matrices_are_refused_where_they_might_wait_for_ever(tmp_path):
    """One matrix at a time is fine, also in trials that train side by side."""
    for name, mapped in (("stacks", "(lambda f, x: jax.vmap(f)(x))"), ("single", "jax.lax.map")):
        (tmp_path / f"{name}.py").write_text(STACKS.replace("MAP", mapped))
    trial = small_trial()
    one = replace(trial, optimizer=load_optimizer(str(tmp_path / "single.py"))(learning_rate=1e-9))
    assert run([one, replace(one, seed=1)], Store(tmp_path / "one")).trained == 2
    with pytest.raises(BadInput, match=r"hands LAPACK a stack of matrices.*jax\.lax\.map"):
        run([replace(trial, optimizer=load_optimizer(str(tmp_path / "stacks.py"))())], Store(tmp_path / "all"))


def test_seeding_global_generators_changes_nothing(file):
    trial = replace(small_trial(), optimizer=load_optimizer(f"{file}:reseeds")())
    data = {name: jnp.asarray(array) for name, array in trial.workload.load().arrays.items()}
    train = make_train(trial.static())

    def loss():
        return float(jax.jit(lambda h: train.step(train.init(h), h, data)[1])(trial.hparams()))

    first = loss()
    np.random.seed(5)
    assert loss() == first


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("reshapes", "may not change the model"),
        ("renames", "another structure"),
        ("grows", "changes its shape"),
        ("nothing", "no optax transformation"),
        ("raises", r"raises\(\) in .*py raised ValueError: no such luck"),
        ("fails", "update raised TypeError"),
    ],
)
def test_what_breaks_the_contract_is_caught_before_training(file, function, words):
    with pytest.raises(BadInput, match=words):
        step(load_optimizer(f"{file}:{function}")())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("needs", "momentum has no default"),
        ("unfit", "must take learning_rate first"),
        ("mak", "Did you mean 'make'"),
    ],
)
def test_functions_that_are_no_optimizers_are_refused(file, name, words):
    with pytest.raises(BadInput, match=words):
        load_optimizer(f"{file}:{name}")


def test_a_file_that_cannot_be_imported_says_why(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name\n")
    with pytest.raises(BadInput, match="nothing_of_that_name"):
        load_optimizer(str(path))


@pytest.mark.parametrize(
    "line",
    ["import workloads.image_mlp", "from workloads import base", "from harness.engine import pack", "import harness"],
)
def test_a_file_that_reaches_for_the_data_is_refused(tmp_path, line):
    path = tmp_path / "peeks.py"
    path.write_text(f"import optax\n\ndef make(learning_rate):\n    {line}\n    return optax.sgd(learning_rate)\n")
    with pytest.raises(BadInput, match="may not see the data"):
        load_optimizer(str(path))


def test_registered_optimizers_may_be_built_upon(tmp_path):
    path = tmp_path / "builds.py"
    path.write_text(
        "from harness.optimizers import OPTIMIZERS\n\n"
        "def make(learning_rate):\n    return OPTIMIZERS['lion']().build(learning_rate)\n"
    )
    assert load_optimizer(str(path))().learning_rate > 0


AVERAGED = """
import jax, jax.numpy as jnp, optax

def evaluation_params(state, params):
    return jax.tree.map(jnp.zeros_like, params)

def make(learning_rate):
    return optax.sgd(learning_rate)
"""


def test_what_is_evaluated_may_be_an_average(tmp_path):
    """Here all zeros, which predict every symbol alike, whatever was trained."""
    (tmp_path / "averaged.py").write_text(AVERAGED)
    optimizer = load_optimizer(f"{tmp_path / 'averaged.py'}:make")(learning_rate=1e-2)
    store = Store(tmp_path / "study")
    run([replace(small_trial(), optimizer=optimizer)], store)
    (row,) = store.trials().to_pylist()
    assert row["final_loss"] == pytest.approx(np.log(16), rel=1e-5)
    assert row["test_loss"] == pytest.approx(np.log(16), rel=1e-5)
    losses = np.array([value for value in store.curves()["train_loss"].to_pylist() if value is not None])
    assert np.abs(losses - np.log(16)).max() > 1e-3
