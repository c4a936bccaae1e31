"""One row per workload family; every row buys every test here."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from harness import components
from harness.engine.flops import step_flops
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from tests.trials import small_trial
from tests.workloads.rows import ROWS
from tests.workloads.rows.row import Row
from workloads import FAMILIES
from workloads.base import BadInput, Workload

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY, DATA_KEY = jax.random.key(0), jax.random.key(1)
SPLITS = ("validation", "test")


NAMES = sorted(family.name for family in FAMILIES)


def arrays(workload: Workload) -> dict[str, Any]:
    return {name: jnp.asarray(array) for name, array in workload.load().arrays.items()}


@functools.cache
def scattered(workload: Workload) -> Any:
    """Parameters with no zeros among them, so that every branch and gradient is alive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(workload.init, KEY)
    return jax.tree.map(lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape).astype(np.float32)), shapes)


def size(workload: Workload) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(workload.init, KEY)))


def test_every_family_has_a_row() -> None:
    assert set(NAMES) == set(ROWS)
    assert all(type(ROWS[family.name].small) is family for family in FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_nested_dicts_of_float32_arrays(name: str) -> None:
    workload = ROWS[name].small
    params = quick_jit(workload.init)(KEY)

    def visit(node: Any) -> None:
        for key, entry in node.items():
            assert isinstance(key, str)
            assert type(entry) is dict or (isinstance(entry, jax.Array) and entry.dtype == jnp.float32)
            if type(entry) is dict:
                visit(entry)

    assert type(params) is dict
    visit(params)
    shapes = jax.eval_shape(workload.init, KEY)
    assert jax.tree.map(lambda p: (p.shape, p.dtype), params) == jax.tree.map(lambda p: (p.shape, p.dtype), shapes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, params, quick_jit(workload.init)(KEY))


@pytest.mark.parametrize("name", NAMES)
def test_data_are_arrays_with_recordable_facts(name: str) -> None:
    workload = ROWS[name].small
    data = workload.load()
    assert all(isinstance(array, np.ndarray) for array in data.arrays.values())
    assert data.examples > 0
    json.dumps(dict(data.info))
    wider = workload.replace(width=32) if ROWS[name].fixed_depth else workload.replace(width=32, depth=3)
    assert hash(workload.data_key()) == hash(wider.data_key())
    assert workload.data_key() == wider.data_key()
    assert workload.tokens_per_example >= 1


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_finite_and_reach_every_parameter(name: str) -> None:
    workload = ROWS[name].small
    batch = quick_jit(workload.batch)(arrays(workload), DATA_KEY, 0)
    both = quick_jit(jax.value_and_grad(workload.loss, has_aux=True))
    (start, _), start_gradient = both(quick_jit(workload.init)(KEY), batch, KEY)
    (loss, aux), gradient = both(scattered(workload), batch, KEY)
    assert loss.shape == start.shape == ()
    assert all(value.shape == () for value in aux.values())
    assert np.isfinite(loss)
    assert np.isfinite(start)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(start_gradient))
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(gradient))


def assert_equal_where_both_exist(a: Any, b: Any) -> None:
    """A wider model may see more of every example."""
    common = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    np.testing.assert_array_equal(a[common], b[common])


@pytest.mark.parametrize("name", NAMES)
def test_batches_depend_on_key_and_step_only(name: str) -> None:
    small = ROWS[name].small
    others = [small.replace(width=32), small.replace(output_scale=3.0), *(
        [] if ROWS[name].fixed_depth else [small.replace(depth=3)]
    )]  # fmt: skip
    data = arrays(small)

    def draw(key: Any, step: int, workload: Workload = small) -> Any:
        return quick_jit(lambda key, step: workload.batch(data, key, step))(key, jnp.int32(step))

    batch = draw(DATA_KEY, 5)
    assert all(leaf.shape[0] == small.batch_size for leaf in jax.tree.leaves(batch))
    for other in others:
        jax.tree.map(assert_equal_where_both_exist, batch, draw(DATA_KEY, 5, other))
    for different in (draw(DATA_KEY, 6), draw(KEY, 5)):
        assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(different), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_float_fields_are_traced(name: str) -> None:
    """One trace for all values, and the same numbers as with the values written into the program."""
    workload = ROWS[name].small
    data, params, traces = arrays(workload), scattered(workload), []

    def scores(workload: Workload) -> Any:
        batch = workload.batch(data, DATA_KEY, jnp.int32(0))
        evaluated = {split: workload.evaluate(params, data, split) for split in SPLITS}
        return workload.loss(params, batch, KEY)[0], evaluated

    @quick_jit
    def with_tracers(values: dict[str, Any]) -> Any:
        traces.append(1)
        return scores(components.bind(components.erase(workload), values))

    own = components.traced(workload)
    assert {f.name for f in fields(workload) if f.type in ("float", float)} == set(own)
    changed = {key: 0.9 * value + 0.01 for key, value in own.items()}
    found = [with_tracers(values) for values in (own, changed)]
    assert len(traces) == 1
    assert found[0][0] != found[1][0]
    for values, traced in zip((own, changed), found, strict=True):
        written = quick_jit(lambda values=values: scores(replace(workload, **values)))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), traced, written)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_gives_loss_and_metric_on_both_splits(name: str) -> None:
    workload = ROWS[name].small
    data = arrays(workload)
    evaluated = quick_jit(lambda params: {split: workload.evaluate(params, data, split) for split in SPLITS})
    scores = evaluated(scattered(workload))
    assert workload.metric.direction in ("minimize", "maximize")
    for split in SPLITS:
        assert {"loss", workload.metric.name} <= scores[split].keys()
        assert all(np.shape(value) == () and np.isfinite(value) for value in scores[split].values())
    if data:
        assert scores["validation"]["loss"] != scores["test"]["loss"]
    nothing = evaluated(jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), scattered(workload)))
    assert all(np.isnan(value) for split in SPLITS for value in nothing[split].values()), (
        "no metric of what is no number"
    )


@pytest.mark.parametrize("name", NAMES)
def test_size_knobs(name: str) -> None:
    small = ROWS[name].small
    assert size(small.replace(width=32)) > size(small)
    if ROWS[name].fixed_depth:
        with pytest.raises(BadInput, match=r"workload\.depth"):
            small.replace(depth=small.depth + 1).validate()
        return
    counts = [size(small.replace(depth=depth)) for depth in (1, 2, 3)]
    assert counts[2] > counts[1] > counts[0]
    if ROWS[name].even_depth:
        assert counts[2] - counts[1] == counts[1] - counts[0]


@pytest.mark.parametrize("name", NAMES)
def test_impossible_sizes_are_refused(name: str) -> None:
    small = ROWS[name].small
    small.validate()
    type(small)().validate()
    for knob in ("width", "depth", "batch_size"):
        for value in (0, -1):
            with pytest.raises(BadInput, match=f"workload.{knob}={value}"):
                small.replace(**{knob: value}).validate()


def losses_of_training(row: Row, precision: str) -> list[float]:
    """Validation loss before and after 20 steps."""
    trial = small_trial(budget__steps=20, schedule__warmup="0 steps", precision=precision)
    trial = replace(trial, workload=row.small, optimizer=OPTIMIZERS[row.optimizer](learning_rate=row.rate))
    train = make_train(trial.static())

    @quick_jit
    def run(hparams: Any, data: Any) -> Any:
        start = train.init(hparams)
        end = jax.lax.fori_loop(0, 20, lambda _, state: train.step(state, hparams, data)[0], start)
        begun = start._replace(step=jax.numpy.int32(1))  # a slot that never trained is not evaluated
        return [train.evaluate(state, hparams, data)["validation"]["loss"] for state in (begun, end)]

    return [float(loss) for loss in run(trial.hparams(), arrays(row.small))]


@pytest.mark.parametrize("name", NAMES)
def test_trains_in_both_precisions(name: str) -> None:
    single, half = (losses_of_training(ROWS[name], precision) for precision in ("float32", "bfloat16"))
    assert single[1] < 0.98 * single[0]
    assert half == pytest.approx(single, rel=0.03)


def inner(eqn: Any) -> Iterator[Any]:
    """The jaxprs inside an equation."""
    for value in eqn.params.values():
        for entry in value if isinstance(value, tuple | list) else [value]:
            if isinstance(entry, jax.extend.core.ClosedJaxpr):
                yield entry.jaxpr
            elif isinstance(entry, jax.extend.core.Jaxpr):
                yield entry


def convolution_count(eqn: Any) -> float:
    """2 x (output entries) x (kernel entries per output feature), zeros that a dilation of the inputs puts in left out."""
    kernel, layout = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
    per_feature = math.prod(kernel) / kernel[layout[0]]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * per_feature / math.prod(eqn.params["lhs_dilation"])


def matmul_count(jaxpr: Any) -> float:
    """2 x (output entries) x (contracted size) of every product, loops unrolled, the larger branch of a cond."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            sizes = [eqn.invars[0].aval.shape[axis] for axis in contracted]
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(sizes)
            continue
        if eqn.primitive.name == "conv_general_dilated":
            total += convolution_count(eqn)
            continue
        counts = [matmul_count(jaxpr) for jaxpr in inner(eqn)]
        match eqn.primitive.name:
            case "cond":
                total += max(counts)
            case "scan":
                total += eqn.params["length"] * sum(counts)
            case "while":
                assert sum(counts) == 0, "a loop of unknown length multiplies matrices"
            case _:
                total += sum(counts)
    return total


def counted(workload: Workload) -> float:
    """Matrix products in the jaxpr of one loss and its gradient."""
    params = jax.eval_shape(workload.init, KEY)
    batch = jax.eval_shape(lambda: workload.batch(arrays(workload), DATA_KEY, jnp.int32(0)))
    return matmul_count(jax.make_jaxpr(jax.value_and_grad(workload.loss, has_aux=True))(params, batch, KEY).jaxpr)


def test_the_counter_counts() -> None:
    def f(a: Any, b: Any) -> Any:
        c, _ = jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, b), None), a, length=5)
        d = jnp.einsum("ijk,ikl->ijl", a.reshape(2, 2, 3), jnp.stack([b, b]))
        return jax.lax.cond(a[0, 0] > 0, lambda: c @ b, lambda: c) + d.reshape(4, 3)

    assert matmul_count(jax.make_jaxpr(f)(np.ones((4, 3)), np.ones((3, 3))).jaxpr) == 2 * 4 * 3 * 3 * (5 + 1 + 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_counter_counts_convolutions(stride: int) -> None:
    """Forward, and as much again for either gradient."""

    def f(images: Any, kernel: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(
            jax.lax.conv_general_dilated(images, kernel, (stride, stride), "SAME", dimension_numbers=layout) ** 2
        )

    jaxpr = jax.make_jaxpr(jax.grad(f, (0, 1)))(np.ones((5, 8, 8, 3)), np.ones((2, 2, 3, 7))).jaxpr
    assert matmul_count(jaxpr) == 3 * 2 * 5 * (8 // stride) ** 2 * 7 * 2 * 2 * 3


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n in NAMES for v in ("small", *ROWS[n].variants)])
def test_analytic_matmul_flops_are_those_of_the_jaxpr(name: str, variant: str) -> None:
    workload = ROWS[name].small.replace(**ROWS[name].variants.get(variant, {}))
    assert workload.matmul_flops() == pytest.approx(counted(workload), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_cost_analysis_of_the_step_agrees_at_a_large_width(name: str) -> None:
    """XLA counts everything in the step: data, elementwise work and optimizer come on top, and fade with width."""
    row = ROWS[name]
    workload = row.large or row.small
    trial = replace(small_trial(), workload=workload, optimizer=OPTIMIZERS[row.optimizer](learning_rate=row.rate))
    assert workload.matmul_flops() == pytest.approx(counted(workload), rel=0.001)
    ratio = step_flops(trial) / workload.matmul_flops()
    assert ratio >= 1.0 - row.padding
    if row.large:
        assert ratio <= 1.02
