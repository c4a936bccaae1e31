"""DeepSpeech: its LSTM against the recurrence written out, masks, variants, width transfer."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.transfer.coordinate_check import FLAT
from tests.workloads.coordinates import slopes, uneven
from workloads.base import BadInput
from workloads.recurrent import bidirectional_lstm
from workloads.speech_deepspeech import SpeechDeepSpeech

QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}  # a third of the time to compile
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
KEY, DATA_KEY = jax.random.key(0), jax.random.key(1)
FEW = {"utterances": 64, "validation_utterances": 8, "test_utterances": 12}
SMALL = SpeechDeepSpeech(width=16, depth=1, batch_size=4, **FEW)
CHANGES = {"default": {}, **SpeechDeepSpeech.variants}


@functools.cache
def jittered() -> Any:
    """Parameters of SMALL with no zeros among them."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda w: w + 0.3 * rng.normal(size=w.shape).astype(np.float32), params(SMALL))


@functools.cache
def examples() -> Any:
    data = {name: jnp.asarray(array) for name, array in SMALL.load().arrays.items()}
    return quick_jit(SMALL.batch)(data, DATA_KEY, 0)


@functools.cache
def params(workload: SpeechDeepSpeech) -> Any:
    return quick_jit(workload.init)(KEY)


def written_out(gates: Any, recurrent: Any, lengths: list[int]) -> Any:
    """(B, T, 2 H): one sequence, direction and frame after the other."""
    _, time, size = gates.shape
    units = size // 8
    rows = []
    for row, length in enumerate(lengths):
        columns = []
        for direction in (0, 1):
            state, cell, states = jnp.zeros(units), jnp.zeros(units), {}
            for t in range(length) if direction == 0 else reversed(range(length)):
                z = gates[row, t, 4 * units * direction : 4 * units * (direction + 1)] + state @ recurrent[direction]
                keep, forget, output, candidate = jnp.split(z, 4)
                cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(keep) * jnp.tanh(candidate)
                state = jax.nn.sigmoid(output) * jnp.tanh(cell)
                states[t] = state
            columns.append(jnp.stack([states.get(t, jnp.zeros(units)) for t in range(time)]))
        rows.append(jnp.concatenate(columns, axis=1))
    return jnp.stack(rows)


def test_the_lstm_and_its_gradient_are_the_recurrence_written_out() -> None:
    rng = np.random.default_rng(0)
    gates, recurrent = rng.normal(size=(2, 4, 24)).astype(np.float32), rng.normal(size=(2, 3, 12)).astype(np.float32)
    weights, lengths = rng.normal(size=(2, 4, 6)).astype(np.float32), [4, 2]
    present = (np.arange(4)[None, :] < np.array(lengths)[:, None]).astype(np.float32)

    def both(states_of: Any) -> Any:
        def total(gates: Any, recurrent: Any) -> Any:
            states = states_of(gates, recurrent)
            return jnp.sum(weights * states), states

        return quick_jit(jax.value_and_grad(total, (0, 1), has_aux=True))(gates, recurrent)

    (_, states), gradient = both(lambda g, r: bidirectional_lstm(g, r, present))
    (_, expected), expected_gradient = both(lambda g, r: written_out(g, r, lengths))
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected_gradient)
    assert not states[1, 2:].any()


@pytest.mark.parametrize("variant", CHANGES)
def test_every_variant_trains(variant: str) -> None:
    workload = SMALL.replace(**CHANGES[variant])
    workload.validate()
    step = quick_jit(jax.value_and_grad(lambda p, batch: workload.loss(p, batch, KEY)[0]))
    weights, losses = params(workload), []
    for _ in range(8):
        loss, gradient = step(weights, examples())
        losses.append(float(loss))
        assert all(np.max(np.abs(g)) > 1e-6 for g in jax.tree.leaves(gradient)), "no dead parameters"
        weights = jax.tree.map(lambda w, g: w - 0.05 * g, weights, gradient)
    assert losses[-1] < 0.9 * losses[0]


def test_frames_after_the_end_change_nothing() -> None:
    transcribe = quick_jit(SMALL.transcribe)
    features, ends = examples()["features"][:, :72], jnp.array([72, 61, 54, 47])  # one ends where the array does
    logits, frames, moments = transcribe(jittered(), features, ends)
    longer = jnp.pad(features, ((0, 0), (0, 16), (0, 0)))
    padded, _, padded_moments = transcribe(jittered(), longer, ends)
    for row, count in enumerate(frames):
        np.testing.assert_allclose(logits[row, :count], padded[row, :count], rtol=2e-4, atol=2e-4)
    assert set(moments) == {"lstm_0", "dense_0"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), moments, padded_moments)


def test_mup_passes_the_coordinate_check_and_sp_fails() -> None:
    workload, widths = SMALL.replace(spec_augment=False), (64, 128, 512)
    assert uneven(slopes(workload, "mup", widths, seeds=3)) == {}
    failed = {name for name, slope in slopes(workload, "sp", widths, seeds=3).items() if slope > FLAT}
    assert {"logits", "dense_0", "head/kernel alone"} <= failed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_layers": -1}, "workload.feed_forward_layers"),
        ({"norm": "group"}, "Valid: batch, layer"),
        ({"activation": "gelu"}, "Valid: relu, tanh"),
        ({"width": 6}, "multiple of 4"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        SMALL.replace(**changes).validate()
