"""The pictures of a fitted law, as plain data: points with fit and band, residuals, contours, profiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.laws.allocation import allocate
from harness.laws.fitting.fit import Fit
from harness.laws.plots import Contour, Layer, Plot
from workloads.base import BadInput

_SMOOTH = 64  # points of a drawn line
_CONTOUR = 48
_GROUPS = 6  # lines of a two-column law: levels of the second column
_OPTIMAL = "compute-optimal (6ND)"


def plots_of(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> tuple[Plot, ...]:
    """Pictures of `fit` to the points columns (n,) and observed (n,)."""
    law = fit.law
    shapes = {1: _one_size, 2: _two_columns}
    draw = _whole_curves if law.whole_curves else shapes.get(len(law.inputs), _against_prediction)
    first = draw(fit, columns, observed)
    return (*first, _residuals(fit, columns, observed), *_profiles(fit))


def _one_size(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> tuple[Plot, ...]:
    (name,), response = fit.law.inputs, fit.law.response
    x = columns[name]
    line = np.geomspace(x.min() / 1.3, x.max() * 4, _SMOOTH)
    drawn = fit.predict({name: line})
    layers = (
        Layer(f"{fit.law.name}, 95% for a new point", line, drawn.mean, drawn.low, drawn.high, "line"),
        Layer("observed", x, observed),
    )
    caption = f"{response} against {name} with the fitted law; the band holds a new point with 95%."
    return (
        Plot(
            "fit",
            f"{fit.law.name}: {response} against {name}",
            name,
            response,
            layers,
            caption=caption,
            alt=f"{caption} {observed.size} points from {x.min():.3g} to {x.max():.3g}.",
        ),
    )


def _two_columns(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> tuple[Plot, ...]:
    pictures = [_slices(fit, columns, observed)]
    if fit.law.inputs == ("N", "D"):
        pictures.append(_contour(fit, columns, observed))
    return tuple(pictures)


def _slices(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> Plot:
    """Response against the second column, one line for each of a few levels of the first."""
    first, second = fit.law.inputs
    a, b = columns[first], columns[second]
    levels = np.unique(a)
    if levels.size > _GROUPS:
        levels = np.unique(np.quantile(a, (np.arange(_GROUPS) + 0.5) / _GROUPS, method="nearest"))
    nearest = np.argmin(np.abs(np.log(a)[:, None] - np.log(levels)), axis=1)
    layers = []
    for i, level in enumerate(levels):
        mine = nearest == i
        close = mine & (np.abs(np.log(a / level)) < 0.1)
        line = np.geomspace(b[mine].min() / 1.3, b[mine].max() * 2, _SMOOTH)
        drawn = fit.predict({first: np.full(_SMOOTH, level), second: line})
        label = f"{first} = {level:.3g}"
        layers.append(Layer(label, line, drawn.mean, drawn.low, drawn.high, "line"))
        layers.append(Layer(label, b[close], observed[close]))
    caption = (
        f"{fit.law.response} against {second} at some levels of {first}; points within 10% of a level are drawn with it, "
        "bands hold a new point with 95%."
    )
    title = f"{fit.law.name}: {fit.law.response} against {second}"
    return Plot("fit", title, second, fit.law.response, tuple(layers), caption=caption, alt=caption)


def _contour(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> Plot:
    x = np.geomspace(columns["N"].min() / 2, columns["N"].max() * 4, _CONTOUR)
    y = np.geomspace(columns["D"].min() / 2, columns["D"].max() * 4, _CONTOUR)
    mesh = np.meshgrid(x, y)
    z = fit.mean({"N": mesh[0].ravel(), "D": mesh[1].ravel()}).reshape(_CONTOUR, _CONTOUR)
    layers = [Layer("observed", columns["N"], columns["D"])]
    best = _optimal_line(fit, x, y)
    if best[0].size > 1:
        layers.append(Layer(_OPTIMAL, *best, kind="line"))
    caption = (
        f"Level lines of the fitted {fit.law.response}; along the compute-optimal line it is lowest for its 6ND FLOPs."
    )
    return Plot(
        "contour",
        "Level lines",
        "N",
        "D",
        tuple(layers),
        Contour(x, y, z, fit.law.response),
        caption=caption,
        alt=caption,
    )


def _optimal_line(fit: Fit, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) of lowest loss for each of some compute budgets, where they lie within the picture."""
    compute = np.geomspace(6 * x[0] * y[0], 6 * x[-1] * y[-1], _CONTOUR)
    try:
        best = allocate(fit.without_refits(), compute)
    except BadInput:  # the fitted loss falls all the way to one edge: there is no such line
        return np.empty(0), np.empty(0)
    inside = (x[0] <= best.N) & (x[-1] >= best.N) & (y[0] <= best.D) & (y[-1] >= best.D)
    return best.N[inside], best.D[inside]


def _whole_curves(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> tuple[Plot, ...]:
    """Observed and fitted response along each curve."""
    labels, step = np.asarray(columns["curve"]), np.asarray(columns["step"], np.float64)
    layers = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(step[rows])]
        layers.append(Layer(str(label), step[rows], observed[rows]))
        layers.append(Layer(f"{label}, fit", step[rows], fit.losses[rows], kind="line"))
    response = fit.law.response
    caption = f"Observed {response} (points) and the fitted law (lines) along each curve."
    title = f"{fit.law.name}: {response} against step"
    return (Plot("fit", title, "step", response, tuple(layers), log_x=False, caption=caption, alt=caption),)


def _against_prediction(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> tuple[Plot, ...]:
    ends = np.array([min(observed.min(), fit.losses.min()), max(observed.max(), fit.losses.max())])
    layers = (Layer("fitted = observed", ends, ends, kind="line"), Layer("points", fit.losses, observed))
    response = fit.law.response
    caption = f"Observed against fitted {response}; on the line the law is exact."
    return (
        Plot(
            "fit", f"{fit.law.name}: {response}", f"fitted {response}", response, layers, caption=caption, alt=caption
        ),
    )


def _residuals(fit: Fit, columns: Mapping[str, np.ndarray], observed: np.ndarray) -> Plot:
    name = "step" if fit.law.whole_curves else fit.law.inputs[0]
    relative = 100 * np.log(observed / fit.losses)
    x = np.asarray(columns[name], np.float64)
    ends = np.array([x.min(), x.max()])
    groups = [Layer("points", x, relative)]
    if fit.law.whole_curves:
        curves = np.asarray(columns["curve"])
        groups = [Layer(str(c), x[curves == c], relative[curves == c]) for c in np.unique(curves)]
    far = fit.residuals["far"]
    marked = (Layer("more than 6 robust sd off", x[far], relative[far]),) if far else ()
    caption = "Residuals of the fit in percent of the observed value. Patterns mean that the law misses a shape."
    return Plot(
        "residuals",
        "Residuals",
        name,
        "log(observed / fitted), %",
        (Layer("zero", ends, np.zeros(2), kind="line"), *groups, *marked),
        log_y=False,
        caption=caption,
        alt=f"{caption} Root mean square {np.sqrt(np.mean(relative**2)):.2g} %.",
    )


def _profiles(fit: Fit) -> tuple[Plot, ...]:
    plots = []
    for name, found in fit.profile.items():
        x, y = np.array(found["values"]), np.array(found["objective"])
        low, high = found["ci95"]
        shown = y <= 20 * fit.objective
        layers = (
            Layer("objective, other parameters refitted", x[shown], y[shown], kind="line"),
            Layer("95% interval", np.array([low, high]), np.interp([low, high], x, y)),
        )
        caption = f"Profile of {name}: how much worse the best fit gets when {name} is held."
        plots.append(
            Plot(
                f"profile_{name}", f"Profile of {name}", name, "objective", layers, log_x=False, log_y=False,
                caption=caption, alt=f"{caption} 95% interval {low:.4g} to {high:.4g}.",
            )
        )  # fmt: skip
    return tuple(plots)
