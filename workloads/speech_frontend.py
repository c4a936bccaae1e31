"""From sound to what a recogniser reads, on the device: log-mel spectrograms, and SpecAugment.

B utterances, S samples, T frames, F mel bands.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from workloads.base import Array

_WINDOW_SECONDS, _HOP_SECONDS = 0.032, 0.010
_FLOOR = 1e-6  # added to a band's power, in units of full scale: below the quantisation noise of loud speech
_LEAST_VARIANCE = 1e-3
_FULL_SCALE = 2.0**15
_WIDEST_BAND_MASK = 0.2  # of the bands, as AlgoPerf's Conformer (15 of 80)
_LONGEST_TIME_MASK = 0.05  # of the utterance, as AlgoPerf's DeepSpeech


@dataclass(frozen=True)
class FrontEnd:
    """sample_rate: Hz. bands: F. Windows of 32 ms begin every 10 ms."""

    sample_rate: int
    bands: int

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(_WINDOW_SECONDS * self.sample_rate)

    @property
    def hop(self) -> int:
        """Samples between two frames."""
        return round(_HOP_SECONDS * self.sample_rate)

    def frames(self, samples: Array) -> Array:
        """Whole windows in so many samples, at least 1 (what is missing is silence)."""
        return np.maximum(1 + (samples - self.window) // self.hop, 1)


@functools.lru_cache(maxsize=8)
def mel_filters(front: FrontEnd) -> np.ndarray:
    """(window // 2 + 1, F) float32: triangles whose corners are evenly spaced on the mel scale from 0 Hz to half the rate.

    mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy 1987), every triangle's top is 1.
    """
    nyquist = front.sample_rate / 2
    mels = np.linspace(0.0, 2595.0 * np.log10(1.0 + nyquist / 700.0), front.bands + 2)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    frequency = np.linspace(0.0, nyquist, front.window // 2 + 1)[:, None]
    rising = (frequency - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequency) / (corners[2:] - corners[1:-1])
    return np.maximum(np.minimum(rising, falling), 0.0).astype(np.float32)


def log_mel(audio: Array, samples: Array, front: FrontEnd, multiple: int = 1) -> tuple[Array, Array]:
    """Normalised log-mel spectrogram (B, T, F) float32, and the frames of each utterance (B,) int32.

    audio: (B, S) int16. samples: (B,). T is a multiple of `multiple`. Every band of every utterance has mean 0 and variance 1
    over its frames (cepstral mean and variance normalisation, in the spectral domain); later frames are 0.
    """
    time = -(-int(front.frames(audio.shape[1])) // multiple) * multiple
    length = (time - 1) * front.hop + front.window
    sound = jnp.pad(audio, ((0, 0), (0, max(0, length - audio.shape[1])))).astype(jnp.float32) / _FULL_SCALE
    index = np.arange(time)[:, None] * front.hop + np.arange(front.window)[None, :]
    hann = jnp.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(front.window) / front.window), jnp.float32)
    spectrum = jnp.fft.rfft(sound[:, index].reshape(-1, front.window) * hann[None, :])
    power = (jnp.square(spectrum.real) + jnp.square(spectrum.imag)) @ jnp.asarray(mel_filters(front))
    features = jnp.log(power + _FLOOR).reshape(audio.shape[0], time, front.bands)
    frames = jnp.maximum(1 + (samples - front.window) // front.hop, 1).astype(jnp.int32)
    return _normalised(features, frames), frames


def _normalised(features: Array, frames: Array) -> Array:
    real = (jnp.arange(features.shape[1])[None, :] < frames[:, None]).astype(jnp.float32)[:, :, None]
    count = frames.astype(jnp.float32)[:, None, None]
    centred = (features - jnp.sum(features * real, axis=1, keepdims=True) / count) * real
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + _LEAST_VARIANCE)


def spec_augment(features: Array, frames: Array, key: Array, band_masks: int, time_masks: int) -> Array:
    """Features (B, T, F) with whole bands and spans of frames set to 0, their mean (Park et al. 2019, sec. 2, without warping).

    A mask's width is uniform up to a fifth of the bands, or a twentieth of the utterance's frames (B,); so is its place.
    """
    batch, time, bands = features.shape
    widest = jnp.full((batch,), 1 + int(_WIDEST_BAND_MASK * bands), jnp.float32)
    longest = 1.0 + jnp.floor(_LONGEST_TIME_MASK * frames)
    key_bands, key_time = jax.random.split(key)
    by_band = _masked(key_bands, band_masks, widest, jnp.full((batch,), float(bands)), bands)
    by_time = _masked(key_time, time_masks, longest, frames.astype(jnp.float32), time)
    hidden = by_band[:, None, :] | by_time[:, :, None]
    return jnp.where(hidden, jnp.zeros((), features.dtype), features)


def _masked(key: Array, masks: int, widths: Array, sizes: Array, length: int) -> Array:
    """(B, length) booleans: the union of `masks` spans in the first `sizes` entries, with integer widths below `widths`."""
    uniform = jax.random.uniform(key, (2, sizes.shape[0], masks))
    width = jnp.floor(uniform[0] * widths[:, None])
    start = jnp.floor(uniform[1] * (sizes[:, None] - width + 1.0))
    position = jnp.arange(length, dtype=jnp.float32)[None, :, None]
    inside = (position >= start[:, None, :]) & (position < (start + width)[:, None, :])
    return jnp.any(inside, axis=2)
