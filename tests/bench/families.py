"""families: what a step of every workload costs at its default size, and a whole default-budget trial; and how throughput
scales with the number of forced CPU devices."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import WORKLOADS
from harness.engine import devices
from harness.engine.cost import compare_step_seconds
from harness.engine.runner import Runner
from harness.records.store import Store
from tests.bench.cases import family, language_model, seeds, trial
from tests.bench.measure import Section, Target
from tests.bench.setup import Setup
from tests.bench.worker import Worker, serve

MOST_MS, MOST_S = 60.0, 60.0
FAMILIES = (
    "ctr",
    "graph",
    "image_resnet",
    "image_vit",
    "mri",
    "speech_conformer",
    "speech_deepspeech",
    "translation",
)  # AlgoPerf's
FORCED = (1, 2, 4)
_EVALUATIONS = 10
_PACK = 8


def measure(
    setup: Setup, names: Sequence[str] = FAMILIES, counts: Sequence[int] = FORCED, steps: int | None = None
) -> Section:
    """steps: of a whole trial (None: the family's own)."""
    section = Section("families", "AlgoPerf's families at their default sizes, AdamW; and packs on forced CPU devices")
    for name in names:
        workload = family(name)
        whole = replace(trial(workload, "adamw", steps or WORKLOADS[name].default_steps), evaluations=_EVALUATIONS)
        section.add(
            f"{name}: a step", "ms", [1e3 * compare_step_seconds([whole])[0].seconds], Target("at most", MOST_MS)
        )
        with tempfile.TemporaryDirectory(dir=setup.folder) as folder:
            store = Store(Path(folder))
            Runner(store, setup.devices).train([whole])
            (row,) = store.trials().to_pylist()
        spent = row["train_s"] + row["eval_s"]
        section.add(f"{name}: a default-budget trial", "s", [spent], Target("at most", MOST_S))
    rates = {count: _throughput(setup, count) for count in counts}
    for count, rate in rates.items():
        section.add(f"{count} forced devices: trial-steps", "1/s", [rate])
    section.notes += [
        f"a step trains on one core; a trial is the horizon that targets are set with, {_EVALUATIONS} evaluations of the whole "
        "validation split and one of the test split, compilation apart",
        f"forced devices: {_PACK} trials of the language model of width 32, and as many cores as the machine has",
    ]
    return section


def _throughput(setup: Setup, count: int) -> float:
    with Worker("tests.bench.families", setup.with_cache(setup.folder / "cache_forced")) as worker:
        return float(worker.ask(devices=count, root=str(setup.folder / f"forced_{count}"))["rate"])


def main() -> None:
    def answer(question: dict[str, Any]) -> dict[str, Any]:
        """{devices, root} -> {rate}: trial-steps a second of a pack, the second of two runs."""
        devices.configure(question["devices"])
        rate = 0.0
        for turn in range(2):
            store = Store(Path(question["root"]) / str(turn))
            summary = Runner(store, devices.local_devices()).train(
                seeds(trial(language_model(32), "adamw", 400), _PACK)
            )
            rate = _PACK * 400 / summary.seconds["train"]
        return {"rate": rate}

    serve(answer)


if __name__ == "__main__":
    main()
