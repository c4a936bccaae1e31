"""Graph: the model is Battaglia et al.'s algorithm, blind to the order of nodes; its scores are scikit-learn's; muP holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score

from harness.budget import Budget
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.schedules import SCHEDULES
from harness.transfer.coordinate_check import coordinate_check
from harness.trial import Trial
from tests.workloads.test_molecules import molpcba, write
from workloads.base import BadInput
from workloads.data.molecules import generated
from workloads.graph import COLUMNS, Graph

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = Graph(width=8, depth=2, batch_size=8)
KEY = jax.random.key(0)


def graphs(split, rows=slice(None)):
    part = generated(0).splits[split]
    return {name: np.array(getattr(part, name)[rows]) for name in COLUMNS}


@functools.cache
def train():
    return {f"train_{name}": jnp.asarray(column) for name, column in graphs("train").items()}


def scattered(workload):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(workload.init, KEY)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) * 0.5, shapes)


jitted = functools.cache(lambda workload: quick_jit(workload.logits))


def by_hand(workload, params, atoms, bonds):
    """Algorithm 1 on one graph without padding, in float64. bonds: (first node, second node, order from 0)."""
    activation = {"relu": lambda x: np.maximum(x, 0), "silu": lambda x: x * expit(x), "gelu": jax.nn.gelu}
    act = activation[workload.activation]

    def norm(layer, x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * layer["gain"] + layer["shift"]

    def mlp(update, **reads):
        hidden = act(norm(update, sum(value @ update[name] for name, value in reads.items())))
        for layer in range(1, workload.mlp_layers):
            hidden = act(norm(update[f"layer_{layer}"], hidden @ update[f"layer_{layer}"]["kernel"]))
        return np.asarray(hidden, np.float64)

    nodes = [np.float64(params["nodes"]["table"][atom]) for atom in atoms]
    edges = {(a, b): np.float64(params["edges"]["table"][o]) for x, y, o in bonds for a, b in ((x, y), (y, x))}
    whole = {}
    for step in range(workload.depth):
        block = params[f"step_{step}"]
        edges = {
            (a, b): mlp(block["edge"], edge=edge, sender=nodes[a], receiver=nodes[b], **whole)
            for (a, b), edge in edges.items()
        }
        nodes = [
            mlp(
                block["node"],
                node=node,
                leaving=sum(edge for (a, _), edge in edges.items() if a == i),
                entering=sum(edge for (_, b), edge in edges.items() if b == i),
                **whole,
            )
            for i, node in enumerate(nodes)
        ]
        whole = {"graph": mlp(block["graph"], nodes=sum(nodes), edges=sum(edges.values()), **whole)}
    return workload.output_scale * (whole["graph"] @ params["output"]["kernel"] + params["output"]["bias"])


@pytest.mark.parametrize("variant", ["plain", "silu", "size"])
def test_the_model_is_its_algorithm(variant):
    workload = SMALL.replace(output_scale=1.5, **Graph.variants.get(variant, {}))
    params, batch = scattered(workload), graphs("train", slice(4))
    logits = jitted(workload)(params, batch)
    for i in range(4):
        atoms = batch["nodes"][i, : batch["node_count"][i], 0]
        bonds = np.concatenate([batch["ends"][i], batch["edges"][i]], axis=1)[: batch["edge_count"][i]].tolist()
        np.testing.assert_allclose(logits[i], by_hand(workload, params, atoms, bonds), rtol=1e-3, atol=1e-4)


def test_order_and_padding_do_not_matter():
    params, batch = scattered(SMALL), graphs("train", slice(4))
    expected = jitted(SMALL)(params, batch)
    other = {name: column.copy() for name, column in batch.items()}
    rng = np.random.default_rng(0)
    for i in range(4):
        nodes, bonds = batch["node_count"][i], batch["edge_count"][i]
        order, bond_order = rng.permutation(nodes), rng.permutation(bonds)
        other["nodes"][i, order] = batch["nodes"][i, :nodes]
        flipped = order[batch["ends"][i, :bonds]][bond_order, ::-1]
        other["ends"][i, :bonds] = flipped
        other["edges"][i, :bonds] = batch["edges"][i, bond_order]
        other["nodes"][i, nodes:], other["edges"][i, bonds:], other["ends"][i, bonds:] = 3, 2, 1
    np.testing.assert_allclose(jitted(SMALL)(params, other), expected, rtol=1e-4, atol=1e-4)
    other["edges"][:, 0] = (other["edges"][:, 0] + 1) % 3
    assert np.abs(jitted(SMALL)(params, other) - expected).max() > 1e-3


def test_scores_are_those_of_scikit_learn():
    params, columns = scattered(SMALL), graphs("validation")
    data = {f"validation_{name}": column for name, column in columns.items()}
    scores = quick_jit(lambda p, d: SMALL.evaluate(p, d, "validation"))(params, data)
    logits = np.float64(jitted(SMALL)(params, columns))
    labels, present = columns["labels"], columns["present"] > 0
    precision = [
        average_precision_score(labels[present[:, i], i], logits[present[:, i], i]) for i in range(labels.shape[1])
    ]
    assert scores["mean_average_precision"] == pytest.approx(
        np.mean(precision), abs=2e-4
    )  # other rounding, other ranks
    losses = (np.logaddexp(0, logits) - labels * logits)[present]
    assert scores["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert 0.001 < scores["mean_average_precision_stderr"] < 0.03


def test_trivial_and_oracle_metrics():
    for split in ("validation", "test"):
        part = generated(0).splits[split]
        precision = [
            average_precision_score(part.labels[present, i], part.probabilities[present, i])
            for i, present in enumerate(part.present.T > 0)
        ]
        assert SMALL.oracle_metric(split) == pytest.approx(np.mean(precision), abs=1e-6)
        rates = part.labels.sum(axis=0) / part.present.sum(axis=0)
        assert SMALL.trivial_metric(split) == pytest.approx(rates.mean(), abs=1e-6)
        assert SMALL.oracle_metric(split) > SMALL.trivial_metric(split) + 0.5


def test_missing_labels_do_not_count():
    params, batch = scattered(SMALL), graphs("train", slice(8))
    swapped = batch | {"labels": np.where(batch["present"] > 0, batch["labels"], 1.0)}
    losses = [quick_jit(SMALL.loss)(params, one, KEY)[0] for one in (batch, swapped)]
    assert losses[0] == losses[1]
    logits = np.float64(jitted(SMALL)(params, batch))
    by_label = np.logaddexp(0, logits) - batch["labels"] * logits
    assert losses[0] == pytest.approx(by_label[batch["present"] > 0].mean(), rel=1e-5)


@pytest.mark.parametrize("variant", Graph.variants)
def test_every_variant_trains(variant):
    workload = SMALL.replace(**Graph.variants[variant] | {"depth": 1, "batch_size": 64, "width": 16})
    optimizer = optax.adam(1e-2)

    @quick_jit
    def trained(params, data, held_out):
        def step(carry, index):
            params, state = carry
            gradient = jax.grad(lambda p: workload.loss(p, workload.batch(data, KEY, index), KEY)[0])(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(120))
        return workload.loss(params, held_out, KEY)[0]

    held_out = graphs("validation", slice(512))
    rates = held_out["labels"].sum(axis=0) / held_out["present"].sum(axis=0)
    trivial = np.mean(-rates * np.log(rates) - (1 - rates) * np.log(1 - rates))
    loss = trained(quick_jit(workload.init)(KEY), train(), held_out)
    assert loss < trivial - 0.02


def test_mup_passes_and_sp_fails():
    verdicts = {}
    for name in ("mup", "sp"):
        trial = Trial(
            workload=Graph(depth=1, batch_size=16),
            optimizer=OPTIMIZERS["adamw"](learning_rate=3e-3),
            schedule=SCHEDULES["constant"](warmup="0 steps"),
            parametrization=PARAMETRIZATIONS[name](base_width=8),
            budget=Budget(steps=4),
        )
        found = coordinate_check(trial, (16, 48, 128), seeds=12)
        verdicts[name] = {slope: entry.verdict for slope, entry in found.slopes.items()}
    assert set(verdicts["mup"].values()) == {"pass"}
    assert {"logits", "edge_0", "step_0/edge/edge alone"} <= {n for n, v in verdicts["sp"].items() if v == "fail"}


def test_files_of_ogb_train(tmp_path):
    write(tmp_path, molpcba())
    workload = SMALL.replace(data=f"path:{tmp_path}", batch_size=3)
    assert workload.data_key() != SMALL.data_key()
    assert workload.oracle_metric() is None
    assert 0.0 < workload.trivial_metric() < 1.0
    loaded = workload.load()
    assert loaded.info["sha256"]
    arrays = {name: jnp.asarray(array) for name, array in loaded.arrays.items()}
    params = quick_jit(workload.init)(KEY)
    assert params["nodes"]["table"].shape == (7 + 3 + 1, 8)
    assert params["output"]["kernel"].shape == (8, 2)
    batch = quick_jit(workload.batch)(arrays, KEY, 0)
    assert np.isfinite(quick_jit(workload.loss)(params, batch, KEY)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "rellu"}, r"unknown workload\.activation 'rellu'\. Did you mean 'relu'\? Valid names: relu, "),
        ({"embedding_divisor": 3}, r"width=8 is not divisible by workload\.embedding_divisor=3"),
        ({"mlp_layers": 0}, "mlp_layers=0"),
        ({"max_nodes": 0}, "max_nodes=0"),
    ],
)
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        SMALL.replace(**changes).validate()


def test_bad_data_are_refused():
    with pytest.raises(BadInput, match=r"unknown workload\.data 'molpcba'"):
        SMALL.replace(data="molpcba").load()
