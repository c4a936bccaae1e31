"""The basin around the best learning rate at one scale: which trials count, and its Akima optimum.  Own.

Everything is in x = log2(learning rate) and y = log(loss): seed noise and curvature are relative to the loss, so
one noise level and one excess-loss window serve all scales, and regret is a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.interpolate import Akima1DInterpolator

OCTAVES = 2.0  # half-width of the window in log2(learning rate)
ROUNDS = 10


Remedy = Literal["lower", "higher", "finer", "seeds"]
"""What would show an optimum: learning rates below or above the grid's, rates between its own, or more seeds."""


class NoBasin(Exception):
    """The sweep at one scale does not show an optimum; the message says what to run, and so does `remedy`."""

    def __init__(self, why: str, remedy: Remedy) -> None:
        super().__init__(why)
        self.remedy = remedy


@dataclass(frozen=True)
class Trials:
    """The trials of one scale: x, y, seed, diverged, each (T,); y of a diverged trial is never read."""

    x: np.ndarray
    y: np.ndarray
    seed: np.ndarray
    diverged: np.ndarray

    def where(self, keep: np.ndarray) -> Trials:
        return Trials(self.x[keep], self.y[keep], self.seed[keep], self.diverged[keep])

    def usable(self) -> Trials:
        """Without the learning rates at which any seed diverged: the survivors' mean would be a biased one."""
        return self.where(~np.isin(self.x, self.x[self.diverged]))


@dataclass(frozen=True)
class Basin:
    """What one scale contributes: the trials of the window, and two optima that need no other scale.

    quadratic: vertex of the least-squares parabola with seed effects. akima: minimum of the spline through the
    mean curve. Both in log2(learning rate).
    """

    trials: Trials
    quadratic: float
    akima: float


def mean_curve(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """Distinct x (L,) and y (L,) averaged over seeds, with seed effects taken out where seeds are missing.

    Where they cannot be (seeds that share no learning rate, such as reruns on fresh seeds), plain means.
    """
    x, column = np.unique(trials.x, return_inverse=True)
    seeds, row = np.unique(trials.seed, return_inverse=True)
    count = np.zeros((x.size, seeds.size))
    np.add.at(count, (column, row), 1.0)
    plain = np.bincount(column, trials.y, x.size) / np.maximum(count.sum(1), 1.0)
    if x.size == 0 or np.all(count == count[0, 0]):
        return x, plain
    design = np.concatenate([np.eye(x.size)[column], np.eye(seeds.size)[row] - 1.0 / seeds.size], axis=1)
    coef, _, rank, _ = np.linalg.lstsq(design, trials.y, rcond=None)
    return x, coef[: x.size] if rank == x.size + seeds.size - 1 else plain


def find_basin(trials: Trials, excess: float) -> Basin:
    """The window (two octaves and `excess` log loss around the optimum, iterated) and its optima.

    Raises NoBasin with the next thing to run: optimum at the edge of the grid, grid too coarse, no curvature.
    """
    usable = trials.usable()
    x, y = mean_curve(usable)
    lowest = _interior_minimum(x, y, trials.x[trials.diverged])
    keep, center = np.zeros(x.size, bool), float(x[lowest])
    for _ in range(ROUNDS):
        window = _window(x, y, lowest, center, excess)
        if np.array_equal(window, keep):
            break
        keep = window
        center = _vertex(usable.where(np.isin(usable.x, x[keep])))
    if not x[0] <= center <= x[-1]:
        side: Remedy = "lower" if center < x[0] else "higher"
        way = "down" if side == "lower" else "up"
        raise NoBasin(f"the fitted optimum lies outside the grid; extend it {way}wards", side)
    return Basin(usable.where(np.isin(usable.x, x[keep])), center, _akima_optimum(x, y, lowest))


def _interior_minimum(x: np.ndarray, y: np.ndarray, diverged: np.ndarray) -> int:
    """Index of the lowest mean loss, if there are usable neighbours on both sides."""
    if x.size == 0:
        raise NoBasin("every learning rate diverged; extend the grid downwards", "lower")
    lowest = int(y.argmin())
    above = diverged[diverged > x[lowest]]
    if lowest == 0:
        raise NoBasin(
            f"the best learning rate 2^{x[0]:.4g} is the lowest usable one; extend the grid downwards", "lower"
        )
    if lowest == x.size - 1 and above.size:
        raise NoBasin(
            f"trials diverge right above the best learning rate; refine the grid between 2^{x[-1]:.4g} and "
            f"2^{above.min():.4g}",
            "finer",
        )
    if lowest == x.size - 1:
        raise NoBasin(f"the best learning rate 2^{x[-1]:.4g} is the highest of the grid; extend it upwards", "higher")
    if max(x[lowest] - x[lowest - 1], x[lowest + 1] - x[lowest]) > OCTAVES:
        raise NoBasin(
            f"fewer than 3 usable learning rates within two octaves of 2^{x[lowest]:.4g}; space the grid by one octave",
            "finer",
        )
    return lowest


def _window(x: np.ndarray, y: np.ndarray, lowest: int, center: float, excess: float) -> np.ndarray:
    """The connected stretch within two octaves and `excess`; the lowest point and its neighbours always belong."""
    near = (np.abs(x - center) <= OCTAVES) & (y - y[lowest] <= excess)
    near[lowest - 1 : lowest + 2] = True
    gaps = np.cumsum(~near)
    return near & (gaps == gaps[lowest])


def seed_intercepts(trials: Trials) -> np.ndarray:
    """Indicator columns (T, S), one a seed; one column in all where seeds do not repeat over learning rates."""
    seeds, row = np.unique(trials.seed, return_inverse=True)
    indicators = np.eye(seeds.size)[row]
    u = trials.x - trials.x.mean()
    paired = np.column_stack([indicators, u, u**2])
    return indicators if np.linalg.matrix_rank(paired) == paired.shape[1] else np.ones((u.size, 1))


def _vertex(trials: Trials) -> float:
    pivot = float(trials.x.mean())
    u = trials.x - pivot
    design = np.column_stack([seed_intercepts(trials), u, u**2])
    slope, curvature = np.linalg.lstsq(design, trials.y, rcond=None)[0][-2:]
    if curvature <= 0:
        raise NoBasin(
            "the losses around the best learning rate do not curve upwards; add seeds or widen the grid", "seeds"
        )
    return float(pivot - slope / (2 * curvature))


def _akima_optimum(x: np.ndarray, y: np.ndarray, lowest: int) -> float:
    """Minimum of the Akima spline through the mean curve, between the lowest point's neighbours."""
    fine = np.linspace(x[lowest - 1], x[lowest + 1], 401)
    return float(fine[np.argmin(Akima1DInterpolator(x, y)(fine))])
