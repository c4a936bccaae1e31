"""Bits of knowledge that a parameter stores, and where a model has stored all that the data hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.laws.base import positive
from harness.laws.capacity import Capacity, CapacityOfData
from harness.laws.fitting.fit import Fit, fit
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLaw
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

UNSATURATED = 0.5  # share of the ceiling below which a model counts as too small for its data
UNCERTAIN = 4.0  # an interval wider than this factor is no estimate


@PROCEDURES.register("bits_per_parameter")
@dataclass(frozen=True)
class CapacityRatio(Procedure):
    """Bits stored per parameter, with interval, and the size at which the data's bits are all stored.

    columns: N parameters, bits stored (as measured from the losses on names and attributes: Allen-Zhu & Li 2024,
    arXiv:2404.05405). data_bits: bits in the data of each run, where known; else one ceiling is fitted. Laws `capacity`
    and `capacity_of_data`. Also the exponent of bits in N over the models too small for their data, which is 1 where
    "bits per parameter" has a meaning.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "bits")
    optional: ClassVar[tuple[str, ...]] = ("data_bits",)

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        table = {name: positive(name, columns[name]) for name in (*self.columns, *self.optional) if name in columns}
        known = table.get("data_bits")
        if known is not None and np.any(table["bits"] > 1.1 * known):
            raise BadInput(
                "some runs store over 10% more bits than their data hold: bits and data_bits differ in unit?"
            )
        law = Capacity() if known is None or np.unique(known).size == 1 else CapacityOfData()
        if known is not None and np.unique(known).size == 1:
            table["ceiling"] = known
        options: dict[str, Any] = {"bootstrap": settings.bootstrap, "seed": settings.seed}
        found = fit(law, table, table["bits"], **options)
        refused(found, table)
        warnings, ceiling = list(found.warnings), "B" in found.params
        undetermined = ceiling and not _seen(found, "B")
        if undetermined:
            warnings.append(
                "no model is large enough to store all of the data: the ceiling and the saturation size are not determined"
            )
        knees = [] if undetermined else _knees(found, table)
        linear = _linear(found, table, options)
        if linear is None:
            warnings.append("fewer than 3 sizes are too small for their data: that bits grow as N^1 was not checked")
        elif not linear.ci95["alpha"][0] <= -1 <= linear.ci95["alpha"][1]:
            warnings.append(
                f"bits grow as N^{-linear.params['alpha']:.3g}, not N^1: bits per parameter depend on the size"
            )
        k, (low, high) = found.params["k"], found.ci95["k"]
        values = {
            "bits_per_parameter": k,
            "ci95": [low, high],
            "most_observed": float(np.max(table["bits"] / table["N"])),
            "ceiling_bits": None if undetermined or not ceiling else found.params["B"],
            "ceiling_ci95": None if undetermined or not ceiling else list(found.ci95["B"]),
            "saturation": knees,
            "exponent": None if linear is None else -linear.params["alpha"],
            "exponent_ci95": None if linear is None else sorted(-v for v in linear.ci95["alpha"]),
        }
        rows = (("bits per parameter", k, low, high), *(("saturates at N", *_row(knee)) for knee in knees))
        fits = {law.name: found, **({} if linear is None else {"below saturation": linear})}
        return Estimate(
            self.name,
            table["N"].size,
            values,
            (Table("Knowledge capacity", ("", "estimate", "low", "high"), rows),),
            (_plot(found, table),),
            fits,
            tuple(warnings),
        )


def refused(found: Fit, table: Mapping[str, np.ndarray]) -> None:
    """BadInput where the bits per parameter cannot be told."""
    share = found.params["k"] * table["N"] / _ceiling(found, table)
    if not _seen(found, "k") or share.min() > 3:
        raise BadInput(
            "every model stores nearly all that its data hold, so bits per parameter cannot be told: "
            "add models too small for the data, or larger data"
        )
    low, high = found.ci95["k"]
    if high > UNCERTAIN * low:
        raise BadInput(
            f"bits per parameter lie anywhere between {low:.3g} and {high:.3g}: add models too small for their data"
        )


def _seen(found: Fit, name: str) -> bool:
    report = found.identifiable
    return name not in report.loose and not any(hit.startswith(f"{name} ") for hit in report.bounds_hit)


def _ceiling(found: Fit, table: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.full_like(table["N"], found.params["B"]) if "B" in found.params else table["data_bits"]


def _knees(found: Fit, table: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Size N = ceiling / k of each data set, with interval from the refits."""
    draws = found.natural_refits()
    levels = [None] if "B" in found.params else np.unique(table["data_bits"]).tolist()
    knees = []
    for level in levels:
        size = draws["B"] / draws["k"] if level is None else level / draws["k"]
        at = (found.params["B"] if level is None else level) / found.params["k"]
        ends = list(found.interval(size))
        inside = bool(table["N"].min() <= at <= table["N"].max())
        knees.append({"data_bits": level, "N": float(at), "ci95": ends, "within_sizes": inside})
    return knees


def _row(knee: Mapping[str, Any]) -> tuple[float, float, float]:
    return knee["N"], knee["ci95"][0], knee["ci95"][1]


def _linear(found: Fit, table: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Fit | None:
    small = found.params["k"] * table["N"] < UNSATURATED * _ceiling(found, table)
    if np.unique(table["N"][small]).size < 3:
        return None
    return fit(PowerLaw(), {"N": table["N"][small]}, table["bits"][small], **options)


def _plot(found: Fit, table: Mapping[str, np.ndarray]) -> Plot:
    line = np.geomspace(table["N"].min(), table["N"].max(), 60)
    layers = [Layer("runs", table["N"], table["bits"])]
    levels = [None] if "B" in found.params else np.unique(table["data_bits"]).tolist()
    for level in levels:
        inputs = {"N": line} if level is None else {"N": line, "data_bits": np.full_like(line, level)}
        band = found.predict(inputs, noise=0.0)
        layers.append(Layer("law" if level is None else f"law, {level:.3g} bits", line, *band, "line"))
    layers.append(Layer("k N", line, found.params["k"] * line, kind="line"))
    low, high = found.ci95["k"]
    text = f"{found.params['k']:.3g} bits per parameter (95% {low:.3g} to {high:.3g})."
    return Plot("capacity", "Knowledge stored", "N", "bits", tuple(layers), caption=text, alt=text)
