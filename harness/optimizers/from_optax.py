"""Every optimizer that optax ships, as a configuration made from its signature.

Defaults are optax's own, what the literature recommends is in harness.optimizers.literature. Numbers become traced fields,
switches and integers static ones; arguments that are neither (masks, dtypes, keys) keep optax's default. Optimizers that need
more than a gradient, a loss value and the parameters (line searches, Hessian estimates, per-example gradients) are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import optax
import optax.contrib

from harness.optimizers.base import OPTIMIZERS, Family, Optimizer
from harness.optimizers.literature import LITERATURE
from workloads.base import Array, Params

_ADAM = {  # entrywise invariant to the gradient's scale
    *("adabelief", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "lion", "nadam", "nadamw", "radam"),
    *("adopt", "ademamix", "simplified_ademamix", "acprop", "rmsprop", "adagrad", "sign_sgd", "signum", "yogi"),
    "optimistic_adam_v2",
}
_SGD = {"sgd", "optimistic_gradient_descent"}
_MATRIX = {"muon"}
# Their `weight_decay` is w <- w - lr * weight_decay * w, so the harness applies it leaf by leaf.
_DECOUPLED = {"adamw", "nadamw", "adamaxw", "lion", "adan", "ademamix", "simplified_ademamix", "acprop", "muon"}
# They need a line search, a Hessian estimate, noise keys or another optimizer; optax has deprecated optimistic_adam.
_UNSUPPORTED = {"lbfgs", "sophia", "noisy_sgd", "dpsgd", "schedule_free", "galore", "optimistic_adam"}
# Arguments that must be Python numbers because optax branches on them or shapes arrays with them.
_STATIC_NUMBERS = {"ns_steps", "threshold", "decay_offset", "state_dtype"}

# The learning rate is passed at every step; the harness decays all of Muon's leaves by `weight_decay`.
_LEFT_OUT = {"learning_rate", "adam_weight_decay"}


def _field(name: str, default: Any, annotation: str) -> tuple[str, Any, Any] | None:
    """(name, type, default) of a dataclass field for one optax argument, None if it can't be configured."""
    if isinstance(default, bool):
        return name, bool, default
    if name in _STATIC_NUMBERS or annotation == "<class 'int'>":
        return (name, int, int(default)) if isinstance(default, int | float) else None
    if isinstance(default, int | float):
        return name, float, float(default)
    if default is None and "ArrayLike" not in annotation and "Union[jax" in annotation:
        return name, float | None, None
    return None


def _schedule_free_average(self: Optimizer, state: Any, params: Params) -> Params:
    return optax.contrib.schedule_free_eval_params(state, params)


def _muon_shape_factor(self: Optimizer, shape: tuple[int, ...]) -> float:
    """sqrt(max(1, fan-out / fan-in)), or with consistent_rms sqrt(max(fan-in, fan-out)) up to a constant."""
    fan_in, fan_out = shape[-2:]
    consistent = getattr(self, "consistent_rms", None) is not None
    return float(max(fan_in, fan_out) if consistent else max(1.0, fan_out / fan_in)) ** 0.5


def _of_peak(rate: Array, peak: Array | float) -> Array:
    """The share of its peak at which the schedule is, 0 where the peak is 0: a second learning rate follows it, too."""
    return jnp.where(peak > 0, rate / jnp.where(peak > 0, peak, 1.0), 0.0)


def _make(name: str, alias: Callable[..., Any], family: Family, **fixed: Any) -> type[Optimizer]:
    """A configuration class whose `build` calls `alias`; `fixed` overrides optax's defaults."""
    parameters = inspect.signature(alias).parameters
    specs = [
        _field(p.name, fixed.get(p.name, p.default), str(p.annotation))
        for p in parameters.values()
        if p.name not in _LEFT_OUT and not p.name.endswith(("mask", "dimension_numbers"))
    ]
    declared = [(n, kind, dataclasses.field(default=default)) for n, kind, default in filter(None, specs)]
    decoupled = name in _DECOUPLED

    def build(self: Optimizer, learning_rate: Array) -> optax.GradientTransformation:
        arguments = {n: getattr(self, n) for n, _, _ in declared}
        if decoupled:
            arguments["weight_decay"] = 0.0
        if arguments.get("adam_learning_rate") is not None:
            arguments["adam_learning_rate"] *= _of_peak(learning_rate, self.learning_rate)
        return alias(learning_rate=learning_rate, **arguments)

    default_rate = parameters["learning_rate"].default
    rate = default_rate if isinstance(default_rate, float) else Optimizer.learning_rate
    literature = LITERATURE.get(name)
    said = f"Literature: {literature.source}" if literature else "The literature has no default"
    namespace: dict[str, Any] = {
        "__doc__": f"optax `{getattr(alias, '__name__', name)}`; hyperparameters and defaults are optax's. {said}.",
        "family": family,
        "literature": literature,
        "decoupled_decay": decoupled,
        "build": build,
    }
    if family == "matrix":
        namespace["shape_factor"] = _muon_shape_factor
    if name.startswith("schedule_free"):
        namespace["evaluation_params"] = _schedule_free_average
    own_rate = ("learning_rate", float, dataclasses.field(default=rate))
    return dataclasses.make_dataclass(name, [own_rate, *declared], bases=(Optimizer,), namespace=namespace, frozen=True)


def _aliases() -> Iterator[tuple[str, Callable[..., Any]]]:
    for module in (optax, optax.contrib):
        for name, alias in sorted(vars(module).items()):
            made = inspect.isfunction(alias) or isinstance(alias, functools.partial)  # nadamw is a partial of adamw
            usable = made and not name.startswith(("_", "scale_by_")) and name not in _UNSUPPORTED
            if usable and "learning_rate" in inspect.signature(alias).parameters:
                yield name, alias


def _family(name: str) -> Family:
    if name in _ADAM:
        return "adam"
    if name in _SGD:
        return "sgd"
    return "matrix" if name in _MATRIX else "other"


for _name, _alias in _aliases():
    OPTIMIZERS.register(_name)(_make(_name, _alias, _family(_name)))
OPTIMIZERS.register("momentum")(_make("momentum", optax.sgd, "sgd", momentum=0.9))
OPTIMIZERS.register("nesterov")(_make("nesterov", optax.sgd, "sgd", momentum=0.9, nesterov=True))
