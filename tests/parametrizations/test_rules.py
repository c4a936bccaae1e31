"""Every rule of every table, in closed form and by what it does to a network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.optimizers import OPTIMIZERS
from harness.optimizers.base import apply_update
from harness.parametrizations import PARAMETRIZATIONS, Factors, Leaf, leaves, scales, user_table
from harness.parametrizations.abc_table import ALIGNMENTS, TABLES
from tests.trials import LM, small_trial
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP

ADAM, SGD, MUON = OPTIMIZERS["adamw"](), OPTIMIZERS["sgd"](), OPTIMIZERS["muon"]()
N = 4.0
MLP = {
    "input": Leaf("input", (3, 16), "input", 1.0, N),
    "hidden": Leaf("hidden", (16, 16), "hidden", N, N, repeated=True),
    "output": Leaf("output", (16, 5), "output", N, 1.0),
    "vector": Leaf("bias", (16,), "vector", 1.0, N),
}
HAND = str(Path(__file__).parent / "mup_table.yaml")

# (parametrization, options, optimizer) -> role -> powers of N: init, learning rate, weight decay, epsilon
# abc under Adam: Everett et al. 2024: c = -a for the input, 1 - a (full) or 1/2 - a (none) for hidden and readout.
FULL = {
    "standard": {"input": (0, 0, 0, 0), "hidden": (0, -1, 0, 0), "output": (0, -1, 0, 0)},
    "ntk": {"input": (0, 0, 0, 0), "hidden": (0, -1, 0.5, 0.5), "output": (0, -1, 0.5, 0.5)},
    "mup": {"input": (0, 0, -0.5, -0.5), "hidden": (0, -1, 0, 0), "output": (-0.5, -1, 0.5, 0.5)},
    "mean_field": {"input": (0, 0, 0, 0), "hidden": (0, -1, 0.5, 0.5), "output": (-0.5, -1, 1, 1)},
}
SGD_RATES = {  # full alignment: powers of the learning rate of input, hidden, readout
    "standard": (0.5, -0.5, -1),
    "ntk": (0.5, -0.5, -1),
    "mup": (1, 0, -1),
    "mean_field": (1, 0, -1),
}
PER_LAYER_EPSILON = {
    "standard": (-0.5, -0.5, 0),
    "ntk": (-0.5, -0.5, 0),
    "mup": (-1, -1, 0),
    "mean_field": (-1, -1, 0),
}
LAYERS = ("input", "hidden", "output")


def powers(factors: Factors) -> tuple[float, ...]:
    return tuple(round(float(np.log(f) / np.log(N)), 6) if f else float("-inf") for f in factors)


def rule(name: str, **options: object) -> object:
    return PARAMETRIZATIONS[name](base_width=8, **options)


@pytest.mark.parametrize("table", TABLES)
def test_abc_tables_under_adam(table):
    for layer in LAYERS:
        assert powers(rule("abc", table=table).factors(MLP[layer], ADAM, 1.0)) == FULL[table][layer], layer
        rate = powers(rule("abc", table=table, alignment="none").factors(MLP[layer], ADAM, 1.0))[1]
        assert rate == (0.0 if layer == "input" else -0.5)
        scaled = powers(rule("abc", table=table, epsilon="per_layer").factors(MLP[layer], ADAM, 1.0))[3]
        assert scaled == PER_LAYER_EPSILON[table][LAYERS.index(layer)]
    bias = powers(rule("abc", table=table).factors(MLP["vector"], ADAM, 1.0))
    assert bias[:3] == (0.0, 0.0, float("-inf"))


@pytest.mark.parametrize("table", TABLES)
def test_abc_tables_under_sgd(table):
    found = tuple(powers(rule("abc", table=table).factors(MLP[layer], SGD, 1.0))[1] for layer in LAYERS)
    assert found == SGD_RATES[table]
    assert {powers(rule("abc", table=table).factors(MLP[layer], SGD, 1.0))[3] for layer in LAYERS} == {0.0}


def test_attention_and_tied_readouts():
    for table, tied in {"standard": -0.5, "ntk": -0.5, "mup": -1.0, "mean_field": -1.0}.items():
        assert rule("abc", table=table).tied_output_scale(N) == N**tied
        assert rule("abc", table=table).attention_scale(N) == (N**-0.5 if table == "mup" else 1.0)


DECAY = {  # rule -> powers for input, hidden, output under muP and Adam
    "coupled": (0, 0, 0),
    "independent": (0, 1, 1),
    "sqrt": (0.5, 0.5, 0.5),
}


@pytest.mark.parametrize("name", DECAY)
def test_decay_rules(name):
    found = rule("mup", weight_decay=name)
    assert tuple(powers(found.factors(MLP[layer], ADAM, 1.0))[2] for layer in LAYERS) == DECAY[name]
    assert found.factors(MLP["vector"], ADAM, 1.0).weight_decay == 0.0
    shrink = [f.learning_rate * f.weight_decay for f in (found.factors(MLP["hidden"], ADAM, 1.0),)]
    assert shrink == [{"coupled": N**-1, "independent": 1.0, "sqrt": N**-0.5}[name]]


DEPTH = {  # name -> (residual scale, learning rate, epsilon per layer) of hidden leaves, powers of m
    "depth_mup": (-0.5, -0.5, -0.5),
    "complete_p": (-1.0, 0.0, -1.0),
}


@pytest.mark.parametrize("name", DEPTH)
def test_depth_rules(name):
    found, m = rule(name, base_depth=2, epsilon="per_layer"), 8.0
    branch, rate, epsilon = DEPTH[name]
    assert found.depth_ratio(LM.replace(depth=16)) == m
    assert found.residual_scale(m) == m**branch
    hidden, once = found.factors(MLP["hidden"], ADAM, m), found.factors(MLP["output"], ADAM, m)
    assert hidden.learning_rate == pytest.approx(m**rate / N)
    assert hidden.epsilon == pytest.approx(m**epsilon / N)
    assert once == rule("mup", weight_decay=found.weight_decay).factors(MLP["output"], ADAM, 1.0)
    assert found.factors(MLP["input"], ADAM, m).epsilon == pytest.approx(1 / N)
    with pytest.raises(BadInput, match="Adam-like"):
        found.factors(MLP["hidden"], SGD, m)


def test_complete_p_is_its_papers_table_by_default():
    found = rule("complete_p").factors(MLP["hidden"], ADAM, 8.0)
    assert found == pytest.approx((1.0, 1 / N, N, 1 / (N * 8.0)))


def test_repeated_leaves_are_those_that_depth_adds():
    found = {leaf.path: leaf.repeated for leaf in leaves(LM.replace(depth=1), 8)}
    assert {path for path, repeated in found.items() if not repeated} == {"embedding", "readout", "final_norm"}
    stack = {leaf.path: leaf.repeated for leaf in leaves(ImageMLP(depth=2), 8)}
    assert {path.split("/")[0] for path, repeated in stack.items() if repeated} == {"hidden_0", "hidden_1"}


def test_depth_reaches_the_models_named_scalar_and_leaves():
    deep = LM.replace(depth=8, width=8)
    found = scales(rule("complete_p"), deep, ADAM)
    assert found.residual_scale == 0.25
    assert found.epsilon["layer_3"]["mlp_in"] == 0.25
    assert found.epsilon["embedding"] == 1.0


# What the factors do


def explicit(table, c, steps, epsilon, decay):
    """A network with multipliers n^-a written into it, each layer under its own Adam of rate n^-c; the effective weights."""
    a = {layer: TABLES[table][layer][0] for layer in LAYERS}
    w = {layer: value * N ** a[layer] for layer, value in start(table).items()}
    state = {layer: (np.zeros_like(v), np.zeros_like(v)) for layer, v in w.items()}
    for t in range(1, steps + 1):
        effective = {layer: N ** -a[layer] * v for layer, v in w.items()}
        grads = gradients(effective)
        for layer in LAYERS:
            g = N ** -a[layer] * grads[layer]
            m, v = (b * s + (1 - b) * x for b, s, x in zip((0.9, 0.999), state[layer], (g, g * g), strict=True))
            state[layer] = (m, v)
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)
            w[layer] = w[layer] - 0.01 * N ** -c[layer] * (step + decay * w[layer])
    return {layer: N ** -a[layer] * v for layer, v in w.items()}


def start(table):
    rng = np.random.default_rng(0)
    found = {}
    for layer in LAYERS:
        fan_in, fan_out = MLP[layer].shape
        sp = rng.normal(size=(fan_in, fan_out)) * (1.0 if layer == "input" else fan_in**-0.5)
        found[layer] = sp * rule("abc", table=table).factors(MLP[layer], ADAM, 1.0).init
    return found


def network(w, x):
    return jnp.tanh(jnp.tanh(x @ w["input"]) @ w["hidden"]) @ w["output"]


def gradients(w):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 5))
    with jax.enable_x64(True):
        found = jax.grad(lambda w: jnp.mean((network(w, x) - y) ** 2))({k: jnp.asarray(v) for k, v in w.items()})
        return {k: np.asarray(v) for k, v in found.items()}


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("table", TABLES)
def test_folding_the_multipliers_changes_nothing(table, alignment):
    """Published a and c, a large epsilon and decay: the network with multipliers is the harness's network without."""
    epsilon, decay, power = 1e-2, 0.3, ALIGNMENTS[alignment]
    a = {layer: TABLES[table][layer][0] for layer in LAYERS}
    c = {layer: (0.0 if layer == "input" else power) - a[layer] for layer in LAYERS}
    expected = explicit(table, c, 3, epsilon, decay)
    optimizer = OPTIMIZERS["adamw"](learning_rate=0.01, b1=0.9, b2=0.999, eps=epsilon, weight_decay=decay)
    factors = {
        layer: rule("abc", table=table, alignment=alignment).factors(MLP[layer], optimizer, 1.0) for layer in LAYERS
    }
    trees = [{layer: getattr(f, field) for layer, f in factors.items()} for field in Factors._fields]
    with jax.enable_x64(True):
        w = {layer: jnp.asarray(v) for layer, v in start(table).items()}
        state = optimizer.build(0.01).init(w)
        for _ in range(3):
            grads = {k: jnp.asarray(v) for k, v in gradients(w).items()}
            w, state = apply_update(optimizer, 0.01, grads, state, w, 0.0, *trees[1:])
        for layer in LAYERS:
            np.testing.assert_allclose(np.asarray(w[layer]), expected[layer], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("table", TABLES)
def test_each_layers_first_update_moves_its_preactivations_alike_at_every_width(table, optimizer):
    """Full alignment is exact for one step of one example: the slope of |dW h| against width is 0 for every layer."""
    widths = (128, 512, 2048)
    moved = {layer: [] for layer in LAYERS}
    for width in widths:
        rng = np.random.default_rng(0)
        shapes = {"input": (3, width), "hidden": (width, width), "output": (width, 5)}
        ratios = {"input": (1.0, width / 8), "hidden": (width / 8, width / 8), "output": (width / 8, 1.0)}
        found = {
            k: rule("abc", table=table).factors(Leaf(k, shapes[k], k, *ratios[k]), OPTIMIZERS[optimizer](), 1.0)
            for k in LAYERS
        }
        sp = {k: rng.normal(size=shapes[k]) * (1.0 if k == "input" else shapes[k][0] ** -0.5) for k in LAYERS}
        w = {k: sp[k] * found[k].init for k in LAYERS}
        x = np.ones((1, 3))
        h1 = np.tanh(x @ w["input"])
        h2 = np.tanh(h1 @ w["hidden"])
        d3 = np.ones((1, 5))  # the derivative of the loss by the outputs
        d2 = (d3 @ w["output"].T) * (1 - h2**2)
        d1 = (d2 @ w["hidden"].T) * (1 - h1**2)
        incoming, backward = {"input": x, "hidden": h1, "output": h2}, {"input": d1, "hidden": d2, "output": d3}
        for k in LAYERS:
            grad = incoming[k].T @ backward[k]
            update = np.sign(grad) if optimizer == "adamw" else grad
            moved[k].append(np.sqrt(np.mean((found[k].learning_rate * (incoming[k] @ update)) ** 2)))
    slopes = {k: np.polyfit(np.log(widths), np.log(v), 1)[0] for k, v in moved.items()}
    assert slopes == pytest.approx(dict.fromkeys(LAYERS, 0.0), abs=0.12)


def test_epsilon_factors_bite_where_gradients_are_small():
    """Far below epsilon Adam's update is gradient / epsilon: a factor k on epsilon divides it by k."""
    optimizer = OPTIMIZERS["adamw"](learning_rate=1.0, eps=1e-3, weight_decay=0.0)
    params = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    grads = {"a": jnp.full(3, 1e-7), "b": jnp.full(3, 1e-7)}
    one = {"a": 1.0, "b": 1.0}
    state = optimizer.build(1.0).init(params)
    moved, _ = apply_update(optimizer, 1.0, grads, state, params, 0.0, one, one, {"a": 1.0, "b": 8.0})
    np.testing.assert_allclose(moved["a"] / moved["b"], 8.0, rtol=1e-2)


@pytest.mark.parametrize("role", LAYERS)
def test_muon_updates_get_the_spectral_norm_that_features_need(role):
    """Spectral norm of the scaled update ~ sqrt(fan-out / fan-in), at two widths."""
    norms = {}
    for width in (8, 64):
        shape = {"input": (3, width), "hidden": (width, width), "output": (width, 5)}[role]
        ratio = width / 8
        leaf = Leaf("w", shape, role, 1.0 if role == "input" else ratio, 1.0 if role == "output" else ratio)
        params = {"w": jnp.zeros(shape)}
        grads = {"w": jax.random.normal(jax.random.key(0), shape)}
        transform = MUON.build(1.0)
        update, _ = transform.update(grads, transform.init(params), params)
        rate = rule("mup").factors(leaf, MUON, 1.0).learning_rate
        norms[width] = rate * np.linalg.norm(np.asarray(update["w"]), 2) / np.sqrt(shape[1] / shape[0])
    assert norms[64] == pytest.approx(
        norms[8], rel=0.25
    )  # Newton-Schulz leaves singular values within about 0.7 to 1.2


def test_a_users_table_is_as_good_as_a_built_in_one():
    for workload in (LM.replace(depth=2), LM.replace(depth=2, tied_embeddings=True)):
        mine, built_in = (
            scales(rule(n, **o), workload.replace(width=32), ADAM) for n, o in (("table", {"file": HAND}), ("mup", {}))
        )
        assert mine == built_in


def test_a_trial_is_told_by_the_content_of_its_table(tmp_path):
    """Edited in place it makes other trials, moved it makes the same; what names no file is told as it ever was."""

    def trial(path, text=None):
        if text is not None:
            path.write_text(text)
        user_table._read.cache_clear()  # as another process would find it
        return replace(small_trial(), parametrization=rule("table", file=str(path)))

    path, copy = tmp_path / "mine.yaml", tmp_path / "copies" / "mine.yaml"
    copy.parent.mkdir()
    before = trial(path, "leaves: [{match: '.*', learning_rate: 0}]")
    first = before.id
    moved = trial(copy, path.read_text())
    assert moved.id == first
    assert moved.config()["parametrization.file"] == str(copy)  # which rows show
    assert trial(path, "leaves: [{match: '.*', learning_rate: -1}]").id != first
    assert replace(trial(path), parametrization=rule("table", file=str(path), base_depth=1)).id != trial(path).id
    plain = small_trial()
    canonical = json.dumps([plain.config(), plain.data_sha256], sort_keys=True)
    assert plain.id == hashlib.sha256(canonical.encode()).hexdigest()[:16]


BAD_TABLES = {
    "missing": (None, "cannot be read"),
    "empty": ("{}", "must hold"),
    "typo": ("leaves: [{match: '.*', inti: 1}]", "Did you mean 'init'"),
    "number": ("leaves: [{match: '.*', init: big}]", "must be a power"),
    "regex": ("leaves: [{match: '('}]", "regular expression"),
    "yaml": ("leaves: [", "not YAML"),
    "uncovered": ("leaves: [{match: embedding}]", "no row of .* matches"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_are_refused(tmp_path, case):
    text, message = BAD_TABLES[case]
    path = tmp_path / f"{case}.yaml"
    if text is not None:
        path.write_text(text)
    table = rule("table", file=str(path))

    def use():
        table.validate()
        scales(table, LM, ADAM)

    with pytest.raises(BadInput, match=message):
        use()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("abc", {"table": "sp"}, "unknown parametrization.table"),
        ("abc", {"alignment": "half"}, "unknown parametrization.alignment"),
        ("abc", {"epsilon": "big"}, "unknown parametrization.epsilon"),
        ("mup", {"epsilon": "big"}, "parametrization.epsilon"),
        ("complete_p", {"base_depth": 0}, "base_depth=0"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(BadInput, match=message):
        rule(name, **options).validate()


def test_unknown_decay_rules_are_refused():
    with pytest.raises(BadInput, match="weight_decay"):
        scales(rule("mup", weight_decay="none"), LM, ADAM)


def test_optimizers_without_a_rule_are_refused_by_name():
    trial = replace(small_trial(), optimizer=OPTIMIZERS["adafactor"](), parametrization=rule("mup"))
    with pytest.raises(BadInput, match="no rule for optimizer 'adafactor'"):
        trial.hparams()
