"""The critical batch as a function of the loss, from training curves at several batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from harness.laws.base import positive
from harness.laws.critical_batch import CriticalBatch
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import solve
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLaw
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

LEAST_BATCHES = 3  # that must reach a level: two parameters and one to spare
LEAST_LEVELS = 3
UNDETERMINED = 1.0  # standard error of log B_crit (a factor e) above which a level says nothing


@dataclass(frozen=True)
class Curve:
    """One run: batch, size (1 where the table has no N), log step (m,) and decreasing log loss (m,), unequal neighbours."""

    name: str
    batch: float
    size: float
    log_step: np.ndarray
    log_loss: np.ndarray
    points: int

    def steps_to(self, log_level: np.ndarray) -> np.ndarray:
        """Steps to each level, linear between logs; NaN outside the curve."""
        at = np.interp(log_level, self.log_loss[::-1], self.log_step[::-1], left=np.nan, right=np.nan)
        return np.exp(at)


class _Levels(NamedTuple):
    """Levels of one size each: size, loss (K,); steps (K, C), NaN where the curve is of another size or does not reach.

    missed: losses that too few batches reach.
    """

    size: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    missed: tuple[float, ...]


class _Fits(NamedTuple):
    """log S_min and log B_crit (K, 1 + C): on all curves, then without each; standard error of log B_crit (K,)."""

    log_steps: np.ndarray
    log_batch: np.ndarray
    stderr: np.ndarray
    quantile: float
    used: np.ndarray


@PROCEDURES.register("critical_batch_curve")
@dataclass(frozen=True)
class CriticalBatchCurve(Procedure):
    """B_crit(L) = B_star / L^(1/a_B) from steps to loss.  Kaplan et al. 2020 (arXiv:2001.08361), sect. 5.1, eqs. 1.4, 5.1.

    Columns: curve, or one curve for each B (and N); B the constant batch of a curve, step, loss (training or validation).
    Noise: each curve is replaced by its isotonic (decreasing) regression in logs. The steps to a level of loss are linear
    between logs, never extrapolated. Levels: those given, or `count` in geometric progression from the lowest first loss
    of a curve to the loss that half of the batches (at least three) reach. For each level (and N) `critical_batch` is
    fitted; then B_crit(L) by least squares of logs, weighted by the levels' errors. Levels of one curve are not
    independent, so all intervals leave out one curve after another (jackknife, Student t).
    """

    columns: ClassVar[tuple[str, ...]] = ("B", "step", "loss")
    optional: ClassVar[tuple[str, ...]] = ("curve", "N")
    text: ClassVar[tuple[str, ...]] = ("curve",)

    levels: tuple[float, ...] = ()
    count: int = 8

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        """Raises BadInput: a curve of two batches, fewer than three batches, no common level, or no determined B_crit."""
        curves, dropped = _curves(columns)
        levels = self._levels(curves)
        fits = _fit_levels(curves, levels)
        law, errors = _power_law(levels, fits, len(curves))
        intervals = {k: _t_interval(law[k], errors[k], fits.quantile) for k in ("log_B_star", "inverse")}
        low, high = intervals["inverse"]
        values = {
            "levels": _level_rows(levels, fits),
            "B_star": {"value": float(np.exp(law["log_B_star"])), "ci95": _exp(intervals["log_B_star"])},
            "inverse_a_B": {"value": law["inverse"], "ci95": [low, high]},
            "a_B": {"value": 1 / law["inverse"] if law["inverse"] > 0 else None, "ci95": _a_b_interval(low, high)},
            "curves": [{"curve": c.name, "B": c.batch, "N": c.size, "points": c.points} for c in curves],
        }
        return Estimate(
            procedure=self.name,
            n=sum(c.points for c in curves),
            values=values,
            tables=_tables(values),
            plots=_plots(levels, fits, curves, law),
            warnings=tuple(_warnings(curves, levels, fits, low)),
            dropped=dropped,
        )

    def _levels(self, curves: list[Curve]) -> _Levels:
        if self.count < LEAST_LEVELS:
            raise BadInput(f"count={self.count}: B_crit(L) needs at least {LEAST_LEVELS} levels")
        sizes, losses, steps = [], [], []
        for size in sorted({c.size for c in curves}):
            given = np.array(self.levels, np.float64) if self.levels else _default_levels(curves, size, self.count)
            if given.size:
                positive("levels", given)
            reached = [c.steps_to(np.log(given)) if c.size == size else np.full(given.size, np.nan) for c in curves]
            sizes.append(np.full(given.size, size))
            losses.append(given)
            steps.append(np.stack(reached, axis=1))
        found = _Levels(np.concatenate(sizes), np.concatenate(losses), np.concatenate(steps), ())
        batch = np.array([c.batch for c in curves])
        enough = np.array([np.unique(batch[~np.isnan(row)]).size >= LEAST_BATCHES for row in found.steps], bool)
        if enough.sum() < LEAST_LEVELS:
            raise BadInput(
                f"{int(enough.sum())} level(s) of loss are passed by {LEAST_BATCHES} batch sizes of one N; B_crit(L) needs "
                f"{LEAST_LEVELS}: train more batch sizes, or longer, to a common loss"
            )
        return _Levels(found.size[enough], found.loss[enough], found.steps[enough], tuple(found.loss[~enough].tolist()))


def _curves(columns: Mapping[str, np.ndarray]) -> tuple[list[Curve], dict[str, int]]:
    batch, step, loss = (np.asarray(columns[k], np.float64) for k in ("B", "step", "loss"))
    size = positive("N", columns["N"]) if "N" in columns else np.ones_like(batch)
    started = np.isfinite(loss) & ~(step == 0)
    dropped = {"no finite loss": int((~np.isfinite(loss)).sum()), "step 0": int((step == 0).sum())}
    batch = positive("B", batch)
    positive("step", step[started])
    positive("loss", loss[started])
    label = np.asarray(columns["curve"]).astype(str) if "curve" in columns else _labels(batch, size)
    curves = []
    for name in dict.fromkeys(label[started].tolist()):
        mine = started & (label == name)
        for key, column in (("B", batch), ("N", size)):
            if np.unique(column[mine]).size > 1:
                raise BadInput(f"curve '{name}' has more than one {key}: a curve is one run at one batch and size")
        if mine.sum() >= 2:
            curves.append(_curve(name, float(batch[mine][0]), float(size[mine][0]), step[mine], loss[mine]))
    if len({c.batch for c in curves}) < LEAST_BATCHES:
        raise BadInput(
            f"{len({c.batch for c in curves})} batch size(s) with a curve; B_crit needs at least {LEAST_BATCHES}"
        )
    return curves, {reason: count for reason, count in dropped.items() if count}


def _labels(batch: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.array([f"B={b:g}" if s == 1 else f"N={s:g}, B={b:g}" for b, s in zip(batch, size, strict=True)])


def _curve(name: str, batch: float, size: float, step: np.ndarray, loss: np.ndarray) -> Curve:
    """Isotonic regression (Barlow et al. 1972) of log loss; a pooled block stands at its mean log step."""
    order = np.argsort(step, kind="stable")
    log_step, log_loss = np.log(step[order]), np.log(loss[order])
    pooled = isotonic_regression(log_loss, increasing=False)
    starts = np.asarray(pooled.blocks)
    at = np.array([log_step[a:b].mean() for a, b in pairwise(starts)])
    return Curve(name, batch, size, at, np.asarray(pooled.x)[starts[:-1]], int(step.size))


def _default_levels(curves: list[Curve], size: float, count: int) -> np.ndarray:
    """Between the lowest first loss and the loss that half of the batches, and at least three, reach."""
    mine = [c for c in curves if c.size == size]
    if len({c.batch for c in mine}) < LEAST_BATCHES:
        return np.empty(0)
    top = min(c.log_loss[0] for c in mine)
    ends = sorted(min(c.log_loss[-1] for c in mine if c.batch == b) for b in {c.batch for c in mine})
    bottom = ends[max(LEAST_BATCHES, len(ends) // 2) - 1]
    return np.exp(np.linspace(top, bottom, count + 2)[1:-1]) if bottom < top else np.empty(0)


def _fit_levels(curves: list[Curve], levels: _Levels) -> _Fits:
    """`critical_batch` at every level, on all curves and without each of them, in one solver call."""
    law, count = CriticalBatch(), len(curves)
    batch = np.array([c.batch for c in curves])
    seen = ~np.isnan(levels.steps)
    keep = np.concatenate([np.ones((1, count), bool), ~np.eye(count, dtype=bool)])
    weight = (seen[:, None, :] & keep[None]).reshape(-1, count)
    steps = np.repeat(np.where(seen, levels.steps, 1.0), count + 1, axis=0)
    starts = np.stack([law.start_points({"B": batch[w]}, s[w]) for w, s in zip(weight, steps, strict=True)])
    found = solve(law, law.objective, {"B": batch}, np.log(steps), weight.astype(float), starts).best()
    theta = found.reshape(levels.loss.size, count + 1, 2)
    log_batch = theta[..., 1]
    reaching = seen.sum(axis=1)
    spread = np.sum(np.where(seen, (log_batch[:, 1:] - log_batch[:, :1]) ** 2, 0.0), axis=1)
    stderr = np.sqrt((reaching - 1) / reaching * spread)
    outside = (log_batch[:, 0] < np.log(batch.min()) - 3) | (log_batch[:, 0] > np.log(batch.max()) + 3)
    used = (stderr <= UNDETERMINED) & ~outside
    if used.sum() < LEAST_LEVELS or np.unique(levels.loss[used]).size < 2:
        raise BadInput(
            f"B_crit is determined (to a factor e, within 20x of the batches) at {int(used.sum())} of {used.size} levels; "
            f"{LEAST_LEVELS} are needed: train batches on both sides of it"
        )
    return _Fits(theta[..., 0], log_batch, stderr, float(stats.t.ppf(0.975, count - 2)), used)


def _power_law(levels: _Levels, fits: _Fits, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """log B_star and 1/a_B with jackknife standard errors: one weighted line for every curve left out."""
    law, used = PowerLaw(), fits.used
    target = fits.log_batch[used].T
    floor = max(float(np.median(fits.stderr[used])), 1e-12)
    weight = np.broadcast_to(floor**2 / np.maximum(fits.stderr[used], floor) ** 2, target.shape)
    loss = levels.loss[used]
    center = float(np.log(loss).mean())
    starts = np.stack([law.start_points({"N": loss / np.exp(center)}, np.exp(t)) for t in target])[:, None]
    starts = starts.reshape(target.shape[0], 1, 2)
    inputs = {"N": loss / np.exp(center)}
    theta = solve(law, Objective("mse"), inputs, target, weight, starts).best()
    both = np.stack([theta[:, 0] + theta[:, 1] * center, theta[:, 1]], axis=1)
    left = both[1:]
    error = np.sqrt((count - 1) / count * np.sum((left - left.mean(axis=0)) ** 2, axis=0))
    names = ("log_B_star", "inverse")
    return dict(zip(names, both[0].tolist(), strict=True)), dict(zip(names, error.tolist(), strict=True))


def _t_interval(center: float, error: float, quantile: float) -> tuple[float, float]:
    return center - quantile * error, center + quantile * error


def _exp(pair: tuple[float, float]) -> list[float]:
    return [float(np.exp(np.clip(v, -700, 700))) for v in pair]


def _a_b_interval(low: float, high: float) -> list[float | None]:
    """Of a_B from that of 1/a_B: open above where 1/a_B may be zero."""
    return [1 / high if high > 0 else None, 1 / low if low > 0 else None]


def _level_rows(levels: _Levels, fits: _Fits) -> list[dict[str, Any]]:
    rows = []
    for k in range(levels.loss.size):
        log_steps, log_batch = float(fits.log_steps[k, 0]), float(fits.log_batch[k, 0])
        interval = _t_interval(log_batch, float(fits.stderr[k]), fits.quantile)
        rows.append(
            {
                "N": float(levels.size[k]),
                "loss": float(levels.loss[k]),
                "curves": int((~np.isnan(levels.steps[k])).sum()),
                "B_crit": float(np.exp(log_batch)),
                "ci95": _exp(interval),
                "S_min": float(np.exp(log_steps)),
                "E_min": float(np.exp(log_steps + log_batch)),
                "used": bool(fits.used[k]),
            }
        )
    return rows


def _tables(values: Mapping[str, Any]) -> tuple[Table, Table]:
    rows = [
        (r["loss"], r["curves"], r["B_crit"], *r["ci95"], r["S_min"], r["E_min"], r["used"]) for r in values["levels"]
    ]
    header = ("loss", "curves", "B_crit", "95% low", "95% high", "S_min", "E_min", "used")
    law = [(name, values[name]["value"], *values[name]["ci95"]) for name in ("B_star", "a_B", "inverse_a_B")]
    return (
        Table("B_crit(L) = B_star / L^(1/a_B)", ("parameter", "value", "95% low", "95% high"), tuple(law)),
        Table("Critical batch at each level of loss", header, tuple(rows)),
    )


def _plots(levels: _Levels, fits: _Fits, curves: list[Curve], law: Mapping[str, float]) -> tuple[Plot, Plot]:
    used, batch = fits.used, np.array([c.batch for c in curves])
    value, half = np.exp(fits.log_batch[used, 0]), np.exp(np.minimum(fits.quantile * fits.stderr[used], 50))
    line = np.geomspace(levels.loss.min(), levels.loss.max(), 50)
    layers = (
        Layer("critical batch", levels.loss[used], value, value / half, value * half),
        Layer("B_star / L^(1/a_B)", line, np.exp(law["log_B_star"] - law["inverse"] * np.log(line)), kind="line"),
    )
    title = "Critical batch against loss"
    alt = f"B_crit of {int(used.sum())} levels of loss with a power law of exponent {-law['inverse']:.2f}"
    steps: list[Layer] = []
    grid = np.geomspace(batch.min(), batch.max(), 50)
    for k in np.unique(np.linspace(0, levels.loss.size - 1, 4).astype(int)):
        seen = ~np.isnan(levels.steps[k])
        label = f"loss {levels.loss[k]:.3g}"
        steps.append(Layer(label, batch[seen], levels.steps[k][seen]))
        fitted = np.exp(fits.log_steps[k, 0]) * (1 + np.exp(fits.log_batch[k, 0]) / grid)
        steps.append(Layer(f"{label}, fit", grid, fitted, kind="line"))
    return (
        Plot("critical_batch", title, "loss", "B_crit", layers, alt=alt),
        Plot("steps_to_loss", "Steps to loss against batch", "batch", "steps", tuple(steps), alt="hyperbolas S(B)"),
    )


def _warnings(curves: list[Curve], levels: _Levels, fits: _Fits, low: float) -> list[str]:
    found = []
    if not fits.used.all():
        found.append(
            f"B_crit is not determined at {int((~fits.used).sum())} of {fits.used.size} levels, which the law leaves out"
        )
    if levels.missed:
        shown = ", ".join(f"{loss:.4g}" for loss in levels.missed[:5])
        found.append(
            f"{len(levels.missed)} level(s) left out, passed by fewer than {LEAST_BATCHES} batch sizes: {shown}"
        )
    if low <= 0:
        found.append("the interval of 1/a_B includes zero: these curves do not show that B_crit depends on the loss")
    if len(curves) < 8:
        found.append(
            f"only {len(curves)} curves: intervals are a jackknife's with Student-t tails, wide and approximate"
        )
    batch = np.array([c.batch for c in curves])
    value = np.exp(fits.log_batch[fits.used, 0])
    if value.max() > batch.max() or value.min() < batch.min():
        found.append("B_crit lies beyond the batches at some levels: there it rests on the form of the hyperbola")
    return found
