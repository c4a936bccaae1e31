"""What a study will train, before it does: packs, trials, FLOPs, and a time from past records or a stated guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.config import StudyConfig
from harness.engine import devices
from harness.engine.pack import Pack, make_packs
from harness.engine.runner import Settings
from harness.records.store import Store
from harness.trial import Trial

_GUESSED_RATE = 1.2e11  # Pack.step_work per second and CPU core
_GUESSED_COMPILE = 4.0  # seconds per program


def show(console: Console, study: StudyConfig, trials: Sequence[Trial], store: Store, settings: Settings) -> None:
    """Print the plan of what is missing."""
    finished = store.finished()
    missing = [trial for trial in trials if trial.id not in finished]
    local = devices.local_devices()
    packs, notes = make_packs(missing, local, local.memory(settings.memory_gb), settings.pack_size)
    table = Table("workload", "width", "trials", "steps", "FLOPs", "estimated time", title=f"{study.name}: {study.question}")
    past = _past_rate(store, trials)
    total = 0.0
    for pack in packs:
        seconds = _seconds(pack, past, local.count)
        total += seconds
        flops = len(pack.trials) * pack.horizon * pack.static.workload.matmul_flops()
        workload = pack.static.workload
        row = (workload.name, workload.width, len(pack.trials), pack.horizon, f"{flops:.3g}", f"{seconds:.0f} s")
        table.add_row(*(str(entry) for entry in row))
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    known = len(trials) - len(missing)
    programs = len({pack.signature for pack in packs})
    console.print(
        f"{len(missing)} trials to train in {len(packs)} packs and {programs} programs ({known} already recorded), about "
        f"{total + _GUESSED_COMPILE * programs / local.count:.0f} s on {local.count} x {local.kind}"
        f"{'' if past else ' (a guess: nothing of this kind is recorded yet)'}",
        highlight=False,
    )


def _past_rate(store: Store, trials: Sequence[Trial]) -> float | None:
    """Work per second, over all devices, of those of `trials` that are recorded; None if there are none."""
    rows = {row["trial"]: row for row in store.trials(columns=["trial", "status", "train_s"]).to_pylist()}
    rates = []
    for trial in trials:
        row = rows.get(trial.id)
        if row and row["status"] == "ok" and row["train_s"]:
            rates.append(trial.horizon * Pack(trial.static(), (trial,), 1).step_work / row["train_s"])
    return float(np.median(rates)) if rates else None


def _seconds(pack: Pack, rate: float | None, count: int) -> float:
    return pack.horizon * pack.step_work / (rate or _GUESSED_RATE * count)
