"""SSIM against scikit-image."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from workloads.metrics.ssim import ssim

ssim_of = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})(ssim)
SHAPE = (6, 20, 31)


def pairs(kind, seed):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=SHAPE)
    noise = rng.normal(size=SHAPE)
    scale = {
        "noise": (1.0, 1.0, 0.0),
        "close": (1.0, 1e-2, 0.5),
        "far from zero": (1.0, 0.3, 1000.0),
        "faint": (1e-6, 1e-6, 0.0),
    }
    size, apart, offset = scale[kind]
    reference = (size * reference + offset).astype(np.float32)
    return (reference + apart * noise).astype(np.float32), reference


@pytest.mark.parametrize("kind", ["noise", "close", "far from zero", "faint"])
def test_equal_to_scikit_image(kind):
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is in the dev extra")
    for seed in range(5):
        images, references = pairs(kind, seed)
        ranges = np.ptp(references, axis=(1, 2))
        wanted = [
            metrics.structural_similarity(a.astype(np.float64), b.astype(np.float64), win_size=7, data_range=r)
            for a, b, r in zip(images, references, ranges, strict=True)
        ]
        np.testing.assert_allclose(ssim_of(images, references, ranges), wanted, atol=1e-6)


def test_an_image_is_like_itself():
    images, references = pairs("close", 0)
    np.testing.assert_allclose(ssim_of(references, references, np.ones(6)), 1.0, atol=1e-6)
    assert np.all(np.asarray(ssim_of(images, references, np.ones(6))) < 1.0)
    assert np.all(np.asarray(ssim_of(9.0 - references, 9.0 + references, np.ones(6))) < 0.0)
