"""The translation workload, beside the matrix of test_families.py."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.coordinates import slopes
from workloads import translation as module
from workloads.base import BadInput
from workloads.data.parallel import EOS, PAD
from workloads.translation import Translation

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
KEY = jax.random.key(0)
SMALL = Translation(
    width=16, depth=2, heads=2, batch_size=8, train_sentences=512, validation_sentences=50, test_sentences=30
)
SEPARATE = SMALL.replace(shared_embeddings=False)
DATA = {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}
SOURCE, TARGET = (DATA[f"validation_{side}"].astype(jnp.int32) for side in ("source", "target"))


@functools.cache
def scattered(workload=SMALL, scale=0.5):
    """Parameters of a model that writes sentences of all lengths."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(workload.init, KEY)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.normal(size=p.shape).astype(np.float32)), shapes)


@functools.cache
def translated():
    """Greedy translations of a model that ends some sentences and not others."""
    params = dict(scattered(SEPARATE))
    params["readout"] = params["readout"].at[:, EOS].multiply(6.0)
    return params, np.asarray(quick_jit(SEPARATE.translate)(params, SOURCE))


def test_greedy_translation_is_what_the_logits_of_the_whole_sentence_say():
    params, words = translated()
    wanted = np.asarray(quick_jit(SEPARATE.logits)(params, SOURCE, words)).argmax(axis=1).reshape(words.shape)
    going_on = np.cumsum(words == EOS, axis=1) - (words == EOS) == 0
    np.testing.assert_array_equal(words[going_on], wanted[going_on])
    assert np.all(words[~going_on] == PAD)
    ended = np.any(words == EOS, axis=1)
    assert 0 < ended.sum() < len(ended)


def test_bleu_is_that_of_the_written_words(monkeypatch):
    """And does not depend on how many sentences are translated at once."""
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is in the dev extra")
    params, words = translated()
    words, references = (
        [" ".join(map(str, row[np.cumsum(row == EOS) == 0])) for row in t] for t in (words, np.asarray(TARGET))
    )
    expected = sacrebleu.corpus_bleu(words, [references], tokenize="none", force=True).score
    monkeypatch.setattr(module, "_CHUNK", 16)
    scores = quick_jit(lambda params: SEPARATE.evaluate(params, DATA, "validation"))(params)
    np.testing.assert_allclose(scores["bleu"], expected, rtol=1e-5)
    log_p = jax.nn.log_softmax(quick_jit(SEPARATE.logits)(params, SOURCE, TARGET))
    picked = np.asarray(jnp.take_along_axis(log_p, TARGET.reshape(-1, 1), axis=1)).reshape(TARGET.shape)
    np.testing.assert_allclose(scores["loss"], -picked[np.asarray(TARGET) != PAD].mean(), rtol=1e-5)


def test_a_word_outside_the_vocabulary_never_matches():
    known = jnp.array([[5, 6, 7, 8, 9, EOS]])
    unknown = jnp.array([[5, 6, 7, 8, 2, EOS]])
    assert np.asarray(module._counts(known, known))[0, :4].tolist() == [5, 4, 3, 2]
    assert np.asarray(module._counts(unknown, unknown))[0, :4].tolist() == [4, 3, 2, 1]


def test_logits_see_neither_padding_nor_the_future():
    logits = quick_jit(SMALL.logits)
    before = np.asarray(logits(scattered(), SOURCE, TARGET)).reshape(*TARGET.shape, -1)
    later = TARGET.at[:, 6:].set(9)
    after = np.asarray(logits(scattered(), SOURCE, later)).reshape(*TARGET.shape, -1)
    np.testing.assert_allclose(before[:, :7], after[:, :7], atol=1e-5)
    assert np.any(np.abs(before[:, 7:] - after[:, 7:]) > 1e-2)
    wide = jnp.pad(SOURCE, ((0, 0), (0, 1)))
    padded = np.asarray(quick_jit(SMALL.logits)(scattered(), wide, TARGET)).reshape(before.shape)
    np.testing.assert_allclose(before, padded, atol=1e-5)
    for column in (0, 3):
        changed = np.asarray(logits(scattered(), SOURCE.at[:, column].set(11), TARGET)).reshape(before.shape)
        assert np.any(np.abs(before - changed) > 1e-2)


def test_smoothed_loss():
    """Against the textbook form, a cross-entropy with the smoothed distribution less that distribution's entropy."""
    workload = SMALL.replace(label_smoothing=0.2)
    batch = {"source": SOURCE, "target": TARGET}
    loss, aux = quick_jit(workload.loss)(scattered(scale=0.2), batch, KEY)
    plain, _ = quick_jit(SMALL.replace(label_smoothing=0.0).loss)(scattered(scale=0.2), batch, KEY)
    logits = np.asarray(quick_jit(SMALL.logits)(scattered(scale=0.2), SOURCE, TARGET), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    words = log_p.shape[1]
    smooth = np.full(log_p.shape, 0.2 / (words - 1))
    smooth[np.arange(len(smooth)), np.asarray(TARGET).reshape(-1)] = 0.8
    divergence = np.sum(smooth * (np.log(smooth) - log_p), axis=1)
    np.testing.assert_allclose(loss, divergence[np.asarray(TARGET).reshape(-1) != PAD].mean(), rtol=1e-4)
    np.testing.assert_allclose(aux["cross_entropy"], plain, rtol=1e-5)


def test_attention_temperature_is_a_factor_on_all_logits():
    hot, scaled = SMALL.replace(attention_temp=3.0), SMALL.replace(attention_scale=3.0)
    results = [np.asarray(quick_jit(w.logits)(scattered(), SOURCE, TARGET)) for w in (SMALL, hot, scaled)]
    np.testing.assert_allclose(results[1], results[2], rtol=1e-5)
    assert np.any(np.abs(results[0] - results[1]) > 1e-2)


@pytest.mark.parametrize("changes", [*Translation.variants.values(), {"shared_embeddings": False}], ids=str)
def test_every_variant_trains(changes):
    workload = SMALL.replace(depth=1, **changes)

    @quick_jit
    def run(params):
        def step(index, params):
            gradient = jax.grad(lambda p: workload.loss(p, workload.batch(DATA, KEY, index), KEY)[0])(params)
            return jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), params, gradient)

        batch = workload.batch(DATA, KEY, 99)
        end = jax.lax.fori_loop(0, 20, step, params)
        return [workload.loss(p, batch, KEY)[1]["cross_entropy"] for p in (params, end)]

    before, after = run(workload.init(KEY))
    assert after < 0.9 * before


def test_trivial_and_oracle():
    workload = SMALL.replace(train_sentences=2000, test_sentences=2000)
    trivial, oracle = workload.trivial_metric(), workload.oracle_metric()
    assert 0 < trivial < 5
    assert 80 < oracle < 95
    assert workload.replace(data_seed=1).oracle_metric() != oracle
    assert workload.oracle_metric("test") != oracle  # targets are set on the validation split, and so are their ends
    assert workload.trivial_metric("test") != trivial


def test_tokens_are_target_words():
    assert SMALL.tokens_per_example == round(float(np.sum(DATA["train_target"] != PAD)) / 512)


def test_coordinate_check():
    """What moves less the wider the model harms nobody: the queries to the encoder alone do, at these widths."""
    workload, widths = SMALL.replace(heads=4, depth=1, batch_size=4), (32, 64, 256)
    mup, sp = (slopes(workload, name, widths, seeds=6, rate=2e-2) for name in ("mup", "sp"))
    assert {name: slope for name, slope in mup.items() if slope > 0.25} == {}
    for name in ("decoder_self_0", "decoder_cross_0", "decoder_mlp_0", "encoder_self_0", "encoder_mlp_0", "logits"):
        assert abs(mup[name]) < 0.25 < sp[name], name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"not divisible by workload\.heads=3"),
        ({"activation": "selu"}, "unknown workload.activation 'selu'. Valid names: gelu, relu, tanh"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"validation_sentences": 1}, "validation_sentences=1"),
        ({"max_vocabulary": 3}, "max_vocabulary=3"),
        ({"data_seed": -1}, "data_seed"),
        ({"width": 5, "heads": 1}, "must be even"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(BadInput, match=message):
        SMALL.replace(**changes).validate()
