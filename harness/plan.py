"""What a study will train, before it does: packs, trials, FLOPs, and a time from past records or a stated guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.engine.devices import Devices
from harness.engine.pack import Pack, make_packs
from harness.engine.runner import Settings
from harness.records.store import Store
from harness.trial import Trial

GUESSED_RATE = 1.2e11  # Pack.step_work per second and CPU core
GUESSED_COMPILE = 4.0  # seconds per program


def show(
    console: Console,
    title: str,
    trials: Sequence[Trial],
    later: Sequence[Trial],
    store: Store,
    settings: Settings,
    local: Devices,
) -> None:
    """Print the plan of what is missing. later: what follows the sweep, at learning rates that it will choose.

    local: the devices of the process that will train.
    """
    memory = local.memory(settings.memory_gb)
    missing = store.missing(trials)
    packs, notes = make_packs(missing, local, memory, settings.pack_size)
    followers, _ = make_packs(later, local, memory, settings.pack_size)
    past = past_rate(store, trials, local)
    rate = past or GUESSED_RATE * local.count
    columns = ("stage", "workload", "width", "packs", "trials", "steps", "FLOPs", "estimated time")
    table = Table(*columns, title=title)
    for stage, members in (("sweep", packs), ("then", followers)):
        for group in _by_program(members):
            table.add_row(stage, *_row(group, rate))
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    programs = len({pack.signature for pack in (*packs, *followers)})
    seconds = sum(pack.horizon * pack.step_work for pack in (*packs, *followers)) / rate
    console.print(
        f"{len(missing)} trials to train in {len(packs)} packs, then {len(later)} more; {programs} programs; "
        f"{len(trials) - len(missing)} already recorded; about "
        f"{seconds + GUESSED_COMPILE * programs / local.count:.0f} s on {local.count} x {local.kind}"
        f"{'' if past else ' (a guess: nothing of this kind is recorded yet)'}",
        highlight=False,
    )


def _by_program(packs: Sequence[Pack]) -> list[list[Pack]]:
    groups: dict[object, list[Pack]] = {}
    for pack in packs:
        groups.setdefault((pack.signature, pack.horizon), []).append(pack)
    return list(groups.values())


def _row(packs: Sequence[Pack], rate: float) -> list[str]:
    workload, horizon = packs[0].static.workload, packs[0].horizon
    trials = sum(len(pack.trials) for pack in packs)
    flops = trials * horizon * packs[0].trials[0].matmul_flops
    seconds = sum(pack.horizon * pack.step_work for pack in packs) / rate
    numbers = (workload.width, len(packs), trials, horizon, f"{flops:.3g}", f"{seconds:.0f} s")
    return [workload.name, *map(str, numbers)]


def past_rate(store: Store, trials: Sequence[Trial], local: Devices) -> float | None:
    """Work per second of those of `trials` that are recorded, trained on as many devices of such a kind; None without any."""
    columns = ["trial", "status", "train_s", "device", "devices"]
    rows = {row["trial"]: row for row in store.trials(columns=columns).to_pylist()}
    rates = []
    for trial in trials:
        row = rows.get(trial.id)
        if not (row and row["status"] == "ok" and row["train_s"]):
            continue
        if (row["device"] == "cpu") == (local.platform == "cpu") and row["devices"] == local.count:
            rates.append(trial.horizon * Pack(trial.static(), (trial,), 1).step_work / row["train_s"])
    return float(np.median(rates)) if rates else None
