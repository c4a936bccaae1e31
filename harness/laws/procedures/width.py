"""Best learning rate and loss at each width, and how they move with width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import stats

from harness.laws.base import positive
from harness.laws.fitting.fit import Fit, fit
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLaw, PowerLawOffset
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

WINDOW = float(np.log(1.05))  # excess log loss up to which a parabola describes a basin
RESOLVED = 2.0  # curvature in standard errors below which noise hides the optimum


class Parabola(NamedTuple):
    """Least squares at one width: coef (P,) = seed levels, slope, curvature of log loss in u = log lr - pivot."""

    coef: np.ndarray
    inverse: np.ndarray
    pivot: float
    squares: float
    dof: int
    seeds: int


class Optimum(NamedTuple):
    """Best log learning rate and the log loss there, with standard errors."""

    log_lr: float
    log_lr_stderr: float
    log_loss: float
    log_loss_stderr: float


@PROCEDURES.register("width")
@dataclass(frozen=True)
class Width(Procedure):
    """Best learning rate of each width and the loss there, each as a law of width.

    columns: width, lr, loss; seed: repeats (their levels are fixed effects). At each width a parabola in log lr of the log
    losses within 5% of the best, with one noise level over all widths; then lr = A width^-alpha (`power_law`) and the loss
    (`power_law_offset`, or `power_law` at three widths) with these errors as weights. A width whose best lr lies at the edge
    of its grid, or whose curvature is hidden by noise, is left out and named.  Own; the finer local model with asymmetry
    and equivalence verdicts is `harness.transfer`.
    """

    columns: ClassVar[tuple[str, ...]] = ("width", "lr", "loss")
    optional: ClassVar[tuple[str, ...]] = ("seed",)

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        width, lr, loss = (positive(name, columns[name]) for name in self.columns)
        seed = np.asarray(columns["seed"]) if "seed" in columns else np.zeros_like(width)
        parabolas, reasons, counts = {}, {}, {}
        for w in np.unique(width):
            rows = width == w
            try:
                parabolas[float(w)] = parabola(np.log(lr[rows]), np.log(loss[rows]), seed[rows])
            except BadInput as why:
                reasons[float(w)], counts[float(w)] = str(why), int(rows.sum())
        optima, dof = resolve(parabolas, reasons)
        for w in set(parabolas) - set(optima):
            counts[w] = int(np.sum(width == w))
        if len(optima) < 3:
            told = "; ".join(f"width {w:g}: {why}" for w, why in sorted(reasons.items()))
            raise BadInput(f"only {len(optima)} widths have an optimum inside their grid, 3 are needed. {told}")
        rate_law, loss_law = _laws(optima, dof, settings)
        half = stats.t.ppf(0.975, dof)
        found = [_entry(w, best, half) for w, best in optima.items()]
        values = {
            "widths": found,
            "lr_exponent": -rate_law.params["alpha"],
            "lr_exponent_ci95": sorted(-v for v in rate_law.ci95["alpha"]),
            "loss_law": loss_law.law.name,
            "loss": dict(loss_law.params),
            "left_out": {f"{w:g}": why for w, why in sorted(reasons.items())},
        }
        rows_shown = tuple((e["width"], e["lr"], *e["lr_ci95"], e["loss"], *e["loss_ci95"]) for e in found)
        header = ("width", "best lr", "low", "high", "loss there", "low", "high")
        warnings = [f"width {w:g} left out: {why}" for w, why in sorted(reasons.items())]
        return Estimate(
            self.name,
            loss.size,
            values,
            (Table("Best learning rate and loss by width", header, rows_shown),),
            (_plot("lr", "best learning rate", found, rate_law), _plot("loss", "loss", found, loss_law)),
            {"learning rate": rate_law, "loss": loss_law},
            (*warnings, *rate_law.warnings, *loss_law.warnings),
            {f"width {w:g}: {reasons[w]}": n for w, n in counts.items()},
        )


def parabola(log_lr: np.ndarray, log_loss: np.ndarray, seed: np.ndarray) -> Parabola:
    """The parabola through one width's runs, (n,). Raises BadInput where the best lr is at an edge or rates are too few."""
    rates = np.unique(log_lr)
    mean = np.array([log_loss[log_lr == r].mean() for r in rates])
    best = int(mean.argmin())
    if rates.size < 3:
        raise BadInput(f"{rates.size} learning rates; a minimum takes at least 3")
    if best in (0, rates.size - 1):
        raise BadInput(f"the best lr {np.exp(rates[best]):.3g} is at the edge of the grid: widen it")
    inside = mean <= mean[best] + WINDOW
    inside[best - 1 : best + 2] = True
    first, last = best, best
    while first > 0 and inside[first - 1]:
        first -= 1
    while last < rates.size - 1 and inside[last + 1]:
        last += 1
    rows = (log_lr >= rates[first]) & (log_lr <= rates[last])
    u = log_lr[rows] - rates[best]
    names = np.unique(seed[rows])
    design = np.column_stack([*(seed[rows] == s for s in names), u, u**2]).astype(np.float64)
    coef = np.linalg.lstsq(design, log_loss[rows], rcond=None)[0]
    squares = float(np.sum((log_loss[rows] - design @ coef) ** 2))
    inverse = np.linalg.pinv(design.T @ design)
    return Parabola(coef, inverse, float(rates[best]), squares, int(rows.sum()) - coef.size, names.size)


def resolve(parabolas: Mapping[float, Parabola], reasons: dict[float, str]) -> tuple[dict[float, Optimum], int]:
    """The optima with errors from the noise of all widths, and its degrees of freedom; adds to `reasons` what has none."""
    dof = sum(p.dof for p in parabolas.values())
    if parabolas and dof < 1:
        raise BadInput(
            "three learning rates a width fit a parabola exactly, so no error can be estimated: add rates or seeds"
        )
    sigma2 = sum(p.squares for p in parabolas.values()) / max(dof, 1)
    optima = {}
    for w, p in parabolas.items():
        slope, curve = p.coef[-2:]
        if not curve > RESOLVED * np.sqrt(sigma2 * p.inverse[-1, -1]):
            reasons[w] = "noise hides the curvature around the best lr: add seeds or widen the grid"
            continue
        shift = -slope / (2 * curve)
        lr_row = np.append(np.zeros(p.seeds), [-1.0, -2 * shift]) / (2 * curve)
        loss_row = np.append(np.full(p.seeds, 1 / p.seeds), [shift, shift**2])
        errors = (float(np.sqrt(sigma2 * row @ p.inverse @ row)) for row in (lr_row, loss_row))
        lr_error, loss_error = (max(e, 1e-9) for e in errors)
        optima[w] = Optimum(p.pivot + shift, lr_error, float(loss_row @ p.coef), loss_error)
    return optima, dof


def _laws(optima: Mapping[float, Optimum], dof: int, settings: Settings) -> tuple[Fit, Fit]:
    width = np.array(list(optima))
    columns = np.array(list(optima.values())).T
    rate, loss = np.exp(columns[0]), np.exp(columns[2])
    options: dict[str, Any] = {"stderr_dof": dof, "bootstrap": settings.bootstrap, "seed": settings.seed}
    loss_form = PowerLaw() if width.size == 3 else PowerLawOffset()
    return (
        fit(PowerLaw(), {"N": width}, rate, stderr=rate * columns[1], **options),
        fit(loss_form, {"N": width}, loss, stderr=loss * columns[3], **options),
    )


def _entry(width: float, best: Optimum, half: float) -> dict[str, Any]:
    def interval(center: float, error: float) -> list[float]:
        return [float(np.exp(center - half * error)), float(np.exp(center + half * error))]

    return {
        "width": width,
        "lr": float(np.exp(best.log_lr)),
        "lr_ci95": interval(best.log_lr, best.log_lr_stderr),
        "loss": float(np.exp(best.log_loss)),
        "loss_ci95": interval(best.log_loss, best.log_loss_stderr),
    }


def _plot(name: str, label: str, found: list[dict[str, Any]], law: Fit) -> Plot:
    width, value = (np.array([entry[key] for entry in found]) for key in ("width", name))
    low, high = np.array([entry[f"{name}_ci95"] for entry in found]).T
    line = np.geomspace(width.min(), 2 * width.max(), 40)
    layers = (
        Layer("widths", width, value, low, high),
        Layer("law", line, *law.predict({"N": line}, noise=0.0), "line"),
    )
    text = f"{label.capitalize()} from width {width.min():g} to {width.max():g}, and the law to twice that."
    return Plot(f"width_{name}", f"{label.capitalize()} against width", "width", label, layers, caption=text, alt=text)
