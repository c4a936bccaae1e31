"""Every leaf of every model gets exactly the factors of Yang et al. 2022, table 3, and SP changes nothing."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS, Leaf, leaves, scales
from harness.schedules import SCHEDULES
from tests.trials import LM, small_trial
from workloads.base import BadInput, Workload
from workloads.image_mlp import ImageMLP
from workloads.regression import Regression

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BASE = 8
WIDTHS = (8, 24, 128)

# role -> powers of n = width / base width: initial values (beside SP's own), Adam-like LR, SGD-like LR
TABLE_3 = {
    "input": (0.0, 0.0, 1.0),
    "vector": (0.0, 0.0, 1.0),
    "hidden": (0.0, -1.0, 0.0),
    "output": (-0.5, -1.0, -1.0),
    "fixed": (0.0, 0.0, 0.0),
}
_BLOCK = {
    "attention_norm": "vector",
    "query_key_value": "hidden",
    "attention_out": "hidden",
    "mlp_norm": "vector",
    "mlp_in": "hidden",
    "mlp_out": "hidden",
}
_BLOCKS = {f"layer_{layer}/{name}": role for layer in (0, 1) for name, role in _BLOCK.items()}
MODELS: dict[str, tuple[Workload, dict[str, str]]] = {
    "language_model": (
        LM.replace(depth=2),
        {"embedding": "input", "readout": "output", "final_norm": "vector", **_BLOCKS},
    ),
    "tied": (
        LM.replace(depth=2, tied_embeddings=True),
        {"embedding": "input", "final_norm": "vector", **_BLOCKS},
    ),
    "image_mlp": (
        ImageMLP(depth=2),
        {
            "hidden_0/kernel": "input",
            "hidden_0/bias": "vector",
            "hidden_1/kernel": "hidden",
            "hidden_1/bias": "vector",
            "output/kernel": "output",
            "output/bias": "fixed",
        },
    ),
    "regression": (Regression(), {"readout/kernel": "output"}),
}
FAMILIES = ("adam", "sgd")
OPTIMIZER = {"adam": OPTIMIZERS["adamw"](), "sgd": OPTIMIZERS["sgd"](), "matrix": OPTIMIZERS["muon"]()}
BUILT_IN = [name for name in PARAMETRIZATIONS if name != "table"]
DEPTH = {"depth_mup", "complete_p"}
OPTIMIZER["other"] = OPTIMIZERS["adafactor"]()


def flat(tree: Any) -> dict[str, Any]:
    return {"/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def matrices(model: str) -> set[str]:
    shapes = flat(jax.eval_shape(MODELS[model][0].init, jax.random.key(0)))
    return {path for path, leaf in shapes.items() if leaf.ndim > 1}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("model", MODELS)
def test_roles_come_from_shapes_and_cover_every_leaf(model: str, width: int) -> None:
    workload, roles = MODELS[model]
    found = leaves(workload.replace(width=width), BASE)
    assert {leaf.path: leaf.role for leaf in found} == roles
    n = width / BASE
    ratios = {"hidden": (n, n), "input": (1.0, n), "output": (n, 1.0), "vector": (1.0, n), "fixed": (1.0, 1.0)}
    assert {leaf.path: (leaf.fan_in_ratio, leaf.fan_out_ratio) for leaf in found} == {
        path: ratios[role] for path, role in roles.items()
    }


def test_sizes_that_coincide_with_the_width_do_not_confuse_roles() -> None:
    """Vocabulary, pixels and classes equal to the width, the base width or its double."""
    for width, base in ((16, 16), (8, 16), (16, 8), (32, 16)):
        roles = {leaf.path: leaf.role for leaf in leaves(MODELS["language_model"][0].replace(width=width), base)}
        assert roles == MODELS["language_model"][1]
    for width, base in ((64, 64), (10, 10), (32, 10), (5, 64)):
        roles = {leaf.path: leaf.role for leaf in leaves(MODELS["image_mlp"][0].replace(width=width), base)}
        assert roles == MODELS["image_mlp"][1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("model", MODELS)
def test_mup_is_table_3(model: str, width: int, family: Any) -> None:
    workload, roles = MODELS[model]
    found = scales(PARAMETRIZATIONS["mup"](base_width=BASE), workload.replace(width=width), OPTIMIZER[family])
    n = width / BASE
    column = {"adam": 1, "sgd": 2}[family]
    assert flat(found.init) == pytest.approx({path: n ** TABLE_3[role][0] for path, role in roles.items()})
    assert flat(found.learning_rate) == pytest.approx(
        {path: n ** TABLE_3[role][column] for path, role in roles.items()}
    )
    assert flat(found.weight_decay) == {path: float(path in matrices(model)) for path in roles}
    # definition 4.1: q.k / d instead of q.k / sqrt(d), equal at the base width
    assert found.attention_scale == pytest.approx(n**-0.5 if model in ("language_model", "tied") else 1.0)
    assert found.output_scale == pytest.approx(1.0 / n if model == "tied" else 1.0)
    assert found.residual_scale == 1.0


@pytest.mark.parametrize("family", [*FAMILIES, "matrix", "other"])
@pytest.mark.parametrize("model", MODELS)
def test_sp_is_all_ones(model: str, family: Any) -> None:
    workload, roles = MODELS[model]
    for width in WIDTHS:
        found = scales(PARAMETRIZATIONS["sp"](base_width=BASE), workload.replace(width=width), OPTIMIZER[family])
        assert flat(found.init) == flat(found.learning_rate) == dict.fromkeys(roles, 1.0)
        assert flat(found.weight_decay) == {path: float(path in matrices(model)) for path in roles}
        assert (found.attention_scale, found.residual_scale, found.output_scale) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("model", MODELS)
def test_named_scalars_multiply_those_of_the_workload(model: str) -> None:
    workload, _ = MODELS[model]
    own = workload.replace(width=32, attention_scale=3.0, residual_scale=5.0, output_scale=7.0)
    plain = workload.replace(width=32)
    for name in BUILT_IN:
        rule = PARAMETRIZATIONS[name](base_width=BASE)
        a, b = scales(rule, own, OPTIMIZER["adam"]), scales(rule, plain, OPTIMIZER["adam"])
        assert a.attention_scale == pytest.approx(3 * b.attention_scale)
        assert a.residual_scale == pytest.approx(5 * b.residual_scale)
        assert a.output_scale == pytest.approx(7 * b.output_scale)


def test_initial_values_have_the_widths_powers_of_table_3() -> None:
    """On the engine's own initial state: variance 1 / fan-in for hidden leaves, ~ 1 / fan-in^2 for the output."""
    rms = {}
    for width in (64, 256):
        trial = replace(small_trial(workload__width=width), parametrization=PARAMETRIZATIONS["mup"](base_width=BASE))
        state = quick_jit(make_train(trial.static()).init)(trial.hparams())
        rms[width] = {path: float(jnp.sqrt(jnp.mean(jnp.square(leaf)))) for path, leaf in flat(state.params).items()}
    powers = {path: np.log(rms[256][path] / rms[64][path]) / np.log(4) for path in rms[64] if rms[64][path]}
    assert {"embedding", "readout", "layer_0/query_key_value", "layer_0/mlp_in"} <= powers.keys()
    expected = {path: {"hidden": -0.5, "output": -1.0}.get(MODELS["language_model"][1][path], 0.0) for path in powers}
    assert powers == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", MODELS)
def test_every_parametrization_is_sp_at_the_base_width(model: str, family: Any) -> None:
    workload = MODELS[model][0].replace(width=BASE)
    sp = scales(PARAMETRIZATIONS["sp"](base_width=BASE), workload, OPTIMIZER[family])
    for name in BUILT_IN:
        depth = {"base_depth": workload.depth} if name in DEPTH else {}
        if name in DEPTH and family != "adam":
            continue
        assert scales(PARAMETRIZATIONS[name](base_width=BASE, **depth), workload, OPTIMIZER[family]) == sp


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e-2), ("momentum", 0.1)])
def test_losses_agree_bitwise_at_the_base_width_and_only_there(optimizer: str, rate: float) -> None:
    def losses(parametrization: str, base_width: int) -> np.ndarray:
        trial = replace(
            small_trial(),
            optimizer=OPTIMIZERS[optimizer](learning_rate=rate),
            schedule=SCHEDULES["constant"](warmup="0 steps"),
            parametrization=PARAMETRIZATIONS[parametrization](base_width=base_width),
        )
        hparams = trial.hparams()
        return np.asarray(chunk(train.init(hparams), hparams, 4, data)[1])[0, :4]

    trial = replace(small_trial(), optimizer=OPTIMIZERS[optimizer](), schedule=SCHEDULES["constant"](warmup="0 steps"))
    train = make_train(trial.static())
    chunk = quick_jit(train.chunk)
    data = jax.tree.map(jnp.asarray, dict(trial.workload.load().arrays))
    width = trial.workload.width
    sp = losses("sp", width)
    assert np.isfinite(sp).all()
    assert sp[-1] != sp[0]
    assert np.array_equal(sp, losses("mup", width))
    assert np.array_equal(sp, losses("sp", width // 2))
    assert not np.array_equal(sp, losses("mup", width // 2))


def test_leaves_that_exist_at_some_widths_only_are_refused() -> None:
    class Odd(Regression):
        def init(self, key: Any) -> Any:
            extra = {"gate": jnp.ones(self.width)} if self.width > BASE else {}
            return super().init(key) | extra

    with pytest.raises(BadInput, match="gate"):
        leaves(Odd(width=16), BASE)


def test_bad_base_widths_are_refused() -> None:
    for name in BUILT_IN:
        with pytest.raises(BadInput, match=r"parametrization\.base_width=0"):
            PARAMETRIZATIONS[name](base_width=0).validate()


def test_an_unlisted_role_gets_no_surprise() -> None:
    """A matrix that does not grow keeps SP's values, and is decayed."""
    for family in FAMILIES:
        factors = PARAMETRIZATIONS["mup"]().factors(Leaf("m", (3, 4), "fixed", 1.0, 1.0), OPTIMIZER[family], 1.0)
        assert factors == (1.0, 1.0, 1.0, 1.0)
