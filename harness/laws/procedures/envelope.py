"""Compute-optimal size and data from the lower envelope of training curves (approach 1 of Hoffmann et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from harness.laws.base import positive
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

CROSSINGS = 3  # without which a slope has no error
_SHOWN = 24  # curves drawn
_SHORT = "a curve of fewer points than two or the smoothing window"


@dataclass(frozen=True)
class _Curves:
    """size (K,), rising; log_loss (K, G) at log_c (G,), inf where a curve does not reach. names: (K,)."""

    names: Sequence[str]
    size: np.ndarray
    log_c: np.ndarray
    log_loss: np.ndarray


@dataclass(frozen=True)
class _Found:
    """won: (G,) size of lowest loss, NaN where no curve reaches. at_smallest, at_largest: (G,) it is the outermost there.

    log_c, log_n: (m,) crossings of the curves of two sizes on the envelope, by rising size.
    """

    won: np.ndarray
    at_smallest: np.ndarray
    at_largest: np.ndarray
    log_c: np.ndarray
    log_n: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        return ~np.isnan(self.won) & ~self.at_smallest & ~self.at_largest

    def line(self) -> np.ndarray:
        """Least-squares slope and intercept (2,) of log N* on log C."""
        return np.polyfit(self.log_c, self.log_n, 1)


@PROCEDURES.register("envelope")
@dataclass(frozen=True)
class Envelope(Procedure):
    """N* ~ C^a and D* ~ C^b from the lower envelope of training curves.  Hoffmann et al. 2022 (arXiv:2203.15556), approach 1.

    Columns: N parameters, D tokens so far, loss; curve names the run (else one run a size). Each curve is smoothed by a moving
    mean of log loss over `smooth` points and interpolated in log C, C = flops_per N D. At each of `levels` log-spaced compute
    budgets the run of lowest loss wins. Where one size takes over from another the optimum lies between them: the exponent is
    that of the line through these crossings at (C, geometric mean of the two sizes) (own: a line through the winners of all
    budgets, the paper's, is too flat by 1/k^2 for a stair of k equal steps, and reported as "stair_exponent", without budgets
    that the smallest or largest size present wins). D* = C / (flops_per N*). Intervals leave out each size in turn
    (delete-one-group jackknife, Student t).

    A point before the end of a run counts as if training had stopped there: true at a constant learning rate, not under a
    decaying one (Hoffmann et al., section 3.1: use runs of several horizons, which then are several curves). The minimum over
    noisy curves also prefers lucky ones; approaches 2 (isoflop) and 3 (law=chinchilla) are less biased.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "D", "loss")
    optional: ClassVar[tuple[str, ...]] = ("curve",)
    text: ClassVar[tuple[str, ...]] = ("curve",)

    levels: int = 500
    smooth: int = 1
    flops_per: float = 6.0

    def __post_init__(self) -> None:
        if self.levels < 20 or self.smooth < 1 or not self.flops_per > 0:
            raise BadInput("levels must be at least 20, smooth at least 1 and flops_per positive")

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        """Estimate from columns (n,) each. Raises BadInput where fewer than three pairs of curves cross on the envelope."""
        curves, dropped = self._curves(columns)
        found = _envelope(curves, np.ones(curves.size.size, bool))
        if found.log_c.size < CROSSINGS:
            raise BadInput(
                f"the curves of {found.log_c.size} pair(s) of sizes cross on the envelope (the smallest size present has the "
                f"lowest loss at {found.at_smallest.sum()}, the largest at {found.at_largest.sum()} of {curves.log_c.size} "
                f"budgets); an exponent needs {CROSSINGS}: add sizes, train them longer, or fit law=chinchilla"
            )
        left_out = _left_out(curves)
        values = self._values(curves, found, left_out)
        return Estimate(
            procedure=self.name,
            n=int(np.asarray(columns["N"]).size - sum(dropped.values())),
            values=values,
            tables=(_exponent_table(values), _crossing_table(found, self.flops_per)),
            plots=(_curve_plot(curves, found), _optimum_plot(curves, found, left_out)),
            warnings=tuple(_warnings(curves, found)),
            dropped=dropped,
        )

    def _curves(self, columns: Mapping[str, np.ndarray]) -> tuple[_Curves, dict[str, int]]:
        """The smoothed curves on a common grid of log C, and reason -> rows left out."""
        size, data, loss = (positive(name, np.asarray(columns[name])) for name in ("N", "D", "loss"))
        label = np.asarray(columns.get("curve", size)).astype(str)
        pieces, short = [], 0
        for name in np.unique(label):
            rows = np.flatnonzero(label == name)
            rows = rows[np.argsort(data[rows], kind="stable")]
            _check_curve(str(name), size[rows], data[rows])
            if rows.size < max(2, self.smooth + 1):
                short += rows.size
                continue
            log_c, log_loss = np.log(self.flops_per * size[rows] * data[rows]), np.log(loss[rows])
            window = np.full(self.smooth, 1 / self.smooth)
            smoothed = (np.convolve(log_c, window, "valid"), np.convolve(log_loss, window, "valid"))
            pieces.append((float(size[rows[0]]), str(name), *smoothed))
        if len({piece[0] for piece in pieces}) <= CROSSINGS:
            raise BadInput(
                f"an envelope needs training curves (several D each) of at least {CROSSINGS + 1} sizes; for final losses only, "
                "use isoflop or law=chinchilla"
            )
        pieces.sort(key=lambda piece: piece[:2])
        ends = [piece[2][[0, -1]] for piece in pieces]
        grid = np.linspace(min(e[0] for e in ends), max(e[1] for e in ends), self.levels)
        values = np.stack([np.interp(grid, x, y, left=np.inf, right=np.inf) for _, _, x, y in pieces])
        curves = _Curves([p[1] for p in pieces], np.array([p[0] for p in pieces]), grid, values)
        return curves, {_SHORT: short} if short else {}

    def _values(self, curves: _Curves, found: _Found, left_out: np.ndarray) -> dict[str, Any]:
        slope, intercept = found.line().tolist()
        stderr = float(_jackknife(left_out[:, 0]))
        half = _tail(left_out) * stderr
        stair = _stair(curves, found)
        coefficients = {"N": np.exp(intercept), "D": np.exp(-intercept) / self.flops_per}
        values: dict[str, Any] = {}
        for name, exponent, flat in (("N", slope, stair), ("D", 1 - slope, None if stair is None else 1 - stair)):
            values[name] = {
                "exponent": exponent,
                "stderr": stderr,
                "ci95": [exponent - half, exponent + half],
                "coefficient": float(coefficients[name]),
                "stair_exponent": flat,
            }
        return {
            **values,
            "crossings": [
                {"C": float(c), "N": float(n), "D": float(c / (self.flops_per * n))}
                for c, n in zip(np.exp(found.log_c), np.exp(found.log_n), strict=True)
            ],
            "budgets": {
                "all": int(found.won.size),
                "smallest size wins": int(found.at_smallest.sum()),
                "largest size wins": int(found.at_largest.sum()),
            },
            "curves": len(curves.names),
        }


def _check_curve(name: str, size: np.ndarray, data: np.ndarray) -> None:
    if np.unique(size).size > 1:
        raise BadInput(f"curve '{name}' has several N ({size.min():g} to {size.max():g}): one run has one size")
    if np.any(np.diff(data) == 0):
        raise BadInput(
            f"curve '{name}' repeats D = {data[np.flatnonzero(np.diff(data) == 0)[0]]:g}: several runs of one size need a "
            "column that names them (columns.curve)"
        )


def _envelope(curves: _Curves, chosen: np.ndarray) -> _Found:
    """Winners and crossings among the `chosen` (K,) curves.

    A crossing counts where both curves reach both neighbouring budgets (not where a curve begins or ends); several of one
    pair of sizes, by noise, are averaged.
    """
    size = curves.size[chosen]
    loss = curves.log_loss[chosen]
    present = np.isfinite(loss)
    winner = loss.argmin(axis=0)
    won = np.where(present.any(axis=0), size[winner], np.nan)
    column = size[:, None]
    smallest, largest = np.where(present, column, np.inf).min(axis=0), np.where(present, column, 0.0).max(axis=0)
    at = np.flatnonzero(won[1:] != won[:-1])
    both = present[winner[at], at + 1] & present[winner[at + 1], at]
    at = at[both]
    pairs = np.sort(np.stack([won[at], won[at + 1]], axis=1), axis=1).reshape(-1, 2)
    distinct, group = np.unique(pairs, axis=0, return_inverse=True)
    group = group.ravel()
    middle = (curves.log_c[at] + curves.log_c[at + 1]) / 2
    log_c = np.bincount(group, middle, len(distinct)) / np.bincount(group, minlength=len(distinct))
    return _Found(won, won == smallest, won == largest, log_c, np.log(distinct).mean(axis=1))


def _stair(curves: _Curves, found: _Found) -> float | None:
    """Slope through the winners of all budgets inside the sizes, None where one size wins them all."""
    won = found.won[found.inside]
    if np.unique(won).size < 2:
        return None
    return float(np.polyfit(curves.log_c[found.inside], np.log(won), 1)[0])


def _left_out(curves: _Curves) -> np.ndarray:
    """(sizes, 2) lines without each size in turn. Raises BadInput where a single size decides whether there is a line."""
    lines = []
    for size in np.unique(curves.size):
        found = _envelope(curves, curves.size != size)
        if found.log_c.size < 2:
            raise BadInput(
                f"without N = {size:g} fewer than two pairs of curves cross on the envelope, so the exponent has no honest "
                "interval: add sizes or fit law=chinchilla"
            )
        lines.append(found.line())
    return np.array(lines)


def _jackknife(left_out: np.ndarray) -> np.ndarray:
    """Standard error from leave-one-out values, (K, ...)."""
    count = left_out.shape[0]
    return np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean(axis=0)) ** 2, axis=0))


def _tail(left_out: np.ndarray) -> float:
    return float(stats.t.ppf(0.975, left_out.shape[0] - 1))


def _warnings(curves: _Curves, found: _Found) -> list[str]:
    said = []
    sizes = np.unique(curves.size).size
    if sizes < 6:
        said.append(f"only {sizes} sizes: the jackknife's interval is rough")
    if np.any(np.diff(found.log_c) <= 0):
        said.append(
            "the crossings are out of order: a larger size takes over before a smaller one; raise smooth or add seeds"
        )
    edge = int(found.at_smallest.sum() + found.at_largest.sum())
    if edge > found.won.size / 2:
        said.append(
            f"the smallest or largest size present has the lowest loss at {edge} of {found.won.size} budgets: the sizes do not "
            "bracket the optimum there"
        )
    return said


def _exponent_table(values: Mapping[str, Any]) -> Table:
    rows = [
        (f"{q}* ~ C^", values[q]["exponent"], *values[q]["ci95"], values[q]["coefficient"], values[q]["stair_exponent"])
        for q in ("N", "D")
    ]
    header = ("law", "exponent", "low", "high", "coefficient", "exponent by all budgets")
    return Table("Exponents of the envelope", header, tuple(rows))


def _crossing_table(found: _Found, flops_per: float) -> Table:
    rows = [(c, n, c / (flops_per * n)) for c, n in zip(np.exp(found.log_c), np.exp(found.log_n), strict=True)]
    return Table("Where one size takes over from another", ("C", "N*", "D*"), tuple(rows))


def _curve_plot(curves: _Curves, found: _Found) -> Plot:
    layers = []
    for i in np.unique(np.linspace(0, curves.size.size - 1, _SHOWN).astype(int)):
        there = np.isfinite(curves.log_loss[i])
        x, y = np.exp(curves.log_c[there]), np.exp(curves.log_loss[i, there])
        layers.append(Layer(f"N = {curves.size[i]:.3g}", x, y, kind="line"))
    lowest = np.exp(np.interp(found.log_c, curves.log_c, curves.log_loss.min(axis=0)))
    layers.append(Layer("one size takes over", np.exp(found.log_c), lowest))
    caption = "Training curves over compute, and where one size takes over from another on their lower envelope."
    return Plot(
        "envelope", "Training curves and their envelope", "FLOPs", "loss", tuple(layers), caption=caption, alt=caption
    )


def _optimum_plot(curves: _Curves, found: _Found, left_out: np.ndarray) -> Plot:
    x = np.linspace(found.log_c.min() - 0.7, found.log_c.max() + 2.3, 40)
    y = np.polyval(found.line(), x)
    half = _tail(left_out) * _jackknife(np.stack([np.polyval(line, x) for line in left_out]))
    inside = found.inside
    layers = (
        Layer("winner of each budget", np.exp(curves.log_c[inside]), found.won[inside]),
        Layer("crossing", np.exp(found.log_c), np.exp(found.log_n)),
        Layer("N* ~ C^a", np.exp(x), np.exp(y), np.exp(y - half), np.exp(y + half), kind="line"),
    )
    caption = "Crossings of neighbouring sizes and their log-log line; the band is 95% by leaving out sizes in turn."
    return Plot("optimum", "Compute-optimal size", "FLOPs", "N*", layers, caption=caption, alt=caption)
