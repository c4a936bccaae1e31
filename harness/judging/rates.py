"""Other learning rates than a method's best: does the best one carry over to larger widths, and what does a wrong one cost?

At every width a method's best point of the smallest width is trained at learning rates around it, at the workload's shortest
horizon. Under muP where the optimizer's family has rules for it: there the best learning rate should not move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.judging.contest import Arena, Rows, Setting, Tuned
from harness.parametrizations import PARAMETRIZATIONS
from harness.parametrizations.base import Parametrization
from harness.transfer.learning_rate import Transfer, learning_rate_transfer
from harness.transfer.sensitivity import Sensitivity, learning_rate_sensitivity
from harness.trial import Trial
from workloads.base import BadInput

OCTAVES = (-3, -2, -1, 0, 1, 2, 3)
FIRST_SEED = 150
"""Seeds that neither chose a learning rate nor report losses: below every setting's."""


@dataclass(frozen=True)
class Sweep:
    """One method's learning rates on one workload. trials: (width, octaves from the best, seed) -> trial."""

    workload: str
    method: str
    parametrization: str
    trials: Mapping[tuple[int, int, int], Trial]


@dataclass(frozen=True)
class Rates:
    """transfer: across widths. sensitivity: learning rates relative to the best of the smallest width."""

    workload: str
    method: str
    parametrization: str
    transfer: Transfer | None
    sensitivity: Sensitivity
    note: str

    def to_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload,
            "method": self.method,
            "parametrization": self.parametrization,
            "transfer": None if self.transfer is None else self.transfer.to_json(),
            "sensitivity": self.sensitivity.to_json(),
            "note": self.note,
        }


def sweeps(tuned: Sequence[Tuned], arena: Arena, methods: Sequence[str]) -> list[Sweep]:
    """What to train: of these methods on every workload."""
    found = []
    for name, settings in arena.settings.items():
        shortest = [setting for setting in settings if setting.steps == arena.shortest[name]]
        base = min(shortest, key=lambda setting: setting.workload.width)
        widths = sorted({base.workload.width, *(arena.rate_widths.get(name) or (s.workload.width for s in shortest))})
        there = [Setting(base.workload.replace(width=width), base.steps) for width in widths]
        for one in tuned:
            if one.setting == base and one.method.name in methods:
                found.append(_sweep(one, arena, there))
    return found


def _sweep(one: Tuned, arena: Arena, settings: Sequence[Setting]) -> Sweep:
    parametrization = _parametrization(one)
    best = one.method.optimizer(**one.best).learning_rate
    trials = {}
    for setting in settings:
        for octave in OCTAVES:
            values = {**one.best, "learning_rate": best * 2.0**octave}
            for seed in range(FIRST_SEED, FIRST_SEED + arena.studies):
                trial = replace(arena.trial(one.method, setting, values, seed), parametrization=parametrization)
                trials[setting.workload.width, octave, seed] = trial
    return Sweep(one.setting.workload.name, one.method.name, parametrization.name, trials)


def _parametrization(one: Tuned) -> Parametrization:
    if one.method.optimizer.family == "other":
        return PARAMETRIZATIONS["sp"]()
    return PARAMETRIZATIONS["mup"](base_width=one.setting.workload.width)


def rates_of(sweep: Sweep, rows: Rows) -> Rates:
    """What the sweep's rows say."""
    keys = list(sweep.trials)
    width, octave, seed = (np.array(column, np.float64) for column in zip(*keys, strict=True))
    found = [rows[sweep.trials[key].id] for key in keys]
    ok = np.array([row["status"] == "ok" and math.isfinite(row["final_loss"]) for row in found])
    loss = np.array([row["final_loss"] if good else np.nan for row, good in zip(found, ok, strict=True)], np.float64)
    initial = np.array([row["initial_loss"] for row in found], np.float64)
    rate = np.array([sweep.trials[key].optimizer.learning_rate for key in keys])
    sensitivity = learning_rate_sensitivity(width, 2.0**octave, np.where(ok, loss, np.inf), initial, seed)
    transfer, note = None, ""
    if np.unique(width).size < 2:
        note = "one width says nothing on transfer; give the profile two or more"
    else:
        try:
            transfer = learning_rate_transfer(width, rate, loss, seed, ~ok, base_scale=float(width.min()))
        except BadInput as error:
            note = str(error)
    return Rates(sweep.workload, sweep.method, sweep.parametrization, transfer, sensitivity, note)
