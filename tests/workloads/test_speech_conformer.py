"""The Conformer and what the speech families share: masks, normalisation, evaluation, variants, width transfer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.transfer.coordinate_check import FLAT
from tests.workloads.coordinates import slopes, uneven
from tests.workloads.test_speech_data import library
from workloads.base import BadInput
from workloads.ctc import ctc_loss, greedy_decode
from workloads.speech_conformer import SpeechConformer, _depthwise
from workloads.speech_layers import Pass, batch_norm

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}  # a third of the time to compile
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
KEY, DATA_KEY = jax.random.key(0), jax.random.key(1)
FEW = {"utterances": 64, "validation_utterances": 70, "test_utterances": 12}
SMALL = SpeechConformer(width=16, depth=1, heads=2, batch_size=4, **FEW)
CHANGES = {"default": {}, **SpeechConformer.variants}
evaluate = quick_jit(functools.partial(SMALL.evaluate, split="validation"))


@functools.cache
def data() -> dict[str, jax.Array]:
    return {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}


@functools.cache
def params(workload: SpeechConformer) -> Any:
    return quick_jit(workload.init)(KEY)


@functools.cache
def jittered() -> Any:
    """Parameters of SMALL with no zeros among them."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda w: w + 0.3 * rng.normal(size=w.shape).astype(np.float32), params(SMALL))


@functools.cache
def examples() -> Any:
    return quick_jit(SMALL.batch)(data(), DATA_KEY, 0)


@pytest.mark.parametrize("variant", CHANGES)
def test_every_variant_trains(variant: str) -> None:
    workload = SMALL.replace(**CHANGES[variant])
    workload.validate()
    step = quick_jit(jax.value_and_grad(lambda p, batch: workload.loss(p, batch, KEY)[0]))
    weights, losses = params(workload), []
    for _ in range(8):
        loss, gradient = step(weights, examples())
        losses.append(float(loss))
        weights = jax.tree.map(lambda w, g: w - 0.02 * g, weights, gradient)
    assert losses[-1] < 0.9 * losses[0]


def test_variants_change_what_they_say() -> None:
    def logits(workload: SpeechConformer) -> np.ndarray:
        return quick_jit(workload.transcribe)(params(SMALL), examples()["features"], examples()["frames"])[0]

    hotter = logits(SMALL.replace(**CHANGES["attention_temperature"]))
    np.testing.assert_allclose(hotter, logits(SMALL.replace(attention_scale=1.6)), rtol=1e-5, atol=1e-5)
    assert "norm" not in params(SMALL.replace(**CHANGES["layernorm"]))["block_0"]
    assert SMALL.replace(**CHANGES["convolution_layernorm"])._no_moments(params(SMALL)) == {}
    assert set(SMALL._no_moments(params(SMALL))) == {"convolution_0"}


def test_frames_after_the_end_change_nothing() -> None:
    """Neither logits nor the statistics of batch norm."""
    transcribe = quick_jit(SMALL.transcribe)
    features, ends = examples()["features"][:, :72], jnp.array([72, 61, 54, 47])  # one ends where the array does
    logits, frames, moments = transcribe(jittered(), features, ends)
    longer = jnp.pad(features, ((0, 0), (0, 16), (0, 0)))
    padded, padded_frames, padded_moments = transcribe(jittered(), longer, ends)
    np.testing.assert_array_equal(frames, -(-np.asarray(ends) // 4))
    np.testing.assert_array_equal(frames, padded_frames)
    for row, count in enumerate(frames):
        np.testing.assert_allclose(logits[row, :count], padded[row, :count], rtol=2e-4, atol=2e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), moments, padded_moments)


def test_batch_norm_is_over_present_frames() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (12, 5)).astype(np.float32)
    present = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]], np.float32)
    norm = {"gain": np.full(5, 2.0, np.float32), "bias": np.full(5, 0.5, np.float32)}
    run = Pass(present)
    found = batch_norm("here", x, norm, run)
    kept = x[present.reshape(-1) > 0].astype(np.float64)
    expected = 2.0 * (kept - kept.mean(axis=0)) / np.sqrt(kept.var(axis=0) + 1e-5) + 0.5
    np.testing.assert_allclose(found[present.reshape(-1) > 0], expected, rtol=1e-4, atol=1e-4)
    assert not found[present.reshape(-1) == 0].any()
    given = {"here": (np.ones(5, np.float32), np.full(5, 4.0, np.float32))}
    held = batch_norm("here", x, norm, Pass(present, given=given, own=False))
    np.testing.assert_allclose(held[0], 2.0 * (x[0] - 1.0) / 2.0 + 0.5, rtol=1e-4)
    np.testing.assert_allclose(batch_norm("here", x, norm, Pass(present, given=given, own=True)), found, rtol=1e-6)


def test_evaluation_is_of_all_utterances_with_the_training_statistics() -> None:
    """70 utterances in turns of 64, against one pass over all, decoded on the host and scored by jiwer."""
    jiwer = pytest.importorskip("jiwer")
    scores = evaluate(jittered(), data())
    parts = {
        split: {part: data()[f"{split}_{part}"] for part in ("audio", "samples", "labels", "lengths")}
        for split in ("train", "validation")
    }

    @quick_jit
    def once(params: Any) -> Any:
        train, held_out = (SMALL._examples(parts[split]) for split in ("train", "validation"))
        moments = SMALL.transcribe(params, train["features"], train["frames"])[2]
        logits, frames, _ = SMALL.transcribe(params, held_out["features"], held_out["frames"], given=moments, own=False)
        return ctc_loss(logits, frames, held_out["labels"], held_out["lengths"]), *greedy_decode(logits, frames)

    losses, decoded, lengths = once(jittered())
    speech = SMALL._speech
    heard = [speech.text(row[:length]) for row, length in zip(np.asarray(decoded), lengths, strict=True)]
    assert len({len(text.split()) for text in heard}) > 1, "the test can fail"
    rate = jiwer.wer(speech.transcripts("validation"), heard)
    assert float(scores["word_error_rate"]) == pytest.approx(rate, abs=1e-6)
    per_letter = np.asarray(losses) / np.asarray(data()["validation_lengths"])
    assert float(scores["loss"]) == pytest.approx(per_letter.mean(), rel=1e-4)
    assert 0 < float(scores["word_error_rate_stderr"]) < 0.5


def test_augmentation_and_dropout_follow_the_key_and_can_be_off() -> None:
    @functools.partial(quick_jit, static_argnums=0)
    def losses(spec_augment: bool, dropout: float | None) -> jax.Array:
        workload = SMALL.replace(spec_augment=spec_augment, dropout=dropout)
        return jax.lax.map(lambda key: workload.loss(weights, batch, key)[0], keys)

    weights, batch, keys = params(SMALL), examples(), jnp.stack([KEY, DATA_KEY])
    plain, augmented = losses(False, None), losses(True, None)
    assert plain[0] == plain[1]
    assert augmented[0] != augmented[1]
    dropped = losses(False, 0.3)
    assert dropped[0] != dropped[1]
    np.testing.assert_allclose(losses(False, 0.0), plain, rtol=1e-5)


def test_depthwise_convolution_is_that_of_jax() -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    layout = ("NHC", "HIO", "NHC")
    expected = jax.lax.conv_general_dilated(
        x, kernel[:, None, :], (1,), "SAME", dimension_numbers=layout, feature_group_count=6
    )
    np.testing.assert_allclose(_depthwise(x, kernel), expected, rtol=1e-5, atol=1e-5)


def test_mup_passes_the_coordinate_check_and_sp_fails() -> None:
    workload, widths = SMALL.replace(spec_augment=False), (32, 64, 256)
    assert uneven(slopes(workload, "mup", widths, seeds=3)) == {}
    failed = {name for name, slope in slopes(workload, "sp", widths, seeds=3).items() if slope > FLAT}
    assert {"attention_0", "feed_forward_0", "logits", "head/kernel alone"} <= failed


def test_trivial_and_oracle_rates() -> None:
    """No one-word or two-word transcript beats the constant that was found, and it beats the empty one."""
    found = SMALL.trivial_metric()
    said = [text.split() for text in SMALL._speech.transcripts("validation")]
    total = sum(map(len, said))
    words = {word for utterance in said for word in utterance}
    one = min(sum(len(u) - (w in u) for u in said) for w in words) / total
    assert 0.5 < found <= one < 1.0
    assert SMALL.oracle_metric() == 0.0
    with_none = evaluate(jax.tree.map(jnp.zeros_like, params(SMALL)), data())
    assert with_none["word_error_rate"] == 1.0, "equal logits decode to blanks"


def test_recordings_make_a_workload(tmp_path: Path) -> None:
    workload = SMALL.replace(data=f"path:{library(tmp_path)}", longest_ms=2000)
    workload.validate()
    loaded = workload.load()
    assert loaded.examples == 3
    assert len(loaded.info["sha256"]) == 64
    assert workload.oracle_metric() is None
    assert 0.0 <= workload.trivial_metric() <= 1.0  # three recordings may well say the same
    weights = jax.eval_shape(workload.init, KEY)
    assert weights["head"]["kernel"].shape == (16, 1 + len(workload._speech.alphabet))
    scores = jax.eval_shape(functools.partial(workload.evaluate, split="test"), weights, dict(loaded.arrays))
    assert scores["word_error_rate"].shape == ()


def test_instabilities_are_logits_of_attention_and_log_z() -> None:
    found = quick_jit(SMALL.instabilities)(params(SMALL), examples())
    assert set(found) == {"attention_logit_0", "log_z"}
    assert found["attention_logit_0"] > 0
    assert abs(float(found["log_z"]) - np.log(SMALL.letters)) < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18}, "multiple of 4"),
        ({"width": 20, "heads": 3}, "not divisible by workload.heads=3"),
        ({"bands": 10}, "workload.bands=10"),
        ({"bands": 100}, "more than windows of 32 ms resolve"),
        ({"kernel_size": 4}, "must be odd"),
        ({"convolution_norm": "group"}, "Valid: batch, layer"),
        ({"activation": "relu"}, "Valid: swish, gelu"),
        ({"dropout": 1.0}, "workload.dropout"),
        ({"time_masks": -1}, "workload.time_masks"),
        ({"validation_utterances": 0}, "workload.validation_utterances"),
        ({"data": "digits"}, "workload.data='digits'"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        SMALL.replace(**changes).validate()


def test_unknown_splits_are_told_the_valid_ones() -> None:
    with pytest.raises(BadInput, match="Valid names: train, validation, test"):
        SMALL.evaluate(params(SMALL), data(), "dev")
