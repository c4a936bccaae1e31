"""The best learning-rate schedule under a law of curves, among those that never rise after their warmup."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harness.laws.base import Array
from harness.laws.curves import CurveLaw, LearningRates
from workloads.base import BadInput

KNOTS = 48  # evenly spaced, and as many again at distances from the end in geometric progression
ITERATIONS = 800
STEP = 0.03  # first step of log lr, decaying to zero
COOLDOWNS = (0.1, 0.2, 0.4, 0.7)  # shares of the run after warmup, of the warmup-stable-decay shapes


@dataclass(frozen=True)
class Frame:
    """What a schedule must keep to: `steps` in all, the first `warmup` of them a linear rise from 0, then never rising,
    between `floor` and `peak`. Raises BadInput where that is impossible."""

    steps: int
    warmup: int
    peak: float
    floor: float

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.steps - 1:
            raise BadInput(f"warmup={self.warmup} must be at least 0 and shorter than steps={self.steps}")
        if not 0 < self.floor < self.peak < np.inf:
            raise BadInput(f"floor={self.floor:g} must be positive and below peak={self.peak:g}")

    def per_step(self, knots: np.ndarray, lr: np.ndarray) -> np.ndarray:
        """The rates of steps 0 to `steps`, from those at `knots` (the first ends the warmup), linear in between."""
        every = np.interp(np.arange(self.steps + 1), knots, lr)
        every[: self.warmup] = lr[0] * np.arange(self.warmup) / max(self.warmup, 1)
        return every

    def shapes(self) -> dict[str, np.ndarray]:
        """The usual schedules within the frame, by name: rates of steps 0 to `steps`. wsd: warmup-stable-decay."""
        done = np.clip((np.arange(self.steps + 1) - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)
        ratio, span = self.floor / self.peak, 1 - self.floor / self.peak
        found = {
            "constant": np.ones_like(done),
            "cosine": ratio + span * (1 + np.cos(np.pi * done)) / 2,
            "linear": 1 - span * done,
        }
        for share in COOLDOWNS:
            late = np.clip((done - 1 + share) / share, 0.0, 1.0)
            found[f"wsd linear {share:.0%}"] = 1 - span * late
            found[f"wsd exponential {share:.0%}"] = ratio**late
        ramp = np.minimum(np.arange(self.steps + 1) / max(self.warmup, 1), 1.0) if self.warmup else np.ones_like(done)
        return {name: self.peak * shape * ramp for name, shape in found.items()}


class Found(NamedTuple):
    """knots (G,), steps; lr (G,) at the knots; per_step (steps + 1,). stable: share of the steps after warmup that stay
    within 5% of the highest rate. reached: lowest predicted log loss (on knots) from each start."""

    knots: np.ndarray
    lr: np.ndarray
    per_step: np.ndarray
    stable: float
    reached: dict[str, float]


def knots_of(frame: Frame) -> np.ndarray:
    """(G,) steps, ascending: what happens shortly before the end matters on a scale of its own."""
    length = frame.steps - frame.warmup
    even = np.linspace(0, length, KNOTS)
    near = length - np.geomspace(1, length, KNOTS)
    return frame.warmup + np.unique(np.concatenate([even, near, [length]]).round().astype(np.int64))


def search(law: CurveLaw, theta: np.ndarray, frame: Frame) -> Found:
    """The schedule of lowest predicted final loss under `law` at theta (P,).  Own.

    The unknowns are log rates at knots. Adam steps are projected onto non-increasing sequences within [floor, peak]
    (isotonic regression), from all usual shapes at once; the best iterate of the best start is kept, so the result is never
    worse than any of those shapes.
    """
    knots = knots_of(frame)
    shapes = frame.shapes()
    starts = np.log(np.stack([shape[knots] for shape in shapes.values()]))
    with jax.enable_x64(True):
        bounds = np.log(np.array([frame.floor, frame.peak], np.float64))
        log_lr, value = _descend(
            law, np.asarray(theta, np.float64), knots.astype(np.float64), starts, bounds[0], bounds[1]
        )
        log_lr, value = np.asarray(log_lr), np.asarray(value)
    lr = np.exp(log_lr[int(np.argmin(value))])
    every = frame.per_step(knots, lr)
    stable = float(np.mean(every[frame.warmup :] >= 0.95 * lr[0]))
    return Found(knots, lr, every, stable, dict(zip(shapes, value.tolist(), strict=True)))


def final_features(law: CurveLaw, schedules: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The law's features (1,) or (1, K) at the last step of each schedule (T + 1,), exact to its quadrature."""
    return [law.rows_of(LearningRates.of(lr), np.array([lr.size - 1])) for lr in schedules]


def monotone(log_lr: Array, floor: Array, peak: Array) -> Array:
    """The nearest (Euclidean) non-increasing sequence (G,) within [floor, peak].

    Isotonic regression by its minimax formula, max_{b >= i} min_{a <= i} of the means of x_a..x_b for rising sequences
    (Robertson, Wright & Dykstra 1988, th. 1.4.4), here falling; clipping afterwards keeps it the projection.
    """
    summed = jnp.concatenate([jnp.zeros(1), jnp.cumsum(log_lr)])
    index = jnp.arange(log_lr.size)
    length = index[None, :] - index[:, None] + 1
    inside = length > 0
    mean = (summed[1:][None, :] - summed[:-1][:, None]) / jnp.where(inside, length, 1)
    highest = jax.lax.cummax(jnp.where(inside, mean, -jnp.inf), axis=1, reverse=True)
    lowest = jnp.min(jnp.where(inside, highest, jnp.inf), axis=0)
    return jnp.clip(lowest, floor, peak)


@partial(jax.jit, static_argnums=0)
def _descend(
    law: CurveLaw, theta: Array, knots: Array, starts: Array, floor: Array, peak: Array
) -> tuple[Array, Array]:
    """Lowest iterates (starts, G) and their log losses (starts,)."""
    p = law.unpack(theta)

    def log_loss(log_lr: Array) -> Array:
        return law.log_loss(p, **law.on_grid(knots, jnp.exp(log_lr)))[0]

    def step(carry: tuple[Array, ...], i: Array) -> tuple[tuple[Array, ...], None]:
        at, first, second, best, lowest = carry
        value, slope = jax.value_and_grad(log_loss)(at)
        best = jnp.where(value < lowest, at, best)
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        unbiased = first / (1 - 0.9 ** (i + 1)), second / (1 - 0.99 ** (i + 1))
        move = STEP * (1 - i / ITERATIONS) * unbiased[0] / (jnp.sqrt(unbiased[1]) + 1e-30)
        return (monotone(at - move, floor, peak), first, second, best, jnp.minimum(value, lowest)), None

    def one(start: Array) -> tuple[Array, Array]:
        at = monotone(start, floor, peak)
        carry = (at, jnp.zeros_like(at), jnp.zeros_like(at), at, jnp.asarray(jnp.inf))
        ended, _ = jax.lax.scan(step, carry, jnp.arange(ITERATIONS, dtype=jnp.float64))
        return ended[3], ended[4]

    return jax.vmap(one)(starts)
