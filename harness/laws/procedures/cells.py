"""Cells of runs that differ in their knobs only (learning rate, batch), and where each cell's optimum lies.

Everything is in logarithms: a knob's coordinate is log(knob), losses are log losses, so an excess of 0.01 is 1%.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import QhullError

from harness.laws.base import positive
from workloads.base import BadInput

DISTINCT = 3  # values of each knob, without which a cell has no inner optimum
SPARE = 2  # points beyond the coefficients of the parabola
WIDENINGS = 3  # doublings of the window in search of enough points
ILL_CONDITIONED = 1e3  # of the design in scaled coordinates; regular grids have 4-10
SHEAR = 1e-3  # of log knobs: breaks the ties of a grid, moves nothing else
RESOLVED = 2.0  # curvature in standard errors below which noise hides the optimum


class NoOptimum(ValueError):
    """Why a cell, or its parabola, gives no optimum."""


@dataclass(frozen=True)
class Cell:
    """Runs of one setting of the scales (N, D).

    x: (m, k) log knobs of distinct runs; y: (m,) log loss, the mean over repeated runs. low, high: (k,) of the swept
    range, diverged runs included: an optimum beside a diverged run is not at an edge. runs: before averaging.
    """

    scales: Mapping[str, float]
    knobs: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int
    diverged: int

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value:.4g}" for name, value in self.scales.items())


@dataclass(frozen=True)
class Parabola:
    """y = value + (x - vertex)' hessian (x - vertex) / 2, fitted to `points` runs within `window` of the cell's best.

    covariance: (k, k) of the vertex (delta method); sigma: residual standard deviation of log loss.
    coef: (P,) by `terms` of (x - center) / scale, of the points `inside` (m,).
    """

    vertex: np.ndarray
    hessian: np.ndarray
    covariance: np.ndarray
    sigma: float
    window: float
    points: int
    inside: np.ndarray
    center: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Optimum:
    """Where a cell is best: near (k,), the mean of the `near_runs` near-optimal runs, and the parabola's vertex.

    truncated: knobs at whose swept edge the near-optimal set ends. why: without a parabola, the reason.
    """

    cell: Cell
    near: np.ndarray
    near_runs: int
    truncated: tuple[str, ...]
    surface: Surface
    parabola: Parabola | None
    why: str = ""


@dataclass(frozen=True)
class Optima:
    """The cells that have an optimum, those refused (scales and reason), and rows left out by reason."""

    found: tuple[Optimum, ...]
    refused: tuple[tuple[Cell, str], ...]
    n: int
    dropped: Mapping[str, int] = field(default_factory=dict)


def find_cells(columns: Mapping[str, np.ndarray], scales: Sequence[str], knobs: Sequence[str]) -> list[Cell]:
    """Cells are the distinct values of the scales. A loss that is not finite is a diverged run.

    Raises BadInput on scales, knobs or finite losses that are not positive, and on a table without finite loss.
    """
    numbers = {name: positive(name, columns[name]) for name in (*scales, *knobs)}
    loss = np.asarray(columns["loss"], np.float64)
    finite = np.isfinite(loss)
    if not finite.any():
        raise BadInput("no run has a finite loss")
    positive("loss", loss[finite])
    labels, member = np.unique(np.stack([numbers[s] for s in scales], axis=1), axis=0, return_inverse=True)
    x = np.log(np.stack([numbers[k] for k in knobs], axis=1))
    cells = []
    for i, label in enumerate(labels):
        mine = member.reshape(-1) == i
        named = dict(zip(scales, label.tolist(), strict=True))
        cells.append(_cell(named, tuple(knobs), x[mine], loss[mine]))
    return cells


def _cell(scales: Mapping[str, float], knobs: tuple[str, ...], x: np.ndarray, loss: np.ndarray) -> Cell:
    finite = np.isfinite(loss)
    points, member = np.unique(x[finite], axis=0, return_inverse=True)
    y = np.bincount(member.reshape(-1), np.log(loss[finite])) / np.bincount(member.reshape(-1))
    return Cell(scales, knobs, points, y, x.min(axis=0), x.max(axis=0), int(finite.sum()), int((~finite).sum()))


def find_optima(cells: Sequence[Cell], tolerance: float, window: float) -> Optima:
    """The optimum of each cell, or the reason why it has none.

    tolerance: relative excess loss of near-optimal runs (0.0025); window: of those that the parabola sees (0.01).
    Raises BadInput on a tolerance or window outside (0, 1).
    """
    for name, value in (("tolerance", tolerance), ("window", window)):
        if not 0 < value < 1:
            raise BadInput(f"{name}={value} is a relative excess loss between 0 and 1, e.g. 0.01")
    found, refused = [], []
    for cell in cells:
        try:
            found.append(find_optimum(cell, tolerance, window))
        except NoOptimum as why:
            refused.append((cell, str(why)))
    return Optima(
        tuple(found),
        tuple(refused),
        sum(o.cell.runs for o in found),
        {
            key: count
            for key, count in {
                "diverged (no finite loss)": sum(c.diverged for c in cells),
                "in a cell without an optimum": sum(c.runs for c, _ in refused),
            }.items()
            if count
        },
    )


def find_optimum(cell: Cell, tolerance: float, window: float) -> Optimum:
    """Raises NoOptimum where a knob was not swept, the runs lie on a line, or the best one at the edge of the sweep."""
    for j, knob in enumerate(cell.knobs):
        values = np.unique(cell.x[:, j]).size
        if values < DISTINCT:
            raise NoOptimum(f"{values} value(s) of {knob}: sweep at least {DISTINCT}")
    best = cell.x[cell.y.argmin()]
    for j, knob in enumerate(cell.knobs):
        if best[j] in (cell.low[j], cell.high[j]):
            end = "smallest" if best[j] == cell.low[j] else "largest"
            raise NoOptimum(f"the best run has the {end} {knob} ({np.exp(best[j]):.4g}): widen the sweep")
    inside = cell.y <= cell.y.min() + np.log1p(tolerance)
    near = cell.x[inside]
    edges = (near.min(axis=0) <= cell.low) | (near.max(axis=0) >= cell.high)
    truncated = tuple(k for k, at_edge in zip(cell.knobs, edges, strict=True) if at_edge)
    try:
        parabola, why = fit_parabola(cell, window), ""
    except NoOptimum as reason:
        parabola, why = None, str(reason)
    return Optimum(cell, near.mean(axis=0), int(inside.sum()), truncated, Surface(cell), parabola, why)


def terms(u: np.ndarray) -> np.ndarray:
    """(..., P) monomials of u (..., k): 1, u_i, u_i u_j with i <= j."""
    pairs = combinations_with_replacement(range(u.shape[-1]), 2)
    return np.stack(
        [np.ones(u.shape[:-1]), *np.moveaxis(u, -1, 0), *(u[..., i] * u[..., j] for i, j in pairs)], axis=-1
    )


def split(coef: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (..., k) at zero and Hessian (..., k, k) of the polynomial coef (..., P) of `terms`."""
    hessian = np.zeros((*coef.shape[:-1], k, k))
    for column, (i, j) in enumerate(combinations_with_replacement(range(k), 2), start=k + 1):
        hessian[..., i, j] += coef[..., column]
        hessian[..., j, i] += coef[..., column]
    return coef[..., 1 : k + 1], hessian


def fit_parabola(cell: Cell, window: float) -> Parabola:
    """Least squares on the runs within `window` excess log loss, doubled until they are enough.

    No ridge: where the runs do not determine the parabola there is none. Raises NoOptimum: too few runs, an
    ill-conditioned design, no minimum, curvature within noise, or a vertex outside the runs that were fitted.
    """
    inside = _window(cell, window)
    x, y = cell.x[inside], cell.y[inside]
    center, k = x.mean(axis=0), x.shape[1]
    scale = x.std(axis=0)
    design = terms((x - center) / scale)
    if np.linalg.cond(design) > ILL_CONDITIONED:
        raise NoOptimum("the runs near the best one do not span a parabola: sweep the knobs as a grid")
    coef = np.linalg.lstsq(design, y, rcond=None)[0]
    dof = y.size - coef.size
    sigma2 = float(np.sum((y - design @ coef) ** 2)) / dof
    inverse = np.linalg.inv(design.T @ design)
    gradient, hessian = split(coef, k)
    _check_curvature(hessian, inverse * sigma2)
    vertex = -np.linalg.solve(hessian, gradient)
    slope = np.stack([_slope(vertex, i) for i in range(k)])
    rows = np.linalg.solve(hessian, slope)
    at = center + vertex * scale
    if np.any(at < x.min(axis=0)) or np.any(at > x.max(axis=0)):
        raise NoOptimum("the parabola's vertex lies outside the runs near the best one: widen the sweep")
    return Parabola(
        vertex=at,
        hessian=hessian / np.outer(scale, scale),
        covariance=rows @ inverse @ rows.T * sigma2 * np.outer(scale, scale),
        sigma=float(np.sqrt(sigma2)),
        window=float(y.max() - cell.y.min()),
        points=int(y.size),
        inside=inside,
        center=center,
        scale=scale,
    )


def _window(cell: Cell, window: float) -> np.ndarray:
    k = cell.x.shape[1]
    needed = 1 + k + k * (k + 1) // 2 + SPARE
    for doubling in range(WIDENINGS + 1):
        inside = cell.y <= cell.y.min() + window * 2**doubling
        swept = min(np.unique(cell.x[inside, j]).size for j in range(k))
        if inside.sum() >= needed and swept >= DISTINCT:
            return inside
    reach = window * 2**WIDENINGS
    raise NoOptimum(
        f"{int(inside.sum())} runs within {reach:.0%} of the best; a parabola needs {needed}, with {DISTINCT} values "
        "of each knob: sweep more finely around it"
    )


def _check_curvature(hessian: np.ndarray, covariance: np.ndarray) -> None:
    values, vectors = np.linalg.eigh(hessian)
    if values[0] <= 0:
        raise NoOptimum("the loss has no minimum in the knobs: widen the sweep")
    k, least = hessian.shape[0], vectors[:, 0]
    row = np.zeros(covariance.shape[0])
    for column, (i, j) in enumerate(combinations_with_replacement(range(k), 2), start=k + 1):
        row[column] = 2 * least[i] * least[j]
    if values[0] < RESOLVED * np.sqrt(row @ covariance @ row):
        raise NoOptimum("noise hides the curvature around the optimum: add runs or widen the window")


def _slope(u: np.ndarray, i: int) -> np.ndarray:
    """(P,) derivative of `terms` at u (k,) by u_i."""
    k = u.size
    row = np.zeros(1 + k + k * (k + 1) // 2)
    row[1 + i] = 1.0
    for column, (a, b) in enumerate(combinations_with_replacement(range(k), 2), start=k + 1):
        row[column] = (a == i) * u[b] + (b == i) * u[a]
    return row


class Surface:
    """A cell's log loss at any knobs, linear between its runs: no model, and no smoothing of the runs' noise.

    One knob: straight lines between neighbours. More: the mean of two Delaunay triangulations in log knobs, sheared slightly
    to either side, because the four corners of a grid's rectangle lie on one circle and rounding would choose its diagonal.
    Raises NoOptimum where all runs lie on one line.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        k = cell.x.shape[1]
        self._shears = [np.eye(k) + side * SHEAR * np.triu(np.ones((k, k)), 1) for side in (-1, 1)] if k > 1 else []
        try:
            self._linear = [LinearNDInterpolator(cell.x @ shear, cell.y) for shear in self._shears]
        except QhullError as error:
            raise NoOptimum("the runs lie on a line: sweep the knobs as a grid") from error

    def excess(self, at: np.ndarray) -> np.ndarray:
        """(q,) excess log loss over the cell's best run at log knobs `at` (q, k), NaN outside the runs."""
        if at.shape[1] > 1:
            pairs = zip(self._linear, self._shears, strict=True)
            return np.mean([linear(at @ shear) for linear, shear in pairs], axis=0) - self.cell.y.min()
        x = self.cell.x[:, 0]  # sorted, by np.unique
        return np.interp(at[:, 0], x, self.cell.y, left=np.nan, right=np.nan) - self.cell.y.min()


def resample_runs(
    optimum: Optimum, tolerance: float, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both optima, (draws, k) each, of the cell's runs drawn with replacement; NaN where a draw has none.

    The parabola keeps its window: it is chosen once, by the cell's best run.
    """
    cell = optimum.cell
    times = rng.multinomial(cell.y.size, np.full(cell.y.size, 1 / cell.y.size), size=draws)
    lowest = np.where(times > 0, cell.y, np.inf).min(axis=1, keepdims=True)
    weight = times * (cell.y <= lowest + np.log1p(tolerance))
    near = weight @ cell.x / weight.sum(axis=1, keepdims=True)
    if optimum.parabola is None:
        return near, np.full_like(near, np.nan)
    return near, _vertices(cell, optimum.parabola, times)


def _vertices(cell: Cell, parabola: Parabola, times: np.ndarray) -> np.ndarray:
    inside = parabola.inside
    design = terms((cell.x[inside] - parabola.center) / parabola.scale)
    weight = times[:, inside]
    gram = np.einsum("bm,mp,mq->bpq", weight, design, design)
    moment = np.einsum("bm,mp->bp", weight * cell.y[inside], design)
    coef = np.full(moment.shape, np.nan)
    solvable = np.linalg.cond(gram) < ILL_CONDITIONED**2
    coef[solvable] = np.linalg.solve(gram[solvable], moment[solvable][..., None])[..., 0]
    gradient, hessian = split(coef, cell.x.shape[1])
    least = np.full(coef.shape[0], np.nan)
    least[solvable] = np.linalg.eigvalsh(hessian[solvable])[:, 0]
    vertex = np.full(gradient.shape, np.nan)
    bowl = least > 0
    vertex[bowl] = -np.linalg.solve(hessian[bowl], gradient[bowl][..., None])[..., 0]
    at = parabola.center + vertex * parabola.scale
    usable = np.all((at >= cell.low) & (at <= cell.high), axis=1)
    return np.where(usable[:, None], at, np.nan)
