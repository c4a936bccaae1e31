"""What infinite size and infinitely many ensemble members would reach on fixed data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from harness.laws.base import Law, positive
from harness.laws.ensemble import Ensemble
from harness.laws.fitting.backtest import fit_subsets
from harness.laws.fitting.fit import Fit, fit
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict, solve
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLawOffset
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

SMOOTH = Objective()


@dataclass(frozen=True)
class Limits:
    """Asymptotes of the inner variable at each value of the outer one: (G,) each. dof: of the pooled noise."""

    outer: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    dof: float
    skipped: int


@PROCEDURES.register("asymptote")
@dataclass(frozen=True)
class Asymptote(Procedure):
    """Loss in the limit of infinite size N, of infinitely many ensemble members K, or of both, on fixed data D.

    One of N and K varies: the offset of a power law in it, with its interval. Both vary: for each N the limit in K, then
    the limit of these limits in N (Kim et al. 2025, arXiv:2509.14786, section 4.3), the errors of the first going into
    the second. Several D: each on its own. Losses of each N must be those of its tuned recipe: a loss
    that rises with N has no limit. members="free" fits the exponent of K as the paper does; "one" holds it at 1
    (law `ensemble`), which three values of K can carry.
    """

    columns: ClassVar[tuple[str, ...]] = ("loss",)
    optional: ClassVar[tuple[str, ...]] = ("N", "K", "D")

    members: Literal["free", "one"] = "free"

    def __post_init__(self) -> None:
        if self.members not in ("free", "one"):
            raise BadInput(f"members={self.members} is unknown; use free (fit the exponent of K) or one (hold it at 1)")

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        table = {name: positive(name, column) for name, column in columns.items() if name in ("N", "K", "D", "loss")}
        data = table.pop("D", None)
        if data is None or np.unique(data).size == 1:
            return self._one(table, settings)
        parts = {f"{d:g}": self._one({k: v[data == d] for k, v in table.items()}, settings) for d in np.unique(data)}
        return Estimate(
            self.name,
            table["loss"].size,
            {"by_data": {d: part.values for d, part in parts.items()}},
            tuple(Table(f"D = {d}: {t.title}", t.header, t.rows) for d, part in parts.items() for t in part.tables),
            tuple(plot for part in parts.values() for plot in part.plots[:1]),
            {f"{name} at D = {d}": found for d, part in parts.items() for name, found in part.fits.items()},
            tuple(f"D = {d}: {w}" for d, part in parts.items() for w in part.warnings),
            {f"D = {d}: {why}": count for d, part in parts.items() for why, count in part.dropped.items()},
        )

    def _one(self, table: dict[str, np.ndarray], settings: Settings) -> Estimate:
        varied = [name for name in ("N", "K") if name in table and np.unique(table[name]).size > 1]
        if not varied:
            raise BadInput("an asymptote needs a column N (size) or K (ensemble members) with several values")
        if len(varied) == 2:
            return self._double(table, settings)
        name = varied[0]
        found = _limit_fit(self._law(name), table[name], table["loss"], name, settings)
        return _estimate(table["loss"].size, found, table, name, {}, {})

    def _law(self, name: str) -> Law:
        return Ensemble() if name == "K" and self.members == "one" else PowerLawOffset()

    def _double(self, table: dict[str, np.ndarray], settings: Settings) -> Estimate:
        limits = inner_limits(self._law("K"), table["K"], table["N"], table["loss"], settings)
        found = _limit_fit(self._law("N"), limits.outer, limits.value, "N", settings, limits.stderr, limits.dof)
        inner = zip(limits.outer.tolist(), limits.value.tolist(), limits.stderr.tolist(), strict=True)
        members = [{"N": n, "limit": value, "stderr": error} for n, value, error in inner]
        dropped = {"N with too few values of K": limits.skipped} if limits.skipped else {}
        seen = {"N": limits.outer, "loss": limits.value}
        return _estimate(table["loss"].size, found, seen, "K, then N", {"members": members}, dropped)


def _estimate(
    n: int,
    found: Fit,
    seen: Mapping[str, np.ndarray],
    limit_of: str,
    more: Mapping[str, Any],
    dropped: Mapping[str, int],
) -> Estimate:
    low, high = found.ci95["E"]
    exponent = found.params.get("alpha", 1.0)
    values = {
        "limit_of": limit_of,
        "asymptote": found.params["E"],
        "ci95": [low, high],
        "stderr": found.bootstrap_stderr["E"],
        "exponent": exponent,
        "determined": not _undetermined(found),
        **more,
    }
    row = (limit_of, found.params["E"], low, high, exponent)
    table = Table("Loss in the limit", ("limit of", "loss", "low", "high", "exponent"), (row,))
    plot, notes = _plot(found, seen, limit_of[-1]), tuple(_notes(found, seen["loss"]))
    return Estimate(Asymptote.name, n, values, (table,), (plot,), {limit_of: found}, notes, dropped)


def inner_limits(law: Law, inner: np.ndarray, outer: np.ndarray, loss: np.ndarray, settings: Settings) -> Limits:
    """Asymptotes in `inner` at each value of `outer`, all (n,), with errors from one pooled log noise (parametric).

    Raises BadInput where fewer than three outer values can carry the law, or no degree of freedom is left.
    """
    p = len(law.parameters)
    every = np.unique(outer)
    kept = np.array([o for o in every if np.unique(inner[outer == o]).size >= p])
    if kept.size < 3:
        raise BadInput(f"only {kept.size} outer values have at least {p} inner ones; the double limit needs 3 of them")
    masks = [outer == o for o in kept]
    features = {law.inputs[0]: inner}
    theta = fit_subsets(law, SMOOTH, features, loss, np.ones_like(loss), masks).best()
    fitted = predict(law, SMOOTH, features, theta)
    inside = np.stack(masks)
    dof = int(inside.sum()) - kept.size * p
    if dof < 1:
        raise BadInput(f"every group has exactly the {p} points its law needs, so no error can be estimated: add one")
    sigma = np.sqrt(np.sum(((np.log(loss) - fitted) * inside) ** 2) / dof)
    draws = settings.bootstrap
    noise = np.random.default_rng(settings.seed).normal(size=(draws, 1, loss.size)) * sigma
    target = (fitted + noise).reshape(-1, loss.size)
    starts = np.broadcast_to(theta, (draws, *theta.shape)).reshape(-1, 1, p)
    refits = solve(
        law, SMOOTH, features, target, np.tile(inside * 1.0, (draws, 1)), starts, iterations=60, tolerance=1e-4
    )
    offsets = law.natural(refits.theta[:, 0])[:, 0].reshape(draws, kept.size)
    # a floor keeps exactly noise-free tables from dividing by zero
    spread = np.maximum(offsets.std(0, ddof=1), 1e-9 * loss.min())
    return Limits(kept, law.natural(theta)[:, 0], spread, float(dof), every.size - kept.size)


def _limit_fit(
    law: Law,
    size: np.ndarray,
    loss: np.ndarray,
    name: str,
    settings: Settings,
    stderr: np.ndarray | None = None,
    dof: float = np.inf,
) -> Fit:
    """The law in one variable, or BadInput where the loss does not fall with it."""
    order = [float(loss[size == s].mean()) for s in np.unique(size)]
    if order[-1] >= order[0]:
        raise BadInput(
            f"the loss does not fall with {name} ({order[0]:.4g} to {order[-1]:.4g}), so it has no limit to estimate: "
            f"tune each {name} (more weight decay, fewer epochs) or drop the overfitted runs"
        )
    found = fit(
        law,
        {law.inputs[0]: size},
        loss,
        stderr=stderr,
        stderr_dof=dof,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
    )
    if found.params.get("alpha", 1.0) <= 0:
        raise BadInput(f"the fitted loss does not level off with {name} (exponent {found.params['alpha']:.3g})")
    return found


def _undetermined(found: Fit) -> bool:
    report = found.identifiable
    return "E" in report.loose or any(hit.startswith("E ") for hit in report.bounds_hit)


def _notes(found: Fit, loss: np.ndarray) -> list[str]:
    notes = list(found.warnings)
    if _undetermined(found):
        notes.append("the asymptote is not determined by these points (see the interval): larger sizes would tell")
    low, high = found.ci95["E"]
    if high - low > float(np.ptp(loss)):
        notes.append("the asymptote's interval is wider than the range of the losses: it says almost nothing")
    return notes


def _plot(found: Fit, table: Mapping[str, np.ndarray], name: str) -> Plot:
    seen = table[name]
    line = np.geomspace(seen.min(), seen.max() * 30, 60)
    band = found.predict({found.law.inputs[0]: line}, noise=0.0)
    limit = np.full_like(line, found.params["E"])
    low, high = (np.full_like(line, v) for v in found.ci95["E"])
    return Plot(
        "asymptote",
        f"Loss as {name} goes to infinity",
        name,
        "loss",
        (
            Layer("runs", seen, table["loss"]),
            Layer("law", line, band.mean, band.low, band.high, "line"),
            Layer("limit", line, limit, low, high, "line"),
        ),
        caption=f"The limit is {found.params['E']:.4g} (95% {found.ci95['E'][0]:.4g} to {found.ci95['E'][1]:.4g}).",
        alt=f"Loss falls with {name} towards {found.params['E']:.4g}.",
    )
