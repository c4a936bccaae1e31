"""A bidirectional LSTM whose loop does as little as possible: both directions in one scan, and only what depends on the state.

T frames, B sequences, H units of a direction. Everything in the loop has the layout (T, 2, B, ...), where the second direction
is turned round in time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from workloads.base import Array

_FORGET_BIAS = 1.0  # Jozefowicz et al. 2015
_DIRECTIONS = ((0,), (0,))  # batch axis of (2, ...) operands


def bidirectional_lstm(gates: Array, recurrent: Array, present: Array) -> Array:
    """States of both directions, (B, T, 2 H), 0 where a sequence is over.

    gates: (B, T, 8 H), what the inputs give to the gates, biases included: 4 H for each direction, in the order input, forget,
    output, candidate. recurrent: (2, H, 4 H). present: (B, T), 1 before the sequence's end and 0 from there on; the second
    direction begins at the end (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).
    """
    batch, time, size = gates.shape
    by_direction = jnp.transpose(gates.reshape(batch, time, 2, size // 2), (1, 2, 0, 3))
    shown = jnp.broadcast_to(present.T[:, None, :, None], (time, 2, batch, 1))
    states = _turned(lstm(_turned(by_direction), recurrent, _turned(shown)))
    return jnp.transpose(states, (2, 0, 1, 3)).reshape(batch, time, size // 4)


def _turned(x: Array) -> Array:
    """(T, 2, ...) with the second direction in reverse order of time."""
    return jnp.stack([x[:, 0], x[::-1, 1]], axis=1)


@jax.custom_vjp
def lstm(gates: Array, recurrent: Array, present: Array) -> Array:
    """States (T, 2, B, H) of two independent LSTMs. gates: (T, 2, B, 4 H). recurrent: (2, H, 4 H). present: (T, 2, B, 1).

    Where `present` is 0 the state and the cell are 0. The backward pass takes the gradient of `recurrent` in one product after
    its loop.
    """
    return _forward(gates, recurrent, present)[0]


def _forward(gates: Array, recurrent: Array, present: Array) -> tuple[Array, tuple[Array, ...]]:
    zero = jnp.zeros((*gates.shape[1:3], recurrent.shape[1]), gates.dtype)

    def step(carry: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        state, cell = carry
        gate, here = now
        opened = _activated(gate + jax.lax.dot_general(state, recurrent, (((2,), (1,)), _DIRECTIONS)))
        keep, forget, output, candidate = jnp.split(opened, 4, axis=2)
        cell = here * (forget * cell + keep * candidate)
        state = output * jnp.tanh(cell)
        return (state, cell), (state, cell, opened)

    _, (states, cells, opened) = jax.lax.scan(step, (zero, zero), (gates, present))
    return states, (recurrent, present, states, cells, opened)


def _backward(saved: tuple[Array, ...], grad: Array) -> tuple[Array, Array, None]:
    recurrent, present, states, cells, opened = saved
    zero = jnp.zeros_like(cells[0])
    before = jnp.concatenate([zero[None], cells[:-1]])

    def step(carry: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        state_grad, cell_grad = carry
        grad, here, cell, cell_before, opened = now
        keep, forget, output, candidate = jnp.split(opened, 4, axis=2)
        squashed = jnp.tanh(cell)
        state_grad = grad + state_grad
        cell_grad = here * (cell_grad + state_grad * output * (1.0 - jnp.square(squashed)))
        gate_grad = jnp.concatenate(
            [
                cell_grad * candidate * keep * (1.0 - keep),
                cell_grad * cell_before * forget * (1.0 - forget),
                state_grad * squashed * output * (1.0 - output),
                cell_grad * keep * (1.0 - jnp.square(candidate)),
            ],
            axis=2,
        )
        back = jax.lax.dot_general(gate_grad, recurrent, (((2,), (2,)), _DIRECTIONS))
        return (back, cell_grad * forget), gate_grad

    _, gate_grads = jax.lax.scan(step, (zero, zero), (grad, present, cells, before, opened), reverse=True)
    states_before = jnp.concatenate([zero[None], states[:-1]])
    return gate_grads, jnp.einsum("tdbh,tdbg->dhg", states_before, gate_grads), None


lstm.defvjp(_forward, _backward)


def _activated(gates: Array) -> Array:
    """(2, B, 4 H): logistic input, forget and output gates, and the candidate's tanh."""
    keep, forget, output, candidate = jnp.split(gates, 4, axis=2)
    logistic = [jax.nn.sigmoid(part) for part in (keep, forget + _FORGET_BIAS, output)]
    return jnp.concatenate([*logistic, jnp.tanh(candidate)], axis=2)
