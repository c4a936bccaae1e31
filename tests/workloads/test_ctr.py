"""CTR: the model does what DLRM's formulas say, its scores are scikit-learn's, it learns, and muP holds."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from harness.budget import Budget
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.schedules import SCHEDULES
from harness.transfer.coordinate_check import coordinate_check
from harness.trial import Trial
from tests.workloads.test_clicks import rows, write
from workloads.base import BadInput
from workloads.ctr import COLUMNS, CTR
from workloads.data.clicks import VOCABULARIES, generated
from workloads.metrics.parts import in_parts

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = CTR(width=8, depth=2, batch_size=16)
KEY = jax.random.key(0)
FIELDS, COUNTS = len(VOCABULARIES), 6


@functools.cache
def data():
    return {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


def scattered(workload):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(workload.init, KEY)
    return jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) * 0.5, shapes)


def trial(workload, steps, optimizer="adamw", rate=1e-2, parametrization="sp"):
    return Trial(
        workload=workload,
        optimizer=OPTIMIZERS[optimizer](learning_rate=rate),
        schedule=SCHEDULES["constant"](warmup="0 steps"),
        parametrization=PARAMETRIZATIONS[parametrization](base_width=8),
        budget=Budget(steps=steps),
    )


def by_hand(workload, params, ids, counts):
    """The formulas, one example at a time, in float64."""
    relu = functools.partial(np.maximum, 0.0)

    def norm(layer, x):
        centred = x - x.mean()
        return centred / np.sqrt(np.mean(centred**2) + 1e-6) * layer["gain"] + layer["shift"]

    def layer(name, product):
        hidden = relu(product + params[name]["bias"])
        return norm(params[name], hidden) if workload.layer_norm else hidden

    vectors = [params["embedding"]["table"][i].astype(np.float64) for i in ids]
    if workload.layer_norm:
        vectors = [norm(params["embedding"], v) for v in vectors]
    x = layer("bottom_0", counts @ params["bottom_0"]["kernel"])
    branch = layer("bottom_1", x @ params["bottom_1"]["kernel"])
    x = x + workload.residual_scale * branch if workload.resnet else branch
    if workload.resnet:
        x = layer("top_0", np.concatenate([x, *vectors]) @ params["top_0"]["kernel"])
        x = x + workload.residual_scale * layer("top_1", x @ params["top_1"]["kernel"])
    else:
        vectors = [x, *vectors]
        dots = [vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i, len(vectors))]
        dots = workload.attention_scale * np.array(dots) / workload.width**0.5
        x = layer("top_0", x @ params["top_0"]["kernel"] + dots @ params["interaction"]["kernel"])
        x = layer("top_1", x @ params["top_1"]["kernel"])
    return workload.output_scale * (x @ params["output"]["kernel"] + params["output"]["bias"])[0]


@pytest.mark.parametrize("variant", ["dlrm", *CTR.variants])
def test_the_model_is_its_formulas(variant):
    workload = SMALL.replace(attention_scale=0.7, residual_scale=0.3, output_scale=1.5, **CTR.variants.get(variant, {}))
    params = scattered(workload)
    ids, counts = (data()[f"train_{name}"][:5] for name in ("categories", "counts"))
    expected = [by_hand(workload, params, i, np.float64(x)) for i, x in zip(ids, counts, strict=True)]
    np.testing.assert_allclose(quick_jit(workload.logits)(params, ids, counts), expected, rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_algoperf():
    """At depth 3 and 4 and width 128: 512-256-128 and 1024-1024-512-256-1."""
    shapes = jax.eval_shape(CTR(width=128, depth=4).init, KEY)
    assert [shapes[f"top_{i}"]["kernel"].shape[1] for i in range(4)] == [1024, 1024, 512, 256]
    assert [shapes[f"bottom_{i}"]["kernel"].shape[1] for i in range(1, 4)] == [512, 256, 128]
    assert shapes["interaction"]["kernel"].shape == ((FIELDS + 1) * (FIELDS + 2) // 2, 1024)
    assert shapes["embedding"]["table"].shape == (sum(VOCABULARIES), 128)
    resnet = jax.eval_shape(CTR(width=128, depth=4, resnet=True).init, KEY)
    assert resnet["top_0"]["kernel"].shape == (256 + FIELDS * 128, 256)
    assert resnet["bottom_3"]["kernel"].shape == resnet["top_3"]["kernel"].shape == (256, 256)


@pytest.mark.parametrize(("init", "largest"), [(None, sum(VOCABULARIES) ** -0.5), (1.0, 1.0)])
def test_embeddings_begin_uniform(init, largest):
    table = quick_jit(CTR(width=32, embedding_init=init).init)(KEY)["embedding"]["table"]
    assert table.min() >= 0.0
    assert table.max() == pytest.approx(largest, rel=1e-3)
    assert np.mean(table) == pytest.approx(largest / 2, rel=0.01)


def test_scores_are_those_of_scikit_learn():
    params = scattered(SMALL)
    scores = quick_jit(lambda p, d: SMALL.evaluate(p, d, "validation"))(params, data())
    logits = np.float64(quick_jit(SMALL.logits)(params, *(data()[f"validation_{n}"] for n in ("categories", "counts"))))
    labels = np.asarray(data()["validation_labels"])
    losses = np.logaddexp(0, logits) - labels * logits
    assert scores["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)
    assert scores["cross_entropy"] == pytest.approx(losses.mean(), rel=1e-5)
    moderate = 1 / (1 + np.exp(-np.clip(logits, -20, 20)))
    assert np.clip(losses, 0, 20).mean() == pytest.approx(log_loss(labels, moderate), rel=1e-4)
    assert scores["cross_entropy_stderr"] == pytest.approx(losses.std() / len(labels) ** 0.5, rel=1e-4)
    assert scores["auc_stderr"] == pytest.approx((0.25 / len(labels)) ** 0.5, rel=0.5)


@pytest.mark.parametrize("rows", [3, 4, 10, 12])
def test_parts_are_the_whole(rows):
    x = jnp.arange(2.0 * rows).reshape(rows, 2)
    np.testing.assert_array_equal(in_parts(lambda a, b: a[:, 0] + b, (x, x[:, 1]), 4), x[:, 0] + x[:, 1])


def test_trivial_and_oracle_metrics_bracket_what_is_possible():
    log = generated(0)
    for split in ("validation", "test"):
        labels = log.labels[split]
        rate = float(log.labels["train"].mean())
        assert SMALL.trivial_metric(split) == pytest.approx(log_loss(labels, np.full(len(labels), rate)), rel=1e-6)
        assert SMALL.oracle_metric(split) == pytest.approx(log_loss(labels, log.probabilities[split]), rel=1e-9)
        assert SMALL.oracle_metric(split) < SMALL.trivial_metric(split) - 0.15


@pytest.mark.parametrize("variant", CTR.variants)
def test_every_variant_trains(variant):
    workload = SMALL.replace(batch_size=256, **CTR.variants[variant])
    optimizer = optax.adam(1e-2)

    def step(carry, index):
        params, state = carry
        gradient = jax.grad(lambda p: workload.loss(p, workload.batch(data(), KEY, index), KEY)[0])(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    @quick_jit
    def trained(params, held_out):
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(80))
        return workload.loss(params, held_out, KEY)[0]

    held_out = {name: data()[f"validation_{name}"][:4096] for name in COLUMNS}
    rate, labels = data()["train_labels"].mean(), held_out["labels"]
    trivial = -float(jnp.mean(labels * jnp.log(rate) + (1 - labels) * jnp.log(1 - rate)))
    assert trained(quick_jit(workload.init)(KEY), held_out) < trivial - 0.01


def test_mup_passes_and_sp_fails():
    workload = CTR(depth=1, batch_size=64, embedding_init=1.0)
    verdicts = {}
    for name in ("mup", "sp"):
        found = coordinate_check(trial(workload, 4, rate=2e-3, parametrization=name), (32, 96, 256), seeds=12)
        verdicts[name] = {slope: entry.verdict for slope, entry in found.slopes.items()}
    assert set(verdicts["mup"].values()) == {"pass"}
    assert {"logits", "top_0", "embedding/table alone", "output/kernel alone"} <= {
        name for name, verdict in verdicts["sp"].items() if verdict == "fail"
    }


def test_a_file_of_criteo_trains(tmp_path):
    write(tmp_path / "log.tsv", rows(400))
    workload = SMALL.replace(data=f"path:{tmp_path}/log.tsv", hash_buckets=20)
    assert workload.data_key() != SMALL.data_key()
    assert workload.oracle_metric() is None
    assert workload.trivial_metric() == pytest.approx(np.log(2), rel=1e-3)
    loaded = workload.load()
    assert loaded.examples == 360
    assert loaded.info["sha256"]
    arrays = {name: jnp.asarray(array) for name, array in loaded.arrays.items()}
    params = quick_jit(workload.init)(KEY)
    assert params["embedding"]["table"].shape == (26 * 20, 8)
    assert params["bottom_0"]["kernel"].shape == (13, 16)
    batch = quick_jit(workload.batch)(arrays, KEY, 0)
    assert np.isfinite(quick_jit(workload.loss)(params, batch, KEY)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"embedding_init": 0.0}, r"embedding_init=0\.0"), ({"embedding_init": float("inf")}, "embedding_init=inf")],
)
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        replace(SMALL, **changes).validate()


def test_bad_data_are_refused():
    with pytest.raises(BadInput, match=r"unknown workload\.data 'criteo'"):
        SMALL.replace(data="criteo").load()
