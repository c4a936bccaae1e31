"""BLEU-4 of a corpus (Papineni et al. 2002), on token ids, in JAX; the definition of sacrebleu's `corpus_bleu`.

One reference per sentence, smoothing "exp" (Chen & Cherry 2014, method 3). BLEU is no mean over sentences: it is made from
counts summed over the corpus, so `statistics` counts per sentence and `bleu` scores any sum of counts.
"""

from __future__ import annotations

import jax.numpy as jnp

from workloads.base import Array

ORDER = 4
GROUPS = 32  # of the jackknife


def statistics(hypotheses: Array, lengths: Array, references: Array, reference_lengths: Array) -> Array:
    """Counts of each sentence, (N, 10) int32: matched 1- to 4-grams, all 1- to 4-grams, and both lengths.

    hypotheses: (N, T) ids, of which the first `lengths` (N,) count. references: (N, R) ids and their lengths (N,). An n-gram
    of the hypothesis matches at most as often as the reference has it.
    """
    own = _real(hypotheses, lengths)
    other = _real(references, reference_lengths)
    repeats = (hypotheses[:, :, None] == hypotheses[:, None, :]) & own[:, :, None] & own[:, None, :]
    matches = (hypotheses[:, :, None] == references[:, None, :]) & own[:, :, None] & other[:, None, :]
    matched = []
    for n in range(ORDER):
        if n:
            repeats, matches = _grown(repeats), _grown(matches)
        matched.append(_clipped(repeats, matches))
    totals = [jnp.maximum(lengths - n, 0) for n in range(ORDER)]
    return jnp.stack([*matched, *totals, lengths, reference_lengths], axis=1).astype(jnp.int32)


def bleu(counts: Array) -> Array:
    """BLEU, 0 to 100, of summed counts (..., 10) as `statistics` gives them, (...,)."""
    matched, total = counts[..., :ORDER], counts[..., ORDER : 2 * ORDER]
    length, reference_length = counts[..., -2], counts[..., -1]
    doublings = jnp.cumsum(matched == 0, axis=-1)  # exp smoothing: the k-th order without a match counts 2**-k matches
    smoothed = jnp.where(matched == 0, 0.5**doublings, matched)
    log_precision = jnp.log(smoothed / jnp.maximum(total, 1))
    shortness = jnp.minimum(0.0, 1.0 - reference_length / jnp.maximum(length, 1))
    defined = (total[..., -1] > 0) & jnp.any(matched > 0, axis=-1)
    return jnp.where(defined, 100.0 * jnp.exp(shortness + jnp.mean(log_precision, axis=-1)), 0.0)


def corpus_bleu(counts: Array) -> tuple[Array, Array]:
    """BLEU of the corpus and its standard error, from the counts (N, 10) of N >= 2 sentences.

    The standard error is the delete-one-group jackknife's (Efron & Tibshirani 1993, eq. 11.5) over 32 groups of every
    32nd sentence (fewer if there are fewer sentences), whose sums of counts are all it needs.
    """
    sentences = counts.shape[0]
    groups = min(GROUPS, sentences)
    members = jnp.arange(sentences) % groups
    by_group = jnp.zeros((groups, counts.shape[1]), counts.dtype).at[members].add(counts)
    total = jnp.sum(by_group, axis=0)
    without = bleu(total[None] - by_group)
    spread = jnp.sum(jnp.square(without - jnp.mean(without)))
    return bleu(total), jnp.sqrt((groups - 1) / groups * spread)


def _real(tokens: Array, lengths: Array) -> Array:
    return jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]


def _grown(equal: Array) -> Array:
    """Equality of the n-grams that begin at each pair of positions (N, T, R) -> of the (n + 1)-grams."""
    return equal & jnp.pad(equal[:, 1:, 1:], ((0, 0), (0, 1), (0, 1)))


def _clipped(repeats: Array, matches: Array) -> Array:
    """How many n-grams of each hypothesis match: the k-th of its kind does if the reference has k."""
    earlier = jnp.sum(jnp.tril(repeats, -1), axis=2)
    return jnp.sum(earlier < jnp.sum(matches, axis=2), axis=1)
