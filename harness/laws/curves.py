"""Training curves with their learning rates: the base of laws of whole curves.

A table has one row per recorded step (`curve`, `step`, `lr` and the loss). Laws of curves need the learning rate of *every*
step, also of those before the first recorded loss: rows whose loss is NaN describe it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import Array, Law
from harness.laws.fitting.objective import Objective
from harness.laws.linear_terms import log_coefficients
from workloads.base import BadInput

MOST_STEPS = 20_000_000  # of one curve: beyond, `step` is more likely to count tokens
_LEAST_SHARE = 1e-3  # of the loss that annealing may leave; below, the logarithm goes on as a line


@dataclass(frozen=True, eq=False)
class LearningRates:
    """The learning rate of every step of one curve: lr (T + 1,), steps 0 to T, as used at that step.

    warmup_end: the last step of the initial rise (0 without warmup). Own: the rise is strict from the first positive rate
    on, so a later increase, after a plateau or a decay, is a change like any other.
    """

    lr: np.ndarray
    warmup_end: int

    @classmethod
    def of(cls, lr: np.ndarray) -> LearningRates:
        """From the array (T + 1,). Raises BadInput where a rate is negative or not finite, or all are zero."""
        lr = np.asarray(lr, np.float64)
        bad = np.flatnonzero(~(np.isfinite(lr) & (lr >= 0)))
        if bad.size:
            raise BadInput(f"lr = {lr[bad[0]]} at step {bad[0]} ({bad.size} such): learning rates are numbers >= 0")
        if not np.any(lr > 0):
            raise BadInput("lr is zero at every step: name the column of learning rates with columns.lr=COLUMN")
        first = int(np.argmax(lr > 0))
        stopped = np.flatnonzero(np.diff(lr[first:]) <= 0)
        end = first + (int(stopped[0]) if stopped.size else lr.size - 1 - first)
        return cls(lr, end if end > 0 else 0)

    @cached_property
    def total(self) -> np.ndarray:
        """S_t = sum_{i <= t} lr_i, (T + 1,), warmup included."""
        return np.cumsum(self.lr)

    @cached_property
    def change(self) -> np.ndarray:
        """lr_k - lr_{k-1}, (T + 1,), negative in decay, zero at step 0 and in the warmup."""
        found = np.diff(self.lr, prepend=self.lr[0])
        found[: self.warmup_end + 1] = 0.0
        return found


def curve_rows(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each curve's label and its rows, in order of steps."""
    labels = np.asarray(columns["curve"])
    step = np.asarray(columns["step"], np.float64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        yield str(label), rows[np.argsort(step[rows], kind="stable")]


def learning_rates(step: np.ndarray, lr: np.ndarray, warmup: int | None = None) -> LearningRates:
    """The learning rate of every step up to the last of `step` (m,), ascending, from the recorded `lr` (m,).

    Between rows it is interpolated linearly. Before the first row it rises linearly from 0 over `warmup` steps, then stays
    at the first recorded rate (warmup=0: is there from the start). Raises BadInput on fractional, negative or repeated
    steps, on bad rates, and where the first row is later than step 1 and `warmup` is None.
    """
    step = whole_steps(step)
    first = int(step[0])
    if first > 1 and warmup is None:
        raise BadInput(
            f"the first row is step {first}, but laws of curves sum the learning rate from step 0: add rows without a loss "
            "that describe the schedule before it, or say options.warmup=STEPS of linear warmup from 0 (0 for none)"
        )
    every = np.interp(np.arange(step[-1] + 1, dtype=np.float64), step, np.asarray(lr, np.float64))
    if first > 1 and warmup:
        every[:first] *= np.minimum(np.arange(first) / min(warmup, first), 1.0)
    return LearningRates.of(every)


def whole_steps(step: np.ndarray) -> np.ndarray:
    """Ascending steps (m,) as integers, or BadInput."""
    step = np.asarray(step, np.float64)
    bad = np.flatnonzero(~(np.isfinite(step) & (step >= 0) & (step == np.round(step))))
    if bad.size:
        raise BadInput(f"step = {step[bad[0]]}: steps are whole numbers >= 0 (optimizer steps, not tokens or epochs)")
    twice = np.flatnonzero(np.diff(step) == 0)
    if twice.size:
        raise BadInput(
            f"step {step[twice[0]]:.0f} is there twice ({twice.size} such): give each run its own label in `curve`, or drop "
            "repeated rows"
        )
    if step[-1] > MOST_STEPS:
        raise BadInput(
            f"step = {step[-1]:.3g} is more than {MOST_STEPS:g} steps: is this column tokens? Give optimizer steps"
        )
    return step.astype(np.int64)


def rates_of(columns: Mapping[str, np.ndarray], warmup: int | None) -> Iterator[tuple[str, np.ndarray, LearningRates]]:
    """Each curve's label, rows (in order of steps) and learning rates. Raises BadInput naming the curve."""
    for label, rows in curve_rows(columns):
        step, lr = (np.asarray(columns[name], np.float64)[rows] for name in ("step", "lr"))
        try:
            yield label, rows, learning_rates(step, lr, warmup)
        except BadInput as error:
            raise BadInput(f"curve {label}: {error}") from None


def thin(columns: Mapping[str, np.ndarray], loss: np.ndarray, most: int) -> np.ndarray:
    """The losses (n,) with NaN at all but `most` rows of each curve, its first and last among them.

    Neighbouring losses of a curve say much the same; the other rows still describe the schedule. Evenly spaced among the
    rows that have a loss.
    """
    kept = np.full(loss.shape, np.nan)
    for _, rows in curve_rows(columns):
        seen = rows[~np.isnan(loss[rows])]
        chosen = seen[np.unique(np.linspace(0, seen.size - 1, most).round().astype(int))] if seen.size > most else seen
        kept[chosen] = loss[chosen]
    return kept


@dataclass(frozen=True)
class CurveLaw(Law):
    """Base of laws of whole curves: L = L0 + A S1^-alpha - (what annealing gains), from the LR of every step.

    warmup: steps of linear warmup before the first row of each curve, where no rows describe them (see `learning_rates`).
    Losses before the end of the warmup are outside of these laws: leave them NaN.
    """

    inputs: ClassVar[tuple[str, ...]] = ("curve", "step", "lr")
    objective: ClassVar[Objective] = Objective(delta=1e-3)
    whole_curves: ClassVar[bool] = True

    warmup: int | None = None

    def __post_init__(self) -> None:
        if self.warmup is not None and (self.warmup != int(self.warmup) or self.warmup < 0):
            raise BadInput(f"options.warmup={self.warmup} must be a whole number of steps >= 0")

    def features(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """S1 (n,), the sum of learning rates up to each row's step, and what `at` adds."""
        found = []
        order = []
        for _, rows, rates in rates_of(columns, self.warmup):
            found.append(self.rows_of(rates, np.asarray(columns["step"], np.float64)[rows].astype(np.int64)))
            order.append(rows)
        return stack(found, np.concatenate(order))

    def rows_of(self, rates: LearningRates, step: np.ndarray) -> dict[str, np.ndarray]:
        """The features at the recorded steps (m,) of one curve. A zero S1 (a row before any update) becomes tiny."""
        total = rates.total[step]
        return {"S1": np.maximum(total, rates.lr[rates.lr > 0].min() * 1e-3), **self.at(rates, step)}

    def at(self, rates: LearningRates, step: np.ndarray) -> dict[str, np.ndarray]:
        """The features besides S1: arrays (m,) or (m, K), zero where there is nothing (K may differ between curves)."""
        raise NotImplementedError

    def on_grid(self, step: Array, lr: Array) -> dict[str, Array]:
        """The features (1,) or (1, K) at the last of the steps (G,), for rates `lr` (G,) that are linear in between.

        In jax, differentiable by lr: what the search for schedules minimises. The first of the steps ends the warmup,
        which is linear from 0.
        """
        raise NotImplementedError


def grid_total(step: Array, lr: Array) -> Array:
    """S (G,) at the steps of a grid: the sum of rates that rise linearly to the first step and are linear in between."""
    warm = jnp.where(step[0] > 0, 0.5 * (step[0] + 1), 1.0) * lr[0]
    between = 0.5 * jnp.diff(step) * (lr[1:] + lr[:-1]) + 0.5 * jnp.diff(lr)
    return warm + jnp.concatenate([jnp.zeros(1), jnp.cumsum(between)])


def log_difference(log_base: Array, share: Array) -> Array:
    """log(base (1 - share)), continued as a line where less than 1e-3 of the base is left, so that a fit can come back."""
    left = 1.0 - share
    inside = left > _LEAST_SHARE
    safe = jnp.where(inside, left, 1.0)
    return log_base + jnp.where(inside, jnp.log(safe), jnp.log(_LEAST_SHARE) + left / _LEAST_SHARE - 1.0)


def log_power_law(p: Any, total: Array) -> Array:
    """log(L0 + A S1^-alpha)."""
    return jnp.logaddexp(p.log_L0, p.log_A - p.alpha * jnp.log(total))


def linear_start(log_power: np.ndarray, gain: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, float]:
    """(log L0, log A, log B) of L0 + A exp(log_power) - B gain by least squares, none negative, and the relative error.

    Written as (L0 - B max gain) + ... + B (max gain - gain), all terms are positive; arrays are (n,). Where the gain does
    not vary, B is what would explain 1e-4 of the loss.
    """
    top = float(gain.max())
    varies = np.ptp(gain) > 0
    with np.errstate(divide="ignore"):
        rest = [np.log(top - gain)] if varies else []
    terms = np.stack([np.zeros_like(loss), log_power, *rest], axis=1)
    found = log_coefficients(terms, loss)
    error = float(np.sum((np.exp(terms) @ np.exp(found) / loss - 1.0) ** 2))
    log_b = found[2] if varies else np.log(1e-4 * loss.min()) - np.log(max(top, 1e-300))
    return np.array([np.log(np.exp(found[0]) + max(top, 0.0) * np.exp(log_b)), found[1], log_b]), error


def stack(found: list[dict[str, np.ndarray]], order: np.ndarray) -> dict[str, np.ndarray]:
    """The curves' features one below the other, padded with zeros to the same K, in the order of the table."""
    stacked = {}
    for name in found[0]:
        parts = [part[name] for part in found]
        if parts[0].ndim == 2:
            most = max(part.shape[1] for part in parts)
            parts = [np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in parts]
        value = np.concatenate(parts)
        stacked[name] = np.empty_like(value)
        stacked[name][order] = value
    return stacked
