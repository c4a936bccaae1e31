"""Simulated learning-rate sweeps with known best learning rates, in the manner of small language models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIDTHS = np.array([16.0, 24, 32, 48, 64, 96])
OCTAVES = np.arange(-9.0, -3.0)


@dataclass(frozen=True)
class Sweep:
    """Columns of a table with one entry a trial, and the truth behind it: best (W,) in log2(lr), drift."""

    scale: np.ndarray
    learning_rate: np.ndarray
    loss: np.ndarray
    seed: np.ndarray
    diverged: np.ndarray
    best: np.ndarray
    drift: float

    def columns(self):
        return {name: getattr(self, name) for name in ("scale", "learning_rate", "loss", "seed", "diverged")}

    def where(self, keep):
        return {name: column[keep] for name, column in self.columns().items()}


def basin(d, k, asymmetry):
    """Excess log loss d octaves from the best: curvature 2k, A 2^(-p d) + B 2^(q d), steeper above (q > p)."""
    p = 0.35 * np.log(2)
    q = asymmetry * p
    a = 2 * k / (p * p + p * q)
    return a * (np.exp(-p * d) - 1) + a * p / q * (np.exp(q * d) - 1)


def simulate(rng, drift, seeds=2, sd=None, lrs=OCTAVES, widths=WIDTHS, cliff=True, center=None, wobble=0.0):
    """A sweep with curvature k in [.02, .05] per octave^2, seed noise sd in [.003, .01] (30% of its variance shared by
    a seed over all widths, 20% over a width's learning rates) and a divergence cliff 2-3 octaves above the best.
    wobble: standard deviation of the best learning rates about the drift line, in octaves."""
    sd = rng.uniform(0.003, 0.01) if sd is None else sd
    z = np.log2(widths / widths[0])
    middle = (lrs[0] + lrs[-1]) / 2 + rng.uniform(-0.5, 0.5) if center is None else center
    best = middle + drift * (z - z.mean()) + wobble * rng.normal(size=z.size)
    k, asymmetry, edge = rng.uniform(0.02, 0.05), rng.uniform(1, 3), rng.uniform(2, 3)
    by_seed, by_both, by_trial = np.sqrt([0.3, 0.2, 0.5]) * sd
    w, s, x = (a.ravel() for a in np.meshgrid(np.arange(widths.size), np.arange(seeds), lrs, indexing="ij"))
    d = x - best[w]
    y = 1.0 + basin(d, k * np.exp(0.1 * rng.normal(size=widths.size))[w], asymmetry)
    y += (by_seed * rng.normal(size=seeds))[s] + (by_both * rng.normal(size=(widths.size, seeds)))[w, s]
    y += by_trial * rng.normal(size=x.size)
    if cliff:
        y += 0.4 * np.clip(d - edge + 0.5, 0, None) ** 2
    diverged = cliff & (d > edge + 0.2 * rng.normal(size=x.size))
    return Sweep(widths[w], 2.0**x, np.where(diverged, np.nan, np.exp(y)), s, diverged, best, drift)
