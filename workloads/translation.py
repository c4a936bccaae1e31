"""Encoder-decoder Transformer that translates sentences, judged by the BLEU of what it writes on its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.attention import HIDDEN, attention, causal_mask, merge_heads, padding_mask, split_heads
from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Tap, Workload, ignore
from workloads.data import parallel, transduction
from workloads.data.corpus import SPLITS
from workloads.data.parallel import EOS, PAD, UNKNOWN, Parallel
from workloads.layers import matmul
from workloads.metrics import bleu
from workloads.metrics.finite import where_finite
from workloads.translation_layers import attend_from_one, by_position, layer_norm, sinusoids

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu}
_EMBEDDING_STD = 0.1
_MLP_RATIO = 4
_CHUNK = 256  # sentences that are translated at once
_CANDIDATES, _JUDGES = 128, 2048  # training sentences that the best constant is chosen from, and those it is chosen on


@dataclass(frozen=True)
class Translation(Workload):
    """Translation with AlgoPerf's WMT model (Dahl et al. 2023): pre-norm Transformer (Vaswani et al. 2017), LayerNorm, ReLU,
    sinusoidal positions, one embedding for both languages and the readout (or, without shared_embeddings, three matrices).
    Differences: no dropout; embeddings and positions have standard deviation 0.1 (AlgoPerf: about 1, and logits divided by
    sqrt(width)); residual branches begin at zero except where the decoder reads the encoder.

    data: "generated" (workloads/data/transduction.py) or path:SOURCE,TARGET (workloads/data/parallel.py). data_seed: of the
    generated language and its sentences. train_sentences, validation_sentences, test_sentences: how many of them, for files
    at most. max_length, max_vocabulary: of a file's sentences, in words and the end mark, and of its words.
    depth: layers of the encoder, and of the decoder. heads: attention heads; the head size is width / heads.
    pre_ln: normalise before each residual branch, else after the sum. activation, glu: of the MLP; glu multiplies it with a
    second, linear one. attention_temp: factor on all attention logits. label_smoothing: share of the target that is spread
    evenly over the other words, in training only.
    Shapes below: B batch, S and T words of source and target, W width, H heads, K = W / H, V words of the vocabulary.
    """

    name: ClassVar[str] = "translation"
    metric: ClassVar[Metric] = Metric("bleu", "maximize", "BLEU, 0 to 100")
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "post_ln": {"pre_ln": False},
        "attention_temp": {"attention_temp": 4.0},
        "glu_tanh": {"glu": True, "activation": "tanh"},
    }
    default_steps: ClassVar[int] = 450

    batch_size: int = 32
    data: str = "generated"
    data_seed: int = 0
    train_sentences: int = 40_960
    validation_sentences: int = 256
    test_sentences: int = 10_240
    max_length: int = 32
    max_vocabulary: int = 8192
    heads: int = 4
    pre_ln: bool = True
    activation: str = "relu"
    glu: bool = False
    shared_embeddings: bool = True
    attention_temp: float = 1.0
    label_smoothing: float = 0.1

    @property
    def tokens_per_example(self) -> int:
        """Mean length of a target sentence in words, its end mark included: tokens are the target's, without padding."""
        return max(1, round(float(np.mean(np.sum(self._corpus().target["train"] != PAD, axis=1)))))

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def vocab_size(self) -> int:
        return len(self._corpus().vocabulary)

    @property
    def lengths(self) -> tuple[int, int]:
        """S, T: of the padded training sentences."""
        corpus = self._corpus()
        return corpus.source["train"].shape[1], corpus.target["train"].shape[1]

    def validate(self) -> None:
        super().validate()
        if self.heads < 1 or self.width % self.heads:
            raise BadInput(
                f"workload.width={self.width} is not divisible by workload.heads={self.heads}; choose a width that is a "
                f"multiple of the heads"
            )
        if self.width % 2:
            raise BadInput(f"workload.width={self.width} must be even, for sinusoidal positions")
        if self.activation not in ACTIVATIONS:
            raise BadInput(
                f"unknown workload.activation '{self.activation}'. Valid names: {', '.join(sorted(ACTIVATIONS))}"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise BadInput(f"workload.label_smoothing={self.label_smoothing} must be at least 0 and below 1")
        for name in ("train_sentences", "validation_sentences", "test_sentences", "max_length"):
            if getattr(self, name) < 2:
                raise BadInput(f"workload.{name}={getattr(self, name)} must be at least 2")
        if not len(parallel.SPECIAL) < self.max_vocabulary <= parallel.MOST_WORDS:
            raise BadInput(
                f"workload.max_vocabulary={self.max_vocabulary} must be above {len(parallel.SPECIAL)} and at most "
                f"{parallel.MOST_WORDS}"
            )
        if self.data_seed < 0:
            raise BadInput(f"workload.data_seed={self.data_seed} must be at least 0")

    def load(self) -> Data:
        corpus = self._corpus()
        sides = {"source": corpus.source, "target": corpus.target}
        arrays = {f"{split}_{side}": tokens[split] for side, tokens in sides.items() for split in SPLITS}
        return Data(arrays, corpus.info, examples=len(corpus.source["train"]))

    def data_key(self) -> Hashable:
        sizes = self.train_sentences, self.validation_sentences, self.test_sentences
        return type(self), self.data, self.data_seed, sizes, self.max_length, self.max_vocabulary

    def _corpus(self) -> Parallel:
        most = self.train_sentences, self.validation_sentences, self.test_sentences
        if self.data == "generated":
            return transduction.generate(self.data_seed, most)
        if not self.data.startswith("path:"):
            raise BadInput(f"unknown workload.data '{self.data}'. Valid: generated, or path:SOURCE,TARGET")
        stamps = tuple(parallel.stamp(path) for path in parallel.parse(self.data))
        return _cached_files(stamps, self.max_length, self.max_vocabulary, most)

    def init(self, key: Array) -> Params:
        """Normal with standard deviation fan-in^-1/2; what most residual branches end with begins at zero (see LanguageModel).

        Attention to the encoder does not: it takes over earlier (seen: 81 BLEU in place of 62 after 500 steps).
        """
        width, hidden = self.width, _MLP_RATIO * self.width
        keys = (jax.random.fold_in(key, number) for number in range(2**31))

        def normal(rows: int, columns: int, std: float) -> Array:
            return jax.random.normal(next(keys), (rows, columns)) * std

        def norm() -> Params:
            return {"gain": jnp.ones(width), "bias": jnp.zeros(width)}

        def mlp() -> Params:
            gate = {"gate": normal(width, hidden, width**-0.5), "gate_bias": jnp.zeros(hidden)} if self.glu else {}
            inner = {"in": normal(width, hidden, width**-0.5), "in_bias": jnp.zeros(hidden)}
            return {**inner, **gate, "out": jnp.zeros((hidden, width)), "out_bias": jnp.zeros(width)}

        def projections(**columns: int) -> Params:
            made = {name: normal(width, count * width, width**-0.5) for name, count in columns.items()}
            return {**made, "out": jnp.zeros((width, width))}

        names = ["embedding"] if self.shared_embeddings else ["source_embedding", "target_embedding"]
        params: dict[str, Params] = {name: normal(self.vocab_size, width, _EMBEDDING_STD) for name in names}
        if not self.shared_embeddings:
            params["readout"] = normal(width, self.vocab_size, width**-0.5)
        for layer in range(self.depth):
            own = {"self": projections(query_key_value=3), "self_norm": norm()}
            params[f"encoder_{layer}"] = {**own, "mlp": mlp(), "mlp_norm": norm()}
            own = {"self": projections(query_key_value=3), "self_norm": norm()}
            cross = {"cross": projections(query=1, key_value=2), "cross_norm": norm()}
            cross["cross"]["out"] = normal(width, width, width**-0.5)
            params[f"decoder_{layer}"] = {**own, **cross, "mlp": mlp(), "mlp_norm": norm()}
        if self.pre_ln:
            params |= {"encoder_norm": norm(), "decoder_norm": norm()}
        return params

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`source` (B, S) and `target` (B, T) ids, int32, drawn with replacement."""
        count = data["train_source"].shape[0]
        rows = jax.random.randint(jax.random.fold_in(key, step), (self.batch_size,), 0, count)
        return {side: data[f"train_{side}"][rows].astype(jnp.int32) for side in ("source", "target")}

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Cross-entropy against the smoothed words less its least possible value, in nats, mean over all that is no padding."""
        log_p = jax.nn.log_softmax(self.logits(params, batch["source"], batch["target"]))
        target = batch["target"].reshape(-1)
        cross_entropy = -jnp.take_along_axis(log_p, target[:, None], axis=1)[:, 0]
        others = log_p.shape[1] - 1
        right, wrong = 1.0 - self.label_smoothing, self.label_smoothing / others
        least = -jax.scipy.special.xlogy(right, right) - others * jax.scipy.special.xlogy(wrong, wrong)
        smoothed = (right - wrong) * cross_entropy - wrong * jnp.sum(log_p, axis=1) - least
        real = (target != PAD).astype(jnp.float32)
        count = jnp.sum(real)
        return jnp.sum(real * smoothed) / count, {"cross_entropy": jnp.sum(real * cross_entropy) / count}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`loss`: nats per target word, end marks included, never smoothed, given the words before. `bleu`: of greedy
        translations, see workloads/metrics/bleu.py; a word outside the vocabulary never matches. `bleu_stderr`: its standard
        error over the split's sentences.
        """
        pairs = {side: data[f"{split}_{side}"] for side in ("source", "target")}
        count = pairs["source"].shape[0]
        chunk = min(_CHUNK, count)

        def one_chunk(pairs: Batch) -> tuple[Array, Array]:
            source, target = (pairs[side].astype(jnp.int32) for side in ("source", "target"))
            log_p = jax.nn.log_softmax(self.logits(params, source, target))
            nats = -jnp.take_along_axis(log_p, target.reshape(-1, 1), axis=1)[:, 0] * (target != PAD).reshape(-1)
            return jnp.sum(nats), _counts(self.translate(params, source), target)

        def chunks(tokens: Array) -> Array:
            return jnp.pad(tokens, ((0, -count % chunk), (0, 0))).reshape(-1, chunk, tokens.shape[1])

        nats, counts = jax.lax.map(one_chunk, jax.tree.map(chunks, pairs))
        score, stderr = bleu.corpus_bleu(counts.reshape(-1, counts.shape[-1])[:count])
        loss = jnp.sum(nats) / jnp.sum(pairs["target"] != PAD)
        return where_finite({"loss": loss, "bleu": score, "bleu_stderr": stderr})

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Embeddings, outputs of residual branches, what the decoder reads, (B S, W) or (B T, W); logits (B T, V)."""
        found: dict[str, Array] = {}
        logits = self.logits(params, batch["source"], batch["target"], found.__setitem__)
        return found | {"logits": logits}

    def logits(self, params: Params, source: Array, target: Array, tap: Tap = ignore) -> Array:
        """(B, S), (B, T) ids -> (B T, V): of every target word, given the source and the target words before it."""
        length = target.shape[1]
        encoded = self._encode(params, source, tap)
        hidden = padding_mask(source != PAD)
        future = jnp.asarray(causal_mask(length))

        def own(layer: int, x: Array) -> Array:
            return self._self_attention(params[f"decoder_{layer}"]["self"], x, length, future)

        def cross(layer: int, x: Array) -> Array:
            block = params[f"decoder_{layer}"]["cross"]
            query = split_heads(self._scaled(matmul(x, block["query"])), self.heads, length)
            both = split_heads(matmul(encoded, block["key_value"]), 2 * self.heads, source.shape[1])
            key, value = jnp.split(both, 2, axis=1)
            return matmul(merge_heads(attention(query, key, value, hidden)), block["out"])

        before = jnp.pad(
            target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD
        )  # PAD begins a translation, as in AlgoPerf
        x = self._embed(params, "target", before, np.arange(length))
        tap("target_embedding", x)
        return self._decode(params, x, own, cross, tap)

    def translate(self, params: Params, source: Array) -> Array:
        """The most likely next word, again and again: (B, S) ids -> (B, T), PAD after EOS. Keys and values are kept."""
        rows, (_, length) = source.shape[0], self.lengths
        encoded = self._encode(params, source)
        memory = [
            by_position(matmul(encoded, params[f"decoder_{layer}"]["cross"]["key_value"]), 2, self.heads, rows)
            for layer in range(self.depth)
        ]
        hidden = jnp.where(source != PAD, 0.0, HIDDEN).T[:, :, None]

        def going_on(carry: Any) -> Array:
            position, _, done, _, _ = carry
            return (position < length) & ~jnp.all(done)

        def advance(carry: Any) -> Any:
            position, last, done, caches, written = carry
            caches = list(caches)
            future = jnp.where(jnp.arange(length) <= position, 0.0, HIDDEN)[:, None, None]

            def own(layer: int, x: Array) -> Array:
                block = params[f"decoder_{layer}"]["self"]
                parts = by_position(matmul(x, block["query_key_value"]), 3, self.heads, rows)
                caches[layer] = jax.lax.dynamic_update_slice_in_dim(caches[layer], parts[1:], position, axis=1)
                return matmul(attend_from_one(self._scaled(parts[0, 0]), caches[layer], future), block["out"])

            def cross(layer: int, x: Array) -> Array:
                block = params[f"decoder_{layer}"]["cross"]
                query = by_position(matmul(x, block["query"]), 1, self.heads, rows)[0, 0]
                return matmul(attend_from_one(self._scaled(query), memory[layer], hidden), block["out"])

            x = self._embed(params, "target", last[:, None], position[None])
            word = jnp.where(done, PAD, jnp.argmax(self._decode(params, x, own, cross), axis=1).astype(jnp.int32))
            return position + 1, word, done | (word == EOS), tuple(caches), written.at[:, position].set(word)

        empty = jnp.zeros((2, length, rows, self.heads, self.head_size), encoded.dtype)
        nothing = jnp.full((rows, length), PAD, jnp.int32)
        start = jnp.int32(0), nothing[:, 0], jnp.zeros(rows, bool), (empty,) * self.depth, nothing
        return jax.lax.while_loop(going_on, advance, start)[-1]

    def _encode(self, params: Params, source: Array, tap: Tap = ignore) -> Array:
        """(B, S) ids -> (B S, W)."""
        length = source.shape[1]
        hidden = padding_mask(source != PAD)
        x = self._embed(params, "source", source, np.arange(length))
        tap("source_embedding", x)
        for layer in range(self.depth):
            block = params[f"encoder_{layer}"]
            own = functools.partial(self._self_attention, block["self"], length=length, mask=hidden)
            x = self._branch(block["self_norm"], x, own, tap, f"encoder_self_{layer}")
            x = self._branch(
                block["mlp_norm"], x, functools.partial(self._mlp, block["mlp"]), tap, f"encoder_mlp_{layer}"
            )
        x = layer_norm(params["encoder_norm"], x) if self.pre_ln else x
        tap("encoded", x)
        return x

    def _decode(
        self, params: Params, x: Array, own: Callable[..., Array], cross: Callable[..., Array], tap: Tap = ignore
    ) -> Array:
        """(N, W) -> (N, V). own, cross: what a layer attends to, (layer, (N, W)) -> (N, W)."""
        for layer in range(self.depth):
            block = params[f"decoder_{layer}"]
            x = self._branch(block["self_norm"], x, functools.partial(own, layer), tap, f"decoder_self_{layer}")
            x = self._branch(block["cross_norm"], x, functools.partial(cross, layer), tap, f"decoder_cross_{layer}")
            x = self._branch(
                block["mlp_norm"], x, functools.partial(self._mlp, block["mlp"]), tap, f"decoder_mlp_{layer}"
            )
        x = layer_norm(params["decoder_norm"], x) if self.pre_ln else x
        readout = params["embedding"].T if self.shared_embeddings else params["readout"]
        return self.output_scale * matmul(x, readout).astype(jnp.float32)

    def _embed(self, params: Params, side: str, tokens: Array, positions: Array) -> Array:
        """(B, L) ids at positions (L,) -> (B L, W)."""
        table = params["embedding" if self.shared_embeddings else f"{side}_embedding"]
        place = _EMBEDDING_STD * jnp.asarray(sinusoids(max(self.lengths), self.width))[positions]
        return (table[tokens] + place.astype(table.dtype)[None]).reshape(-1, self.width)

    def _branch(self, norm: Params, x: Array, branch: Callable[[Array], Array], tap: Tap, name: str) -> Array:
        """A residual branch and its norm, which comes before the branch or after the sum."""
        out = branch(layer_norm(norm, x) if self.pre_ln else x)
        tap(name, out)
        x = x + jnp.asarray(self.residual_scale, x.dtype) * out
        return x if self.pre_ln else layer_norm(norm, x)

    def _self_attention(self, block: Params, x: Array, length: int, mask: Array) -> Array:
        """(B L, W) -> (B L, W)."""
        heads = split_heads(matmul(x, block["query_key_value"]), 3 * self.heads, length)
        query, key, value = jnp.split(heads, 3, axis=1)
        return matmul(merge_heads(attention(self._scaled(query), key, value, mask)), block["out"])

    def _scaled(self, query: Array) -> Array:
        return query * jnp.asarray(self.attention_scale * self.attention_temp * self.head_size**-0.5, query.dtype)

    def _mlp(self, block: Params, x: Array) -> Array:
        hidden = ACTIVATIONS[self.activation](matmul(x, block["in"]) + block["in_bias"][None])
        if self.glu:
            hidden = hidden * (matmul(x, block["gate"]) + block["gate_bias"][None])
        return matmul(hidden, block["out"]) + block["out_bias"][None]

    def matmul_flops(self) -> float:
        """Forward: 2 FLOPs per weight and word; per layer and word 2 x 2 W of scores and mixing for every word attended to.
        Backward: twice.
        """
        width, (source, target) = self.width, self.lengths
        mlp = (3 if self.glu else 2) * _MLP_RATIO * width**2
        own = 4 * width**2
        encoder = source * (
            own + mlp + 2 * source * width + 2 * width**2
        )  # and the keys and values that the decoder reads
        decoder = target * (own + mlp + 2 * target * width + 2 * width**2 + 2 * source * width)
        readout = target * width * self.vocab_size
        return 3.0 * 2.0 * self.batch_size * (self.depth * (encoder + decoder) + readout)

    def trivial_metric(self, split: str = "validation") -> float:
        """BLEU of one translation for all sentences: the best constant among 128 training sentences."""
        target = self._corpus().target
        constants = target["train"][:_CANDIDATES].astype(np.int32)
        on_training = _bleu_of_constants(constants, target["train"][:_JUDGES].astype(np.int32))
        best = constants[np.argmax(on_training)][None]
        return float(_bleu_of_constants(best, target[split].astype(np.int32))[0])

    def oracle_metric(self, split: str = "validation") -> float | None:
        """BLEU of the best translations, which nobody can beat but by luck; None for files."""
        corpus = self._corpus()
        if corpus.best is None:
            return None
        counts = jax.jit(_counts)(corpus.best[split].astype(np.int32), corpus.target[split].astype(np.int32))
        return float(bleu.corpus_bleu(counts)[0])


@jax.jit
def _bleu_of_constants(constants: Array, references: Array) -> Array:
    """(C,) of (C, T) against (N, T) ids."""

    def one(constant: Array) -> Array:
        everywhere = jnp.broadcast_to(constant[None], (references.shape[0], constant.shape[0]))
        return bleu.bleu(jnp.sum(_counts(everywhere, references), axis=0))

    return jax.lax.map(one, constants)


def _counts(hypotheses: Array, references: Array) -> Array:
    """What BLEU is made of, (B, 10); sentences are what comes before the end mark."""
    ends = [jnp.sum(jnp.cumsum(tokens == EOS, axis=1) == 0, axis=1) for tokens in (hypotheses, references)]
    return bleu.statistics(hypotheses, ends[0], jnp.where(references == UNKNOWN, -1, references), ends[1])


@functools.lru_cache(maxsize=4)
def _cached_files(
    stamps: tuple[parallel.Stamp, ...], most_tokens: int, most_words: int, most: tuple[int, ...]
) -> Parallel:
    source, target = (parallel.Path(name) for name, _, _ in stamps)
    return parallel.load_files(source, target, most_tokens, most_words, dict(zip(SPLITS, most, strict=True)))
