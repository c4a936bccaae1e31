"""A user's own optimizer, from a small file:

    # my_optimizer.py
    import optax

    def make(learning_rate, b1=0.9, b2=0.99, weight_decay=0.0):
        return optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay)

The function returns an optax transformation; it is traced by JAX, with its numbers as tracers. Arguments with a default are
its hyperparameters: numbers are traced (trials that differ in them share a program), switches and integers are not.
A default of the learning rate, too (def make(learning_rate=3e-3, ...)), makes them its configuration for those who do not tune.
It may import other files of its folder, at its top; a change in one of them makes other trials, too.
Weight decay is what the function makes it: of all leaves here, where registered optimizers decay matrices only (optax's mask=).
The file may declare more of a submission in capitals (harness.submissions), and choose its examples:

    CANDIDATES = 4  # batches drawn a step

    def select(drawn, losses, count, key):  # of 4 * count examples the rows to train on, here those with the largest loss
        return jnp.argsort(-losses)[:count]
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from harness.optimizers.base import OPTIMIZERS, Literature, Optimizer
from harness.optimizers.own_files import importing_from, own_files, sha256_of
from harness.registry import nearest
from workloads.base import Array, BadInput, Batch, Params

FAMILIES = ("sgd", "adam", "matrix", "other")
_MOST_CANDIDATES = 64


def load_optimizer(name: str) -> type[Optimizer]:
    """The registered optimizer of this name, or of `FILE.py:FUNCTION`.

    The file may say FAMILY = "sgd" | "adam" | "matrix" (how updates scale with the gradient, which muP needs), and give
    evaluation_params(state, params) for optimizers that average weights. Raises BadInput on what is no optimizer.
    """
    if not is_file(name):
        return OPTIMIZERS[name]
    path, sha256 = _source(name)
    return _loaded(path, name.partition(":")[2] or "make", sha256)


def is_file(name: str) -> bool:
    """Whether the name is one of FILE.py or FILE.py:FUNCTION."""
    return ".py" in name


def declared(name: str) -> Mapping[str, Any]:
    """What a user's file (FILE.py or FILE.py:FUNCTION) says in capitals; nothing of a registered optimizer."""
    if not is_file(name):
        return {}
    return {key: value for key, value in vars(_module(*_source(name))).items() if key.isupper()}


def _source(name: str) -> tuple[str, str]:
    """(path, SHA-256) of a user's file, and of those that it imports from its folder."""
    file = Path(name.partition(":")[0])
    if not file.is_file():
        raise BadInput(f"there is no file {file}; optimizer= takes FILE.py:FUNCTION or one of {', '.join(OPTIMIZERS)}")
    return str(file.resolve()), sha256_of(own_files(file))


@functools.cache
def _loaded(path: str, attribute: str, sha256: str) -> type[Optimizer]:
    module = _module(path, sha256)
    function = getattr(module, attribute, None)
    if not callable(function):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise BadInput(f"{Path(path).name} has no function '{attribute}'. {nearest(attribute, functions)}")
    family = getattr(module, "FAMILY", "other")
    if family not in FAMILIES:
        raise BadInput(f"FAMILY = '{family}' in {Path(path).name} is unknown. {nearest(str(family), FAMILIES)}")
    fields = _fields(function, Path(path).name)

    def build(self: Optimizer, learning_rate: Array) -> optax.GradientTransformation:
        with _blamed(f"{attribute}() in {Path(path).name}"):
            made = function(learning_rate, **{field: getattr(self, field) for field, _, _ in fields})
        if not isinstance(made, optax.GradientTransformation | optax.GradientTransformationExtraArgs):
            raise BadInput(
                f"{attribute}() in {Path(path).name} returned a {type(made).__name__}, no optax transformation"
            )
        return _keeping_shapes(made, f"{Path(path).name}:{attribute}")

    namespace: dict[str, Any] = {"__doc__": function.__doc__, "family": family, "file": path, "build": build}
    averaged = getattr(module, "evaluation_params", None)
    if averaged is not None:
        namespace["evaluation_params"] = lambda self, state, params: averaged(state, params)
    namespace |= _selection(module, Path(path).name)
    rate = _default_rate(function, Path(path).name)
    if rate is not None:
        said = f"the default of learning_rate in {attribute}() of {Path(path).name}"
        namespace["literature"] = Literature({"learning_rate": rate}, said)
    columns = [
        ("learning_rate", float, dataclasses.field(default=Optimizer.learning_rate if rate is None else rate)),
        *((field, kind, dataclasses.field(default=default)) for field, kind, default in fields),
        ("source_sha256", str, dataclasses.field(default=sha256)),  # another file is another trial
    ]
    cls = dataclasses.make_dataclass(attribute, columns, bases=(Optimizer,), namespace=namespace, frozen=True)
    cls.name = f"{Path(path).stem}:{attribute}"  # type: ignore[attr-defined]
    return cls


@functools.cache
def _module(source: str, sha256: str) -> Any:
    """The file, run once for each content that it and its other files had."""
    path = Path(source)
    name = f"windtunnel_user_optimizer.{path.stem}"  # whatever the file is called, it takes no other module's place
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importing_from(own_files(path)):
            spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(f"{path.name} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _selection(module: Any, where: str) -> dict[str, Any]:
    """How the file chooses its examples: the attributes `candidates` and `select` of an optimizer, if it does."""
    candidates, select = getattr(module, "CANDIDATES", 1), getattr(module, "select", None)
    if isinstance(candidates, bool) or not isinstance(candidates, int) or not 1 <= candidates <= _MOST_CANDIDATES:
        raise BadInput(
            f"{where}: CANDIDATES = {candidates!r} must be a whole number of batches, 1 to {_MOST_CANDIDATES}"
        )
    if candidates > 1 and not callable(select):
        raise BadInput(
            f"{where}: CANDIDATES = {candidates} needs a function select(drawn, losses, count, key) that chooses"
        )
    if candidates == 1:
        return {}

    def chosen(self: Optimizer, drawn: Batch, losses: Array, count: int, key: Array) -> Array:
        rows = jnp.asarray(select(drawn, losses, count, key))  # type: ignore[misc]
        if rows.shape != (count,) or not jnp.issubdtype(rows.dtype, jnp.integer):
            raise BadInput(
                f"{where}: select() returned {rows.dtype}{list(rows.shape)}; it must return count={count} whole numbers, rows "
                "of what was drawn"
            )
        return rows

    return {"candidates": candidates, "select": chosen}


def _fields(function: Callable[..., Any], where: str) -> list[tuple[str, type, Any]]:
    """(name, type, default) of every hyperparameter."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name != "learning_rate":
        raise BadInput(f"the function in {where} must take learning_rate first, e.g. def make(learning_rate, b1=0.9)")
    found: list[tuple[str, type, Any]] = []
    for parameter in parameters[1:]:
        default = parameter.default
        if isinstance(default, bool | int):
            found.append((parameter.name, type(default), default))
        elif isinstance(default, float):
            found.append((parameter.name, float, default))
        elif default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise BadInput(f"{where}: {parameter.name} has no default; hyperparameters need a number to start from")
    return found


def _default_rate(function: Callable[..., Any], where: str) -> float | None:
    """The function's own learning rate, if it has one."""
    default = next(iter(inspect.signature(function).parameters.values())).default
    if not isinstance(default, int | float):
        return None
    if not 0 <= default < math.inf:
        raise BadInput(
            f"{where}: the default learning_rate={default} must be a non-negative finite number; or give none"
        )
    return float(default)


def _keeping_shapes(transform: optax.GradientTransformation, where: str) -> optax.GradientTransformation:
    """The transformation, refused where its updates have other shapes or types than the parameters."""
    inner = optax.with_extra_args_support(transform)

    def init(params: Params) -> Any:
        with _blamed(f"{where}: init"):
            return inner.init(params)

    def update(grads: Params, state: Any, params: Params | None = None, **extra: Any) -> tuple[Params, Any]:
        with _blamed(f"{where}: update"):
            updates, new = inner.update(grads, state, params, **extra)
        if str(jax.tree.structure(updates)) != str(jax.tree.structure(grads)):
            raise BadInput(f"{where}: the updates are a tree of another structure than the gradients")
        for before, after in zip(jax.tree.leaves(grads), jax.tree.leaves(updates), strict=True):
            if jnp.shape(before) != jnp.shape(after):
                raise BadInput(
                    f"{where}: an update has shape {jnp.shape(after)} where the gradient has {jnp.shape(before)}; an optimizer "
                    "may not change the model"
                )
        if jax.tree.map(jnp.shape, new) != jax.tree.map(jnp.shape, state):
            raise BadInput(f"{where}: the optimizer's state changes its shape from step to step")
        return jax.tree.map(lambda u, g: u.astype(g.dtype), updates, grads), new

    return optax.GradientTransformationExtraArgs(init, update)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """What a user's function raises while it is traced, as BadInput with its words."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        words = str(error).strip().partition("\n")[0]
        raise BadInput(f"{what} raised {type(error).__name__}: {words}") from error
