"""Edit distance and word error rate by dynamic programming on the device (Wagner & Fischer 1974).

A row of the table is a position in the hypothesis, and a step of the scan; within a row, d[j] = min_k<=j t[k] + j - k is a
running minimum. Words are compared letter by letter in the same scan, so nothing is hashed and no list of words is made.
B sequences, T labels of a hypothesis, L of a reference.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from workloads.base import Array


def edit_distance(hypotheses: Array, hypothesis_lengths: Array, references: Array, reference_lengths: Array) -> Array:
    """Fewest substitutions, deletions and insertions of labels, (B,) int32.

    hypotheses: (B, T). references: (B, L). Labels from the lengths (B,) on are not read.
    """
    batch, time = hypotheses.shape

    def step(row: Array, now: tuple[Array, Array]) -> tuple[Array, None]:
        label, position = now
        return _next_row(row, label[:, None] == references, position < hypothesis_lengths), None

    row, _ = jax.lax.scan(step, _first_row(batch, references.shape[1]), (hypotheses.T, jnp.arange(time)))
    return _pick(row, reference_lengths)


def word_errors(
    hypotheses: Array, hypothesis_lengths: Array, references: Array, reference_lengths: Array, separator: int
) -> tuple[Array, Array]:
    """Edit distance between the words of each pair, and the words of each reference, (B,) int32 both.

    A word is a span of labels without `separator`; spans of no labels are no words. Shapes as for `edit_distance`.
    """
    batch, length = references.shape
    letters = (references != separator) & (jnp.arange(length)[None, :] < reference_lengths[:, None])
    sizes, ends = _spans(letters)
    count = jnp.sum(ends, axis=1, dtype=jnp.int32)
    most = (length + 1) // 2
    where = jnp.argsort(~ends, axis=1, stable=True)[:, :most]  # of the words' last letters, in order
    word_sizes = jnp.take_along_axis(sizes, where, axis=1)
    heard = (hypotheses != separator) & (jnp.arange(hypotheses.shape[1])[None, :] < hypothesis_lengths[:, None])
    heard_sizes, heard_ends = _spans(heard)

    def step(carry: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        """agreed: how many labels up to here and up to each reference label are the same."""
        row, agreed = carry
        label, heard, size, end = now
        before = jnp.pad(agreed[:, :-1], ((0, 0), (1, 0)))
        agreed = jnp.where((label[:, None] == references) & letters & heard[:, None], before + 1, 0)
        same = (word_sizes == size[:, None]) & (jnp.take_along_axis(agreed, where, axis=1) >= size[:, None])
        return (_next_row(row, same, end), agreed), None

    start = (_first_row(batch, most), jnp.zeros((batch, length), jnp.int32))
    (row, _), _ = jax.lax.scan(step, start, (hypotheses.T, heard.T, heard_sizes.T, heard_ends.T))
    return _pick(row, count), count


def word_error_rate(errors: Array, words: Array) -> tuple[Array, Array]:
    """Of a whole corpus: sum of errors / sum of words, and its standard error over utterances (of a ratio of sums)."""
    total, count = jnp.maximum(jnp.sum(words), 1), words.shape[0]
    rate = jnp.sum(errors) / total
    squares = jnp.sum(jnp.square(errors - rate * words))
    return rate, jnp.sqrt(squares * (count / max(count - 1, 1))) / total


def _spans(letters: Array) -> tuple[Array, Array]:
    """(B, T) booleans -> the letters of its word up to each, (B, T) int32, and whether it is the word's last."""
    position = jnp.arange(1, letters.shape[1] + 1, dtype=jnp.int32)[None, :]
    gap = jax.lax.cummax(jnp.where(letters, 0, position), axis=1)
    following = jnp.pad(letters[:, 1:], ((0, 0), (0, 1)))
    return position - gap, letters & ~following


def _first_row(batch: int, length: int) -> Array:
    return jnp.broadcast_to(jnp.arange(length + 1, dtype=jnp.int32)[None, :], (batch, length + 1))


def _next_row(row: Array, same: Array, taken: Array) -> Array:
    """The row (B, L + 1) of one more item of the hypothesis; sequences that are not `taken` (B,) keep theirs."""
    position = jnp.arange(row.shape[1], dtype=jnp.int32)[None, :]
    matched = row[:, :-1] + jnp.where(same, 0, 1)
    best = jnp.concatenate([row[:, :1] + 1, jnp.minimum(matched, row[:, 1:] + 1)], axis=1)
    following = jax.lax.cummin(best - position, axis=1) + position
    return jnp.where(taken[:, None], following, row)


def _pick(row: Array, length: Array) -> Array:
    return jnp.take_along_axis(row, length[:, None], axis=1)[:, 0]
