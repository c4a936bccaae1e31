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

_GUESSED_FLOPS = 2.5e10  # per second and device, for small matrices on one CPU core
_GUESSED_COMPILE = 4.0  # seconds per program


def show(console: Console, study: StudyConfig, trials: Sequence[Trial], store: Store, settings: Settings) -> None:
    """Print the plan of what is missing."""
    finished = store.finished()
    missing = [trial for trial in trials if trial.id not in finished]
    local = devices.local_devices()
    packs, notes = make_packs(missing, local, local.memory(settings.memory_gb), settings.pack_size)
    table = Table("workload", "width", "trials", "steps", "FLOPs", "estimated time", title=f"{study.name}: {study.question}")
    past = _past_rates(store)
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


def _past_rates(store: Store) -> float | None:
    """FLOPs per second, over all devices, of this study's finished trials; None if there are none."""
    rows = store.trials(columns=["status", "matmul_flops", "train_s"]).to_pylist()
    rates = [row["matmul_flops"] / row["train_s"] for row in rows if row["status"] == "ok" and row["train_s"]]
    return float(np.median(rates)) if rates else None


def _seconds(pack: Pack, rate: float | None, count: int) -> float:
    flops = len(pack.trials) * pack.horizon * pack.static.workload.matmul_flops()
    return flops / (rate or _GUESSED_FLOPS * count)
