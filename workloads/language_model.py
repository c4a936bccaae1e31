"""Decoder-only Transformer language model (pre-RMSNorm, RoPE, GELU MLP), on bytes or tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.data.text import load_corpus
from workloads.layers import causal_attention, matmul, rms_norm, rotate

_EMBEDDING_STD = 0.1
_TIED_STD = 0.02  # a larger one would make every token predict itself at first
_MLP_RATIO = 4


@dataclass(frozen=True)
class LanguageModel(Workload):
    """Next-token prediction with a small GPT.

    corpus: "stdlib" (the running Python's own source), "zipf_markov" (known entropy rate), a text file or folder, or
    `.bin` uint16 token shards. context: tokens per sequence. heads: attention heads; the head size is width / heads.
    qk_norm: RMS-normalise queries and keys. hidden_norm: and the hidden layer of the MLP; with both, a normalisation precedes
    every nonlinearity. z_loss: weight of log(Z)^2. tied_embeddings: readout = embedding transposed.
    evaluation_sequences: held-out sequences per evaluation, spread evenly over the split.
    Shapes below: B batch, T context, W width, H heads, K = W / H, V vocabulary.
    """

    name: ClassVar[str] = "language_model"
    metric: ClassVar[Metric] = Metric("loss", "minimize", "nats/token")

    corpus: str = "stdlib"
    context: int = 64
    heads: int = 4
    qk_norm: bool = False
    hidden_norm: bool = False
    tied_embeddings: bool = False
    z_loss: float = 0.0
    evaluation_sequences: int = 128

    @property
    def tokens_per_example(self) -> int:
        return self.context

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def vocab_size(self) -> int:
        return load_corpus(self.corpus).vocab_size

    def validate(self) -> None:
        super().validate()
        if self.heads < 1 or self.width % self.heads:
            raise BadInput(
                f"workload.width={self.width} is not divisible by workload.heads={self.heads}; choose a width that is a "
                f"multiple of the heads"
            )
        if self.head_size % 2:
            raise BadInput(
                f"the head size workload.width / workload.heads = {self.head_size} must be even for rotary embeddings; "
                f"choose a width that is a multiple of {2 * self.heads}"
            )
        if self.context < 1 or self.evaluation_sequences < 1:
            raise BadInput("workload.context and workload.evaluation_sequences must be at least 1")

    def load(self) -> Data:
        corpus = load_corpus(self.corpus)
        splits = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
        for split, tokens in splits.items():
            if len(tokens) <= self.context:
                raise BadInput(
                    f"the {split} split of corpus '{self.corpus}' has {len(tokens)} tokens, fewer than "
                    f"workload.context={self.context} + 1; use a longer corpus or a shorter context"
                )
        return Data(splits, corpus.info, examples=(len(corpus.train) - 1) // self.context)

    def data_key(self) -> Hashable:
        return type(self), self.corpus

    def init(self, key: Array) -> Params:
        """Normal with standard deviation fan-in^-1/2; residual branches begin at zero.

        Zero branches halve the seed noise of the final loss (seen: 1.6% to 0.75% at width 64, 200 steps), and lower it.
        """
        width, hidden = self.width, _MLP_RATIO * self.width
        keys = iter(jax.random.split(key, 2 + 2 * self.depth))

        def matrix(fan_in: int, fan_out: int) -> Array:
            return jax.random.normal(next(keys), (fan_in, fan_out)) * fan_in**-0.5

        embedding = jax.random.normal(next(keys), (self.vocab_size, width)) * (
            _TIED_STD if self.tied_embeddings else _EMBEDDING_STD
        )
        params: dict[str, Params] = {"embedding": embedding, "final_norm": jnp.ones(width)}
        if not self.tied_embeddings:
            params["readout"] = matrix(width, self.vocab_size)
        for layer in range(self.depth):
            block = {
                "attention_norm": jnp.ones(width),
                "query_key_value": matrix(width, 3 * width),
                "attention_out": jnp.zeros((width, width)),
                "mlp_norm": jnp.ones(width),
                "mlp_in": matrix(width, hidden),
                "mlp_out": jnp.zeros((hidden, width)),
            }
            params[f"layer_{layer}"] = block
        return params

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """(B, T + 1) tokens: sequences at uniformly random offsets of the training split."""
        tokens = data["train"]
        starts = jax.random.randint(
            jax.random.fold_in(key, step), (self.batch_size,), 0, tokens.shape[0] - self.context
        )
        return _sequences(tokens, starts, self.context)

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        logits = self.logits(params, batch[:, :-1])
        log_z = jax.nn.logsumexp(logits, axis=-1)
        cross_entropy = jnp.mean(log_z - _pick(logits, batch[:, 1:]))
        return cross_entropy + self.z_loss * jnp.mean(jnp.square(log_z)), {"cross_entropy": cross_entropy}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """Mean cross-entropy over `evaluation_sequences` sequences, in batches of `batch_size`."""
        return {"loss": jnp.mean(-self.log_probabilities(params, data[split]))}

    def log_probabilities(self, params: Params, tokens: Array) -> Array:
        """Log-probability of every evaluated token of a split. tokens: (S,) -> (evaluation_sequences, T)."""
        starts = jnp.asarray(self.evaluation_starts(tokens.shape[0]))

        def one_batch(starts: Array) -> Array:
            batch = _sequences(tokens, starts, self.context)
            logits = self.logits(params, batch[:, :-1])
            return (_pick(logits, batch[:, 1:]) - jax.nn.logsumexp(logits, axis=-1)).reshape(-1, self.context)

        whole = len(starts) // self.batch_size * self.batch_size
        batches = jax.lax.map(one_batch, starts[:whole].reshape(-1, self.batch_size)).reshape(whole, self.context)
        return jnp.concatenate([batches, one_batch(starts[whole:])]) if whole < len(starts) else batches

    def evaluation_starts(self, length: int) -> np.ndarray:
        """Where the evaluated sequences of a split of `length` tokens begin (they overlap if the split is short)."""
        return np.linspace(0, length - self.context - 1, self.evaluation_sequences).astype(np.int32)

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Embeddings and the output of every residual branch, (B T, W), and logits, (B T, V)."""
        found: dict[str, Array] = {}
        logits = self.logits(params, batch[:, :-1], found.__setitem__)
        return found | {"logits": logits}

    def instabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def largest(name: str, scores: Array) -> None:
            found[name] = jnp.max(jnp.abs(scores))

        logits = self.logits(params, batch[:, :-1], scores=largest)
        return found | {"log_z": jnp.mean(jax.nn.logsumexp(logits, axis=-1))}

    def logits(self, params: Params, tokens: Array, tap: Tap = ignore, scores: Tap = ignore) -> Array:
        """(B, T) tokens -> (B T, V) logits in float32. Activations stay two-dimensional (see workloads.layers).

        scores: is told the attention logits of each layer, (B, H, T, T), also those that the causal mask hides.
        """
        x = params["embedding"][tokens.reshape(-1).astype(jnp.int32)]
        tap("embedding", x)
        branch = jnp.asarray(self.residual_scale, x.dtype)
        for layer in range(self.depth):
            block = params[f"layer_{layer}"]
            attend = functools.partial(scores, f"attention_logit_{layer}") if scores is not ignore else None
            attention = self._attention(block, rms_norm(x, block["attention_norm"]), attend)
            tap(f"attention_{layer}", attention)
            x = x + branch * attention
            mlp = self._mlp(block, rms_norm(x, block["mlp_norm"]))
            tap(f"mlp_{layer}", mlp)
            x = x + branch * mlp
        readout = params["embedding"].T if self.tied_embeddings else params["readout"]
        return self.output_scale * matmul(rms_norm(x, params["final_norm"]), readout).astype(jnp.float32)

    def _attention(self, block: Params, x: Array, scores: Callable[[Array], None] | None = None) -> Array:
        """Causal multi-head attention with rotary positions, (B T, W) -> (B T, W). scores: is told the logits."""
        shape = (-1, 3, self.heads, self.head_size, self.context)
        by_time = matmul(x, block["query_key_value"]).reshape(-1, self.context, 3 * self.width)
        qkv = jnp.swapaxes(by_time, 1, 2).reshape(shape)
        query, key, value = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        if self.qk_norm:
            query, key = (jnp.swapaxes(rms_norm(jnp.swapaxes(part, 2, 3)), 2, 3) for part in (query, key))
        scaled = query * jnp.asarray(self.attention_scale * self.head_size**-0.5, query.dtype)
        query, key = rotate(scaled, self.context), rotate(key, self.context)
        if scores is not None:
            scores(jnp.einsum("bhkq,bhks->bhqs", query, key))
        mixed = causal_attention(query, key, value)
        by_time = jnp.swapaxes(mixed.reshape(-1, self.width, self.context), 1, 2)
        return matmul(by_time.reshape(-1, self.width), block["attention_out"])

    def _mlp(self, block: Params, x: Array) -> Array:
        hidden = matmul(x, block["mlp_in"])
        return matmul(jax.nn.gelu(rms_norm(hidden) if self.hidden_norm else hidden), block["mlp_out"])

    def matmul_flops(self) -> float:
        """Forward: 2 FLOPs per weight and token, and 2 x 2 T W per token and layer for scores and mixing. Backward: twice."""
        tokens = self.batch_size * self.context
        weights = self.depth * (4 + 2 * _MLP_RATIO) * self.width**2 + self.width * self.vocab_size
        attention = self.depth * 2 * self.context * self.width
        return 3.0 * 2.0 * tokens * (weights + attention)


def _sequences(tokens: Array, starts: Array, context: int) -> Array:
    """(B, context + 1) consecutive tokens beginning at each of `starts`."""
    return tokens[starts[:, None] + jnp.arange(context + 1)[None, :]]


def _pick(logits: Array, targets: Array) -> Array:
    """The logit of each target: (N, V) and N targets of any shape -> (N,)."""
    return jnp.take_along_axis(logits, targets.reshape(-1, 1).astype(jnp.int32), axis=-1)[:, 0]
