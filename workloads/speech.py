"""What the speech recognition families share: data, features, CTC, and the word error rate."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array, BadInput, Batch, Data, Metric, Params, Workload
from workloads.ctc import ctc_loss, greedy_decode
from workloads.data.speech import SEPARATOR, Speech, load_speech
from workloads.metrics.edit_distance import edit_distance, word_error_rate, word_errors
from workloads.metrics.finite import where_finite
from workloads.speech_frontend import FrontEnd, log_mel, mel_filters, spec_augment
from workloads.speech_layers import SUBSAMPLING, Moments, Pass, real_frames, subsample

_AT_ONCE = 128  # utterances of an evaluation, and training utterances that population statistics are of
_CANDIDATES = 32  # most frequent words, of which a constant transcript is made


@dataclass(frozen=True)
class SpeechRecognition(Workload):
    """Transcribing speech letter by letter, trained with CTC, judged by the word error rate of greedy decoding.

    data: "generated" (workloads/data/formants.py), or path:FOLDER in the layout of LibriSpeech. generator_seed: of the
    lexicon, speakers and transcripts. utterances, validation_utterances, test_utterances: of generated data; of recordings,
    the most that are used, 2 GiB in all. longest_ms: longer recordings are left out. bands: of the mel spectrogram, a multiple
    of 4. spec_augment: whether training hides `band_masks` spans of bands and `time_masks` spans of frames. dropout: on the
    outputs of residual branches, None for none.

    Batch normalisation has no running averages. Evaluation uses the statistics of the first 128 training utterances under
    the evaluated weights ("precise" batch norm, Wu & Johnson 2021), without augmentation.
    Shapes below: B batch, T frames, F bands, W width, V the blank and the letters.
    """

    metric: ClassVar[Metric] = Metric("word_error_rate", "minimize", "errors per word")

    data: str = "generated"
    generator_seed: int = 0
    utterances: int = 4096
    validation_utterances: int = 512
    test_utterances: int = 4096
    longest_ms: int = 20_000
    bands: int = 20
    spec_augment: bool = True
    band_masks: int = 1
    time_masks: int = 1
    dropout: float | None = None

    @property
    def tokens_per_example(self) -> int:
        """Frames that the recogniser outputs."""
        return self._time // SUBSAMPLING

    @property
    def letters(self) -> int:
        """V."""
        return 1 + len(self._speech.alphabet)

    def validate(self) -> None:
        super().validate()
        if self.width % 4:
            raise BadInput(f"workload.width={self.width} must be a multiple of 4: convolutions have width / 4 channels")
        if self.bands < 4 or self.bands % SUBSAMPLING:
            raise BadInput(f"workload.bands={self.bands} must be a positive multiple of {SUBSAMPLING}")
        for name in ("utterances", "validation_utterances", "test_utterances", "longest_ms"):
            if getattr(self, name) < 1:
                raise BadInput(f"workload.{name}={getattr(self, name)} must be at least 1")
        for name in ("generator_seed", "band_masks", "time_masks"):
            if getattr(self, name) < 0:
                raise BadInput(f"workload.{name}={getattr(self, name)} must be at least 0")
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise BadInput(f"workload.dropout={self.dropout} must be at least 0 and below 1")
        if not np.all(mel_filters(self._front_end).max(axis=0) > 0):
            raise BadInput(
                f"workload.bands={self.bands} are more than windows of 32 ms resolve at "
                f"{self._front_end.sample_rate} Hz; use fewer"
            )

    def load(self) -> Data:
        speech = self._speech
        return Data(speech.arrays, speech.info, examples=len(speech.arrays["train_samples"]))

    def data_key(self) -> Hashable:
        return SpeechRecognition, self._source

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """`features` (B, T, F), their `frames` (B,), `labels` (B, L) and their `lengths` (B,), drawn with replacement."""
        count = data["train_samples"].shape[0]
        rows = jax.random.randint(jax.random.fold_in(key, step), (self.batch_size,), 0, count)
        return self._examples(_utterances(data, "train", rows))

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Mean over utterances of -log P(transcript) / its letters, in nats per letter."""
        mask_key, dropout_key = jax.random.split(key)
        features = batch["features"]
        if self.spec_augment:
            features = spec_augment(features, batch["frames"], mask_key, self.band_masks, self.time_masks)
        logits, frames, _ = self.transcribe(params, features, batch["frames"], key=dropout_key, dropout=self.dropout)
        return jnp.mean(_loss_per_letter(logits, frames, batch)), {}

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """`loss` as in training, without augmentation; `word_error_rate` of the whole split, in which letters
        that no training transcript has are never right; `word_error_rate_stderr`.
        """
        if f"{split}_samples" not in data:
            raise BadInput(f"{self.name} has no split '{split}'. Valid names: train, validation, test.")
        count, at_once = data[f"{split}_samples"].shape[0], min(_AT_ONCE, data["train_samples"].shape[0])
        turns = -(-count // at_once)
        unknown = self._speech.unknown or -1

        def turn(given: Moments, number: Array) -> tuple[Moments, tuple[Array, ...]]:
            """The first is of training utterances; its batch normalisation statistics serve all others."""
            first = number == 0
            rows = (number - 1) * at_once + jnp.arange(at_once)
            held_out = _utterances(data, split, jnp.clip(rows, 0, count - 1))
            sounds = jax.tree.map(partial(jnp.where, first), _utterances(data, "train", np.arange(at_once)), held_out)
            batch = self._examples(sounds)
            logits, frames, used = self.transcribe(params, batch["features"], batch["frames"], given=given, own=first)
            losses = _loss_per_letter(logits, frames, batch)
            said = jnp.where(batch["labels"] == unknown, -1, batch["labels"])  # what matches nothing
            errors, words = word_errors(*greedy_decode(logits, frames), said, batch["lengths"], SEPARATOR)
            return used, (losses, errors, words)

        _, (losses, errors, words) = jax.lax.scan(turn, self._no_moments(params), jnp.arange(1 + turns))
        losses, errors, words = (x[1:].reshape(-1)[:count] for x in (losses, errors, words))
        rate, standard_error = word_error_rate(errors, words)
        scores = {"word_error_rate": rate, "word_error_rate_stderr": standard_error}
        return where_finite({"loss": jnp.mean(losses), **scores})

    def transcribe(
        self, params: Params, features: Array, frames: Array, **options: Array
    ) -> tuple[Array, Array, Moments]:
        """Logits (B, T / 4, V) in float32, the frames of them (B,), and the statistics of every batch normalisation.

        features: (B, T, F). frames: (B,). options: fields of Pass.
        """
        dtype = params["head"]["kernel"].dtype
        x, frames = subsample(features.astype(dtype), frames, params["subsample"])
        time = features.shape[1] // SUBSAMPLING
        run = Pass(real_frames(frames, time, x.dtype), **options)
        run.tap("subsample", x)
        outputs = self.output_scale * self.encode(params, x * run.real, run).astype(jnp.float32)
        return outputs.reshape(-1, time, self.letters), frames, run.found

    def encode(self, params: Params, x: Array, run: Pass) -> Array:
        """Subsampled frames (B T / 4, W) -> logits (B T / 4, V)."""
        raise NotImplementedError

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Subsampled frames and the output of every residual branch, (B T / 4, W), and logits, (B T / 4, V).

        Frames after an utterance's last are 0 in all of them.
        """
        found: dict[str, Array] = {}
        logits, frames, _ = self.transcribe(params, batch["features"], batch["frames"], tap=found.__setitem__)
        real = real_frames(frames, logits.shape[1], logits.dtype).reshape(-1, 1)
        return {name: x * real for name, x in found.items()} | {"logits": logits.reshape(-1, self.letters) * real}

    def trivial_metric(self) -> float:
        """Of the best constant transcript that adding the split's words one after the other finds, on the validation split."""
        return _constant_word_error_rate(tuple(self._speech.transcripts("validation")))

    def oracle_metric(self) -> float | None:
        """Of the references themselves: the generator's sounds determine the transcript. None for recordings."""
        if self.data != "generated":
            return None
        labels, lengths = (jnp.asarray(self._speech.arrays[f"validation_{part}"]) for part in ("labels", "lengths"))
        return float(word_error_rate(*word_errors(labels, lengths, labels, lengths, SEPARATOR))[0])

    @property
    def _source(self) -> tuple[str, int, tuple[int, int, int], int]:
        most = (self.utterances, self.validation_utterances, self.test_utterances)
        return self.data, self.generator_seed, most, self.longest_ms

    @property
    def _speech(self) -> Speech:
        return load_speech(*self._source)

    @property
    def _front_end(self) -> FrontEnd:
        return FrontEnd(self._speech.sample_rate, self.bands)

    @property
    def _time(self) -> int:
        """T of the training split."""
        frames = int(self._front_end.frames(np.array(self._speech.arrays["train_audio"].shape[1])))
        return -(-frames // SUBSAMPLING) * SUBSAMPLING

    @property
    def _labels(self) -> int:
        """L of the training split."""
        return int(self._speech.arrays["train_labels"].shape[1])

    def _examples(self, sounds: Mapping[str, Array]) -> Batch:
        features, frames = log_mel(sounds["audio"], sounds["samples"], self._front_end, SUBSAMPLING)
        return {"features": features, "frames": frames, "labels": sounds["labels"], "lengths": sounds["lengths"]}

    def _no_moments(self, params: Params) -> Moments:
        """Of the shape that the statistics of all batch normalisations have."""
        features = jax.ShapeDtypeStruct((1, SUBSAMPLING * self.tokens_per_example, self.bands), jnp.float32)
        frames = jax.ShapeDtypeStruct((1,), jnp.int32)
        shapes = jax.eval_shape(lambda *inputs: self.transcribe(*inputs)[2], params, features, frames)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _utterances(data: Mapping[str, Array], split: str, rows: Array) -> dict[str, Array]:
    return {part: data[f"{split}_{part}"][rows] for part in ("audio", "samples", "labels", "lengths")}


def _loss_per_letter(logits: Array, frames: Array, batch: Batch) -> Array:
    """(B,) nats per letter."""
    loss = ctc_loss(logits, frames, batch["labels"], batch["lengths"])
    return loss / jnp.maximum(batch["lengths"], 1)


@functools.lru_cache(maxsize=4)
def _constant_word_error_rate(transcripts: tuple[str, ...]) -> float:
    """The lowest rate that any one transcript for all reaches, as far as adding the best word again and again finds it."""
    said = [text.split() for text in transcripts]
    frequent = [word for word, _ in Counter(word for words in said for word in words).most_common(_CANDIDATES)]
    number = {word: 1 + index for index, word in enumerate(frequent)}
    lengths = np.array([len(words) for words in said], np.int32)
    references = np.zeros((len(said), lengths.max()), np.int32)  # 0: a word that is no candidate
    for row, words in enumerate(said):
        references[row, : len(words)] = [number.get(word, 0) for word in words]
    errors_of = jax.jit(jax.vmap(edit_distance, in_axes=(0, None, None, None)))
    constant, fewest = np.zeros(0, np.int32), int(lengths.sum())  # without a word, all are deletions
    while True:
        longer = np.array([[*constant, candidate] for candidate in number.values()], np.int32)[:, None, :]
        spoken = np.broadcast_to(longer, (len(longer), len(said), longer.shape[2]))
        errors = np.asarray(errors_of(spoken, np.full(len(said), longer.shape[2]), references, lengths)).sum(axis=1)
        if errors.min() >= fewest:
            return fewest / max(int(lengths.sum()), 1)
        constant, fewest = longer[errors.argmin(), 0], int(errors.min())
