"""Connectionist temporal classification (Graves et al. 2006): the loss with its gradient in closed form, and greedy decoding.

B sequences, T frames, V labels of which 0 is the blank, L labels of a transcript. Paths run over its S = 2 L + 1 states, the
labels with blanks around them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from workloads.base import Array

_IMPOSSIBLE = -1e5  # log-probability of what cannot be; finite, so that no gradient is NaN


@jax.custom_vjp
def ctc_loss(logits: Array, frames: Array, labels: Array, lengths: Array) -> Array:
    """-log P(transcript | logits) in nats, (B,) float32.

    logits: (B, T, V) float32. frames: (B,), at least 1; logits from there on are not read. labels: (B, L), none of them 0
    before `lengths` (B,). A transcript that needs more frames than there are gets a loss of about 1e5.
    Forward and backward variables (eqs. 6 to 15) advance together, half as many steps as one after the other.
    """
    log_probabilities = jax.nn.log_softmax(logits)
    path, skips = _states(labels, lengths)
    emissions = jnp.take_along_axis(log_probabilities, path[:, None, :], axis=2)
    last = _advance(emissions, skips, frames)[-1]
    return -_ending(last, lengths)


def _ctc_forward(logits: Array, frames: Array, labels: Array, lengths: Array) -> tuple[Array, tuple[Array]]:
    log_probabilities = jax.nn.log_softmax(logits)
    path, skips = _states(labels, lengths)
    emissions = jnp.take_along_axis(log_probabilities, path[:, None, :], axis=2)
    back_path, back_skips = _states(_reversed(labels, lengths), lengths)
    backwards = _reversed(jnp.take_along_axis(log_probabilities, back_path[:, None, :], axis=2), frames)
    both = _advance(
        jnp.concatenate([emissions, backwards]), jnp.concatenate([skips, back_skips]), jnp.concatenate([frames, frames])
    )
    alpha, beta = jnp.split(jnp.swapaxes(both, 0, 1), 2)
    log_likelihood = _ending(alpha[:, -1], lengths)
    beta = jnp.swapaxes(_reversed(jnp.swapaxes(_reversed(beta, frames), 1, 2), 2 * lengths + 1), 1, 2)
    occupied = jnp.exp(jnp.minimum(alpha + beta - emissions - log_likelihood[:, None, None], 0.0))
    real = (jnp.arange(logits.shape[1])[None, :] < frames[:, None])[:, :, None]
    used = (jnp.arange(path.shape[1])[None, :] <= 2 * lengths[:, None])[:, None, :]
    occupancy = jnp.where(real & used, occupied, 0.0) @ jax.nn.one_hot(path, logits.shape[2])
    return -log_likelihood, (jnp.where(real, jnp.exp(log_probabilities) - occupancy, 0.0),)


def _ctc_backward(saved: tuple[Array], grad: Array) -> tuple[Array, None, None, None]:
    return grad[:, None, None] * saved[0], None, None, None


ctc_loss.defvjp(_ctc_forward, _ctc_backward)


def ctc_matmul_flops(batch: int, frames: int, labels: int, alphabet: int) -> float:
    """Of the one product in the gradient, from states to labels: 2 B T S V."""
    return 2.0 * batch * frames * (2 * labels + 1) * alphabet


def greedy_decode(logits: Array, frames: Array) -> tuple[Array, Array]:
    """The most probable label of every frame, repetitions merged and blanks left out: labels (B, T), lengths (B,).

    logits: (B, T, V). frames: (B,). Labels are 0 from the lengths on.
    """
    best = jnp.argmax(logits, axis=2).astype(jnp.int32)
    batch, time = best.shape
    real = jnp.arange(time)[None, :] < frames[:, None]
    before = jnp.pad(best[:, :-1], ((0, 0), (1, 0)))
    kept = real & (best != 0) & (best != before)
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, time)
    rows = jnp.arange(batch)[:, None]
    return jnp.zeros_like(best).at[rows, place].set(best, mode="drop"), jnp.sum(kept, axis=1, dtype=jnp.int32)


def _states(labels: Array, lengths: Array) -> tuple[Array, Array]:
    """The label of each state, (B, S), and the log of whether it may be entered from two states before, (B, S)."""
    batch, length = labels.shape
    path = jnp.zeros((batch, 2 * length + 1), jnp.int32).at[:, 1::2].set(labels.astype(jnp.int32))
    two_before = jnp.pad(path[:, :-2], ((0, 0), (2, 0)))
    return path, jnp.where((path != 0) & (path != two_before), 0.0, _IMPOSSIBLE)


def _advance(emissions: Array, skips: Array, frames: Array) -> Array:
    """Log-probability of being in each state with all that was emitted so far, (T, B, S)."""
    batch, time, states = emissions.shape
    first = jnp.where(jnp.arange(states)[None, :] < 2, emissions[:, 0], _IMPOSSIBLE)
    edge = jnp.full((batch, 2), _IMPOSSIBLE)

    def step(alpha: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        emission, position = now
        padded = jnp.concatenate([edge, alpha], axis=1)
        one, two = padded[:, 1:-1], padded[:, :-2] + skips
        top = jnp.maximum(jnp.maximum(alpha, one), two)
        total = jnp.exp(alpha - top) + jnp.exp(one - top) + jnp.exp(two - top)
        moved = top + jnp.log(total) + emission
        alpha = jnp.where((position < frames)[:, None], moved, alpha)
        return alpha, alpha

    _, later = jax.lax.scan(step, first, (jnp.swapaxes(emissions[:, 1:], 0, 1), jnp.arange(1, time)))
    return jnp.concatenate([first[None], later])


def _ending(alpha: Array, lengths: Array) -> Array:
    """Log-probability of ending in the last label or the blank after it, (B,), from the last frame's (B, S)."""
    blank = jnp.take_along_axis(alpha, 2 * lengths[:, None], axis=1)[:, 0]
    label = jnp.take_along_axis(alpha, jnp.maximum(2 * lengths - 1, 0)[:, None], axis=1)[:, 0]
    return jnp.where(lengths > 0, jnp.logaddexp(blank, label), blank)


def _reversed(x: Array, lengths: Array) -> Array:
    """(B, N, ...) with the first `lengths` entries of each row in reverse order."""
    position = jnp.arange(x.shape[1])[None, :]
    source = jnp.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return jnp.take_along_axis(x, source.reshape(source.shape + (1,) * (x.ndim - 2)), axis=1)
