"""How much repeating part of the data costs, where it costs most, and what that is in model size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.laws.base import positive
from harness.laws.fitting.fit import Fit, fit
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLaw, PowerLawOffset
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from harness.laws.procedures.sup_f import sup_f
from harness.laws.repeated_data import RepeatedData
from workloads.base import BadInput

CHANCE = 0.01  # p-value above which a peak may be noise
WORST_HEADER = ("N", "worst repeats", "low", "high", "excess loss", "low", "high", "effective share of N")


@PROCEDURES.register("repeat_damage")
@dataclass(frozen=True)
class RepeatedDamage(Procedure):
    """The repeat count that does most damage, how much, and the smaller model or data set of equal loss.

    columns: repeats (times that the repeated part was seen; 1 is no repetition), loss; tokens and the repeated share stay
    the same within a group. N: size of each run, which makes groups; with three sizes the damage is also counted as
    effective size, N_eff / N where the loss without repeats at N_eff equals the worst loss at N (map data instead of
    parameters onto N for effective data), and the worst repeat count becomes a power law in N (Hernandez et al. 2022,
    arXiv:2205.10487; law `repeated_data`, our own form).
    """

    columns: ClassVar[tuple[str, ...]] = ("repeats", "loss")
    optional: ClassVar[tuple[str, ...]] = ("N",)

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        table = {name: positive(name, columns[name]) for name in (*self.columns, *self.optional) if name in columns}
        if np.min(table["repeats"]) < 1:
            raise BadInput("repeats below 1: count how often the repeated part was seen, 1 is data seen once")
        size = table.get("N", np.ones_like(table["loss"]))
        fits, reasons = {}, {}
        for n in np.unique(size):
            rows = size == n
            try:
                fits[float(n)] = peak(table["repeats"][rows], table["loss"][rows], settings)
            except BadInput as why:
                reasons[float(n)] = (str(why), int(rows.sum()))
        if not fits:
            raise BadInput("; ".join(f"N = {n:g}: {why}" for n, (why, _) in reasons.items()))
        warnings = [f"N = {n:g} left out: {why}" for n, (why, _) in reasons.items()]
        warnings += [f"N = {n:g}: {w}" for n, found in fits.items() for w in found.warnings]
        effective, more = _effective(fits, settings)
        if "N" in table and not effective:
            warnings.append("damage was not counted as effective size: that takes a clear peak at 3 sizes or more")
        worst = [{"N": n if "N" in table else None, **_worst(f), **effective.get(n, {})} for n, f in fits.items()]
        values: dict[str, Any] = {"worst": worst}
        if "worst repeats" in more:
            values["worst_repeats_exponent"] = -more["worst repeats"].params["alpha"]
            values["worst_repeats_exponent_ci95"] = sorted(-v for v in more["worst repeats"].ci95["alpha"])
        return Estimate(
            self.name,
            table["loss"].size,
            values,
            (Table("Where repeating data does most damage", WORST_HEADER, tuple(_row(w) for w in worst)),),
            (_plot(fits, table, size),),
            {**{f"N = {n:g}": found for n, found in fits.items()}, **more},
            tuple(warnings),
            {f"N = {n:g}: no peak inside the repeats": count for n, (_, count) in reasons.items()},
        )


def peak(repeats: np.ndarray, loss: np.ndarray, settings: Settings) -> Fit:
    """The law fitted to one group, (n,). Raises BadInput where there is no peak inside the repeat counts."""
    counts = np.unique(repeats)
    if counts.size < 6:
        raise BadInput(f"{counts.size} repeat counts; a peak with both sides takes at least 6")
    mean = np.array([loss[repeats == c].mean() for c in counts])
    top = int(mean.argmax())
    if top in (0, counts.size - 1):
        where = "fewer" if top == 0 else "more"
        raise BadInput(
            f"the loss is highest at {counts[top]:g} repeats, the edge of what was tried, so the peak may lie beyond: "
            f"try {where} repeats"
        )
    chance = peak_p(repeats, loss, settings.seed)
    if chance > CHANCE:
        raise BadInput(
            f"no peak stands out of the noise (p = {chance:.2g}): add seeds, or repeat counts around the worst"
        )
    found = fit(RepeatedData(), {"repeats": repeats}, loss, bootstrap=settings.bootstrap, seed=settings.seed)
    low, high = found.ci95["R_0"]
    if low < counts[0] or high > counts[-1]:
        raise BadInput(
            f"the worst repeat count is {found.params['R_0']:.3g} with interval {low:.3g} to {high:.3g}, beyond the tried "
            f"{counts[0]:g} to {counts[-1]:g}: the peak is at the edge; add repeat counts or seeds"
        )
    return found


def peak_p(repeats: np.ndarray, loss: np.ndarray, seed: int) -> float:
    """p-value of the best of many peaks of the law's form over a straight line of log loss in log repeats."""
    log = np.log(repeats)
    inner = np.linspace(log.min(), log.max(), 13)[1:-1]
    shapes = np.stack(
        [
            1 / (down * np.exp(-up * (log - at)) + up * np.exp(down * (log - at)))
            for at, up, down in itertools.product(inner, (0.5, 1.0, 2.0), (0.5, 1.0, 2.0))
        ]
    )
    null = np.stack([np.ones_like(log), log - log.mean()], axis=1)
    return sup_f(null, shapes, np.log(loss), seed)[0]


def _worst(found: Fit) -> dict[str, Any]:
    return {
        "repeats": found.params["R_0"],
        "repeats_ci95": list(found.ci95["R_0"]),
        "excess": found.params["H"],
        "excess_ci95": list(found.ci95["H"]),
    }


def _row(worst: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        worst["N"],
        worst["repeats"],
        *worst["repeats_ci95"],
        worst["excess"],
        *worst["excess_ci95"],
        worst.get("effective_share"),
    )


def _effective(fits: Mapping[float, Fit], settings: Settings) -> tuple[dict[float, dict[str, Any]], dict[str, Fit]]:
    """N_eff / N at the peak of each size, from the law of the losses without repeats; and the law of the worst repeats."""
    if len(fits) < 3:
        return {}, {}
    sizes = np.array(list(fits))
    options: dict[str, Any] = {"bootstrap": settings.bootstrap, "seed": settings.seed}

    def law_of(name: str, law: Any) -> Fit:
        value = np.array([f.params[name] for f in fits.values()])
        spread = np.array([max(f.bootstrap_stderr[name], 1e-9 * f.params[name]) for f in fits.values()])
        dof = float(sum(f.noise.dof for f in fits.values()))
        return fit(law, {"N": sizes}, value, stderr=spread, stderr_dof=dof, **options)

    base = law_of("L_0", PowerLaw() if len(fits) == 3 else PowerLawOffset())
    found = {}
    for n, f in fits.items():
        draws = f.natural_refits()
        share = equal_size(base.params, f.params["L_0"] * (1 + f.params["H"])) / n
        spread = equal_size(base.natural_refits(), draws["L_0"] * (1 + draws["H"])) / n
        found[n] = {"effective_share": float(share), "effective_share_ci95": list(base.interval(spread))}
    return found, {"loss without repeats": base, "worst repeats": law_of("R_0", PowerLaw())}


def equal_size(params: Mapping[str, Any], loss: Any) -> Any:
    """The size at which a power law, with or without offset E, has this loss; parameters and loss broadcast."""
    above = np.maximum(loss - params.get("E", 0.0), 1e-300)
    return (params["A"] / above) ** (1 / params["alpha"])


def _plot(fits: Mapping[float, Fit], table: Mapping[str, np.ndarray], size: np.ndarray) -> Plot:
    layers = []
    line = np.geomspace(table["repeats"].min(), table["repeats"].max(), 80)
    for n, found in fits.items():
        rows, label = size == n, f"N = {n:g}" if "N" in table else "loss"
        layers.append(Layer(label, table["repeats"][rows], table["loss"][rows]))
        layers.append(Layer(f"{label}, law", line, *found.predict({"repeats": line}, noise=0.0), "line"))
    first = next(iter(fits.values()))
    low, high = first.ci95["R_0"]
    text = f"Most damage at {first.params['R_0']:.3g} repeats (95% {low:.3g} to {high:.3g})."
    return Plot("repeated_data", "Damage of repeated data", "repeats", "loss", tuple(layers), caption=text, alt=text)
