"""Structural similarity (Wang et al. 2004, eq. 13) as fastMRI measures it: 7 x 7 uniform windows, sample covariances.

Equal to scikit-image's `structural_similarity(win_size=7)`: the mean over windows that lie within the image. Variances are
means of squared deviations from each window's mean, not differences of moments, which float32 would lose.
"""

from __future__ import annotations

import jax.numpy as jnp

from workloads.base import Array

WINDOW = 7
K1, K2 = 0.01, 0.03


def ssim(images: Array, references: Array, data_range: Array) -> Array:
    """(B, H, W), (B, H, W) and the data range of each, (B,) -> (B,), in float32. H and W at least 7."""
    x, y = _windows(images.astype(jnp.float32)), _windows(references.astype(jnp.float32))
    mean_x, mean_y = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
    away_x, away_y = x - mean_x[None], y - mean_y[None]
    others = WINDOW**2 - 1
    variances = jnp.sum(jnp.square(away_x) + jnp.square(away_y), axis=0) / others
    covariance = jnp.sum(away_x * away_y, axis=0) / others
    spread = data_range.astype(jnp.float32)[:, None, None]
    c1, c2 = jnp.square(K1 * spread), jnp.square(K2 * spread)
    luminance = (2.0 * mean_x * mean_y + c1) / (jnp.square(mean_x) + jnp.square(mean_y) + c1)
    structure = (2.0 * covariance + c2) / (variances + c2)
    return jnp.mean(luminance * structure, axis=(1, 2))


def _windows(images: Array) -> Array:
    """(B, H, W) -> (49, B, H - 6, W - 6): the pixels of the window around each inner pixel."""
    height, width = (size - WINDOW + 1 for size in images.shape[1:])
    corners = [(row, column) for row in range(WINDOW) for column in range(WINDOW)]
    return jnp.stack([images[:, row : row + height, column : column + width] for row, column in corners])
