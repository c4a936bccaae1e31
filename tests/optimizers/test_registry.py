"""One row per optimizer in the registry; every row buys every test here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from harness import components
from harness.optimizers import OPTIMIZERS, Optimizer
from harness.optimizers.base import apply_update
from harness.optimizers.literature import LITERATURE
from harness.tuning import default_space
from workloads.base import BadInput


class Row(NamedTuple):
    """family, decoupled: what parametrizations rely on. rate: a learning rate that works on the problem below.

    default: the learning rate of its default in the literature, None where that has none.
    shrink: the loss after STEPS steps is below this share of the first one. uses_rate: whether a constant learning rate
    changes anything.
    """

    family: str
    decoupled: bool
    rate: float
    default: float | None
    shrink: float = 0.5
    uses_rate: bool = True


STEPS = 100
ROWS = {
    "acprop": Row("adam", True, 0.03, 1e-3),
    "adabelief": Row("adam", False, 0.03, 1e-3),
    "adadelta": Row("other", False, 10.0, 1.0),
    "adafactor": Row("other", False, 0.1, 1e-2),
    "adagrad": Row("adam", False, 0.3, 1e-2),
    "adam": Row("adam", False, 0.03, 1e-3),
    "adamax": Row("adam", False, 0.03, 2e-3),
    "adamaxw": Row("adam", True, 0.03, None),
    "adamw": Row("adam", True, 0.03, 1e-3),
    "adan": Row("adam", True, 0.03, 1e-3),
    "ademamix": Row("adam", True, 0.03, 1e-3),
    "adopt": Row("adam", False, 0.03, 1e-3),
    "amsgrad": Row("adam", False, 0.03, 1e-3),
    "cocob": Row("other", False, 1.0, 1.0, uses_rate=False),
    "dadapt_adamw": Row("other", False, 1.0, 1.0, 0.9),
    "dog": Row("other", False, 1.0, 1.0, 0.99),
    "dowg": Row("other", False, 1.0, 1.0),
    "fromage": Row("other", False, 0.03, 1e-2),
    "lamb": Row("other", False, 0.03, 1e-3),
    "lars": Row("other", False, 10.0, None),
    "lion": Row("adam", True, 0.03, 1e-4),
    "madgrad": Row("other", False, 0.03, 1e-2),
    "momentum": Row("sgd", False, 0.03, 0.1),
    "momo": Row("other", False, 1.0, 1.0),
    "momo_adam": Row("other", False, 0.1, 1e-2),
    "muon": Row("matrix", True, 0.03, 0.02),
    "nadam": Row("adam", False, 0.03, 2e-3),
    "nadamw": Row("adam", True, 0.03, 0.0017486387539278373),
    "nesterov": Row("sgd", False, 0.03, 0.1),
    "novograd": Row("other", False, 0.03, 1e-3),
    "optimistic_adam_v2": Row("adam", False, 0.03, None),
    "optimistic_gradient_descent": Row("sgd", False, 0.03, None),
    "prodigy": Row("other", False, 1.0, 1.0),
    "radam": Row("adam", False, 0.03, 1e-3),
    "rmsprop": Row("adam", False, 0.03, 1e-3),
    "rprop": Row("other", False, 0.03, 0.1),
    "schedule_free_adamw": Row("other", False, 0.03, 2.5e-3),
    "schedule_free_sgd": Row("other", False, 0.1, 1.0),
    "sgd": Row("sgd", False, 0.1, 1e-2),
    "sign_sgd": Row("adam", False, 0.03, None),
    "signum": Row("adam", False, 0.03, None),
    "simplified_ademamix": Row("adam", True, 0.001, None),
    "sm3": Row("other", False, 0.3, None),
    "yogi": Row("adam", False, 0.03, 1e-2),
}
NAMES = sorted(OPTIMIZERS)
_QUICK = {"xla_backend_optimization_level": 0}
quick_jit = functools.partial(jax.jit, compiler_options=_QUICK)


def problem() -> tuple[Any, Callable[[Any], Any]]:
    """Parameters and loss of a small multilayer perceptron's regression on fixed data."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype(np.float32), rng.normal(size=(32, 3)).astype(np.float32)
    params = {
        "w1": rng.normal(size=(6, 8)).astype(np.float32) * 0.4,
        "b1": np.full(8, 0.1, np.float32),
        "w2": rng.normal(size=(8, 3)).astype(np.float32) * 0.4,
    }

    def loss(params: Any) -> Any:
        hidden = jnp.tanh(x @ params["w1"] + params["b1"][None, :])
        return jnp.mean(jnp.square(hidden @ params["w2"] - (y + 2.0)))

    return params, loss


def ones(params: Any) -> Any:
    return jax.tree.map(lambda _: 1.0, params)


def make(name: str, **values: Any) -> Optimizer:
    return OPTIMIZERS[name](learning_rate=ROWS[name].rate, **values)


def literature(name: str) -> Optimizer | None:
    """The optimizer as the literature recommends it."""
    cls = OPTIMIZERS[name]
    return None if cls.literature is None else cls(**cls.literature.values)


def test_every_registered_optimizer_has_a_row() -> None:
    assert set(NAMES) == set(ROWS) == set(LITERATURE)


@pytest.mark.parametrize("name", NAMES)
def test_trains_under_jit_with_traced_hyperparameters(name: str) -> None:
    """As the engine does it: numbers erased, bound again as tracers, one trace for all values; the loss falls."""
    params, loss = problem()
    erased = components.erase(make(name))
    traces = []

    @quick_jit
    def train(values: dict[str, Any]) -> Any:
        traces.append(1)
        optimizer = components.bind(erased, values)
        state = optimizer.build(values["learning_rate"]).init(params)

        def step(carry: Any, _: Any) -> Any:
            here, state = carry
            value, grads = jax.value_and_grad(loss)(here)
            rate = values["learning_rate"]
            return apply_update(optimizer, rate, grads, state, here, value, *[ones(params)] * 3), value

        (end, state), losses = jax.lax.scan(step, (jax.tree.map(jnp.asarray, params), state), length=STEPS)
        return losses[0], loss(optimizer.evaluation_params(state, end)), end

    optimizer = make(name)
    optimizer.validate()
    values = components.traced(optimizer)
    first, last, end = train(values)
    assert first == pytest.approx(float(loss(params)), rel=1e-5)
    assert last < ROWS[name].shrink * first
    other = train(values | {"learning_rate": ROWS[name].rate / 2})
    default = literature(name)
    if default is not None and components.erase(default) == erased:  # all but muon's are of the same program
        assert train(components.traced(default))[1] < first
    assert len(traces) == 1
    moved = any(np.any(a != b) for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(other[2]), strict=True))
    assert moved == ROWS[name].uses_rate


@pytest.mark.parametrize("name", NAMES)
def test_declares_its_family_and_its_decay(name: str) -> None:
    cls = OPTIMIZERS[name]
    assert (cls.name, cls.family, cls.decoupled_decay) == (name, ROWS[name].family, ROWS[name].decoupled)
    assert all(field.type in (float, float | None, int, bool) for field in fields(cls))


NO_DECAY = "no decay, which a logarithmic axis lacks"
OUTSIDE = {  # (name, axis) of defaults that lie outside the space that is searched: why
    ("acprop", "weight_decay"): NO_DECAY,
    ("adan", "weight_decay"): NO_DECAY,
    ("ademamix", "weight_decay"): NO_DECAY,
    ("adopt", "b2"): "ADOPT converges with any b2, and recommends a larger one than Adam's, whose axis it is",
    ("lion", "weight_decay"): NO_DECAY,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_literatures_default_is_valid_has_a_source_and_lies_where_is_searched(name: str) -> None:
    cls, default = OPTIMIZERS[name], literature(name)
    assert ROWS[name].default == (default and default.learning_rate)
    if default is None or cls.literature is None:
        assert str(cls.__doc__).endswith("The literature has no default.")
        return
    default.validate()
    assert "learning_rate" in cls.literature.values
    for key, value in cls.literature.values.items():
        assert type(getattr(cls(), key)) in (type(value), type(None))
    assert len(cls.literature.source) > 10
    assert str(cls.__doc__).endswith(f"Literature: {cls.literature.source}.")
    axes = default_space(default).axes
    outside = {key for key, axis in axes.items() if not axis.low <= getattr(default, key) <= axis.high}
    assert outside == {axis for owner, axis in OUTSIDE if owner == name}


def test_fields_keep_the_defaults_that_recorded_trials_have() -> None:
    for name in ("adamw", "lion", "momentum", "muon", "nadamw", "nesterov", "sgd"):
        assert OPTIMIZERS[name]().learning_rate == 1e-3
    assert components.traced(OPTIMIZERS["nadamw"]())["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_every_optional_number_can_be_given(name: str) -> None:
    """As a tracer, too: what optax can't take as a number must not be a field."""
    optional = [field.name for field in fields(OPTIMIZERS[name]) if field.default is None]
    params, _ = problem()
    for field in optional:
        shapes = jax.eval_shape(
            lambda value, field=field: updates_of(name, [params], params, **{field: value}), np.float32(0.5)
        )
        assert jax.tree.map(jnp.shape, shapes[0]) == jax.tree.map(jnp.shape, params)


def updates_of(name: str, gradients: list[Any], params: Any, **values: Any) -> Any:
    """optax's own updates for a sequence of gradients at fixed parameters."""
    optimizer = make(name, **values)
    transform = optax.with_extra_args_support(optimizer.build(jnp.float32(optimizer.learning_rate)))
    state, found = transform.init(params), []
    for gradient in gradients:
        updates, state = transform.update(gradient, state, params, value=jnp.float32(1.0))
        found.append(updates)
    return found


def gradients(params: Any, count: int = 3, scale: float = 1.0) -> list[Any]:
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: scale * np.asarray(rng.normal(size=p.shape), p.dtype), params) for _ in range(count)]


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].family in ("adam", "sgd")])
def test_the_family_is_how_updates_scale_with_gradients(name: str) -> None:
    """Adam-like: blind to the gradient's scale. SGD-like: linear in it. Both entry by entry: no leaf's norm enters.

    Seen after ten steps (the first ones of radam and acprop are not normalised yet), at gradients that dwarf every eps.
    """
    params, _ = problem()
    small, large = gradients(params, 10, 1e4), gradients(params, 10, 256e4)
    poked = jax.tree.map(np.array, small)
    for gradient in poked:
        gradient["w1"][0, 0] *= 3.0

    @quick_jit
    def all_updates(small: Any, large: Any, poked: Any) -> Any:
        return [updates_of(name, sequence, params)[-1] for sequence in (small, large, poked)]

    base, scaled, changed = all_updates(small, large, poked)
    factor = {"adam": 1.0, "sgd": 256.0}[ROWS[name].family]
    for leaf in params:
        np.testing.assert_allclose(scaled[leaf], factor * base[leaf], rtol=1e-3, atol=1e-6 * factor)
        others = slice(1, None) if leaf == "w1" else slice(None)
        np.testing.assert_allclose(base[leaf].ravel()[others], changed[leaf].ravel()[others], rtol=1e-6)


DECAY = 0.3


def decays(name: str) -> bool:
    return "weight_decay" in {field.name for field in fields(OPTIMIZERS[name])}


@pytest.mark.parametrize("name", [name for name in ROWS if decays(name) and ROWS[name].family != "other"])
def test_decay_is_left_to_the_harness_wherever_it_is_decoupled(name: str) -> None:
    """A row of a family with width rules whose decay optax applied itself would escape the rules."""
    assert ROWS[name].decoupled
    params, _ = problem()
    sequence = gradients(params)
    with_decay, without = quick_jit(
        lambda s: (updates_of(name, s, params, weight_decay=DECAY), updates_of(name, s, params, weight_decay=0.0))
    )(sequence)
    jax.tree.map(np.testing.assert_array_equal, with_decay, without)


# name -> the same optimizer made by optax itself, with settings that are not the defaults
DIRECT: dict[str, tuple[dict[str, Any], Callable[[Any], optax.GradientTransformation]]] = {
    "sgd": ({"momentum": 0.8}, lambda lr: optax.sgd(lr, momentum=0.8)),
    "momentum": ({}, lambda lr: optax.sgd(lr, momentum=0.9)),
    "nesterov": ({}, lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True)),
    "adam": ({"b2": 0.95, "eps": 1e-3}, lambda lr: optax.adam(lr, b2=0.95, eps=1e-3)),
    "adamw": ({"weight_decay": DECAY, "b1": 0.8}, lambda lr: optax.adamw(lr, b1=0.8, weight_decay=DECAY)),
    "nadamw": ({"weight_decay": DECAY}, lambda lr: optax.nadamw(lr, weight_decay=DECAY)),
    "adamaxw": ({"weight_decay": DECAY}, lambda lr: optax.adamaxw(lr, weight_decay=DECAY)),
    "lion": ({"weight_decay": DECAY}, lambda lr: optax.lion(lr, weight_decay=DECAY)),
    "adan": ({"weight_decay": DECAY}, lambda lr: optax.adan(lr, weight_decay=DECAY)),
    "acprop": ({"weight_decay": DECAY}, lambda lr: optax.contrib.acprop(lr, weight_decay=DECAY)),
    "ademamix": ({"weight_decay": DECAY}, lambda lr: optax.contrib.ademamix(lr, weight_decay=DECAY)),
    "simplified_ademamix": (
        {"weight_decay": DECAY},
        lambda lr: optax.contrib.simplified_ademamix(lr, weight_decay=DECAY),
    ),
    "adafactor": ({"weight_decay_rate": 1e-2}, lambda lr: optax.adafactor(lr, weight_decay_rate=1e-2)),
    "rmsprop": ({"decay": 0.8, "momentum": 0.5}, lambda lr: optax.rmsprop(lr, decay=0.8, momentum=0.5)),
    "adagrad": ({}, optax.adagrad),
    "muon": (
        {"weight_decay": DECAY, "beta": 0.9},
        lambda lr: optax.contrib.muon(lr, beta=0.9, weight_decay=DECAY, adam_weight_decay=DECAY),
    ),
    "schedule_free_adamw": (
        {"weight_decay": DECAY},
        lambda lr: optax.contrib.schedule_free_adamw(lr, weight_decay=DECAY),
    ),
}


def test_every_decoupled_optimizer_is_compared_with_optax() -> None:
    assert {name for name in NAMES if ROWS[name].decoupled} <= DIRECT.keys()


@pytest.mark.parametrize("name", DIRECT)
def test_equals_optax_called_directly(name: str) -> None:
    """Parameters after each of three steps, with the harness applying decay at scales 1. In float64: to rounding."""
    values, alias = DIRECT[name]
    optimizer = make(name, **values)
    rate = optimizer.learning_rate
    with jax.enable_x64(True):
        start = jax.tree.map(lambda p: np.asarray(p, np.float64), problem()[0])
        sequence = gradients(start)

        @quick_jit
        def both(rate: Any, params: Any, sequence: Any) -> Any:
            ours = theirs = params
            transform = alias(rate)
            state, their_state = optimizer.build(rate).init(ours), transform.init(theirs)
            found = []
            for gradient in sequence:
                ours, state = apply_update(optimizer, rate, gradient, state, ours, jnp.float64(1.0), *[ones(ours)] * 3)
                updates, their_state = transform.update(gradient, their_state, theirs)
                theirs = optax.apply_updates(theirs, updates)
                found.append((ours, theirs))
            return found

        found = both(np.float64(rate), start, sequence)
    for ours, theirs in found:
        moved = [jax.tree.map(lambda a, b: np.asarray(a) - b, side, start) for side in (ours, theirs)]
        for leaf in start:
            assert np.abs(moved[1][leaf]).max() > 1e-4 * rate
            np.testing.assert_allclose(moved[0][leaf], moved[1][leaf], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_scales_of_each_leaf(name: str) -> None:
    """A leaf moves by lr_scale * (update - lr * weight_decay * decay_scale * leaf)."""
    optimizer = make(name, weight_decay=DECAY)
    params, _ = problem()
    gradient = gradients(params, 1)[0]
    lr_scale = {"w1": 0.25, "b1": 1.0, "w2": 2.0}
    decay_scale = {"w1": 1.0, "b1": 0.0, "w2": 0.5}

    @quick_jit
    def move(rate: Any, lr_scale: Any, decay_scale: Any) -> Any:
        state = optimizer.build(rate).init(params)
        scales = (lr_scale, decay_scale, ones(params))
        moved, _ = apply_update(optimizer, rate, gradient, state, params, jnp.float32(1), *scales)
        return jax.tree.map(lambda new, old: new - old, moved, params)

    rate = np.float32(0.5)
    nowhere = dict.fromkeys(params, 0.0)
    plain = move(rate, ones(params), nowhere)
    moved = move(rate, lr_scale, decay_scale)
    for leaf in params:
        expected = lr_scale[leaf] * (plain[leaf] - rate * DECAY * decay_scale[leaf] * params[leaf])
        np.testing.assert_allclose(moved[leaf], expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(moved["b1"], plain["b1"])  # decay scale 0, whatever the weight decay
    still = move(rate, nowhere, decay_scale)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(still))


def test_muons_second_learning_rate_is_a_peak_that_the_schedule_lowers() -> None:
    """It moves the vectors, the first one the matrices; at a learning rate of 0 nothing moves."""
    params, _ = problem()
    optimizer = make("muon", adam_learning_rate=3e-4)
    gradient = gradients(params, 1)[0]

    @quick_jit
    def updates(rate: Any, peak: Any) -> Any:
        transform = optax.with_extra_args_support(replace(optimizer, learning_rate=peak).build(rate))
        return transform.update(gradient, transform.init(params), params)[0]

    full, half, still = (updates(*map(np.float32, rates)) for rates in ((0.02, 0.02), (0.01, 0.02), (0.0, 0.0)))
    np.testing.assert_allclose(
        np.abs(full["b1"]), 3e-4 * (1 + 0.9 * 0.1 / (1 - 0.9**2)), rtol=1e-4
    )  # NAdam's first step
    for leaf in params:
        np.testing.assert_allclose(half[leaf], full[leaf] / 2, rtol=1e-5)
        assert np.all(still[leaf] == 0)


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_sgd"])
def test_schedule_free_evaluates_the_average(name: str) -> None:
    """Defazio et al. 2024: gradients are taken at y = (1 - b1) z + b1 x, and x is what is evaluated."""
    params, loss = problem()
    optimizer = make(name)
    rate = jnp.float32(optimizer.learning_rate)

    @quick_jit
    def train() -> Any:
        here, state = jax.tree.map(jnp.asarray, params), optimizer.build(rate).init(params)
        for _ in range(3):
            value, grads = jax.value_and_grad(loss)(here)
            here, state = apply_update(optimizer, rate, grads, state, here, value, *[ones(params)] * 3)
        return here, state.z, optimizer.evaluation_params(state, here)

    here, z, average = train()
    b1 = optimizer.b1  # type: ignore[attr-defined]
    for leaf in params:
        np.testing.assert_allclose((1 - b1) * z[leaf] + b1 * average[leaf], here[leaf], rtol=1e-5, atol=1e-6)
        assert np.any(average[leaf] != here[leaf])


def test_other_optimizers_evaluate_the_parameters_themselves() -> None:
    params, _ = problem()
    for name in NAMES:
        if not name.startswith("schedule_free"):
            assert make(name).evaluation_params(None, params) is params


@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_bad_learning_rates_are_refused(rate: float) -> None:
    with pytest.raises(BadInput, match=r"optimizer\.learning_rate"):
        replace(make("adamw"), learning_rate=rate).validate()


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(BadInput, match="Did you mean 'muon'"):
        OPTIMIZERS["muom"]
