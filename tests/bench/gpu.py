"""gpu: trial-steps/s of packs of growing size against one trial at a time, and the share of the processor's peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness.engine.devices import Devices
from harness.engine.pack import fitting
from harness.trial import PRECISIONS, Trial
from tests.bench.cases import language_model, seeds, trial
from tests.bench.loop import loop_runner
from tests.bench.measure import Section, Timer, interleave, ratios, scaled
from tests.bench.packs import PackRun, device_data, pack_of
from tests.bench.setup import Setup
from workloads.base import Workload

WIDTHS = (512, 256, 128, 64)  # the largest first, so that a time limit costs the least
PACKS = (1, 8, 64, 256)
_HORIZON = 256
_LIMIT = 400.0  # seconds after which no further width is begun
_COMPILE_THREADS = 4

# Dense peaks in FLOP/s, from NVIDIA's data sheets. XLA runs float32 matrix products in TF32 on these processors.
PEAKS = {
    "H200": {"float32": 494.7e12, "bfloat16": 989.4e12},
    "H100 PCIe": {"float32": 378e12, "bfloat16": 756e12},
    "H100": {"float32": 494.7e12, "bfloat16": 989.4e12},
    "A100": {"float32": 156e12, "bfloat16": 312e12},
}


@dataclass(frozen=True)
class Plan:
    """What is measured; the default is the real thing."""

    model: Callable[[int], Workload] = language_model
    widths: Sequence[int] = WIDTHS
    packs: Sequence[int] = PACKS
    precisions: Sequence[str] = PRECISIONS
    horizon: int = _HORIZON


def measure(setup: Setup, plan: Plan | None = None) -> Section:
    plan = plan or Plan()
    section = Section("gpu", f"language model, batch 16 x 64 bytes, 2 layers, on {setup.devices.kind}")
    started = time.perf_counter()
    for width in plan.widths:
        for precision in plan.precisions:
            if time.perf_counter() - started > _LIMIT:
                section.notes.append(f"width {width}, {precision}: left out, {_LIMIT:.0f} s were over")
                continue
            one = trial(plan.model(width), "adamw", plan.horizon, precision=precision)
            _add_configuration(section, one, setup, plan, mfu=width == max(plan.widths))
    section.notes += [
        "loop: one trial, one jitted step per step of a Python loop that fetches nothing",
        "MFU: FLOPs of the model's matrix products / time / peak",
        f"peak of {setup.devices.kind}: {_peak_text(setup.devices)}",
    ]
    return section


def _add_configuration(section: Section, one: Trial, setup: Setup, plan: Plan, mfu: bool) -> None:
    """All packs and the loop of one width and precision, interleaved."""
    name = f"width {one.workload.width} {one.precision}"
    devices = setup.devices
    fits = fitting(one, devices, devices.memory(None))
    sizes = [size for size in plan.packs if size <= fits]
    if len(sizes) < len(plan.packs):
        section.notes.append(f"{name}: {fits} trials fit the memory that a pack may take")
    timers: dict[str, Callable[[], float]] = {
        str(len(run.pack.trials)): run.timer(setup.seconds) for run in _compiled(one, sizes, devices)
    }
    timers["loop"] = Timer(loop_runner(one, fetch=False), setup.seconds, plan.horizon)
    timings = interleave(timers, setup.rounds)
    for key, seconds in timings.items():
        label = "loop" if key == "loop" else f"pack of {key}"
        section.add(f"{name}: {label}", "trial-steps/s", [1.0 / s for s in seconds])
        if key != "loop":
            section.add(f"{name}: {label} / loop", "x", ratios(timings["loop"], seconds))
    if mfu:
        _add_mfu(section, one, devices, {key: seconds for key, seconds in timings.items() if key != "loop"})


def _compiled(one: Trial, sizes: Sequence[int], devices: Devices) -> list[PackRun]:
    """Packs of each size, compiled side by side."""
    data = device_data(one, devices)
    with ThreadPoolExecutor(_COMPILE_THREADS) as pool:
        packs = [pack_of(seeds(one, size), devices) for size in sizes]
        return list(pool.map(lambda pack: PackRun(pack, data, devices), packs))


def _add_mfu(section: Section, one: Trial, devices: Devices, timings: dict[str, list[float]]) -> None:
    peak = peak_flops(devices.kind, one.precision)
    if peak is None:
        return
    flops = one.workload.matmul_flops()
    for size, seconds in timings.items():
        share = scaled([flops / (s * peak * devices.count) for s in seconds], 100.0)
        section.add(f"width {one.workload.width} {one.precision}: MFU, pack of {size}", "% of peak", share)


def peak_flops(kind: str, precision: str) -> float | None:
    """FLOP/s of one device, None if it is not in the table. The first name that occurs in `kind` counts."""
    return next((peak[precision] for name, peak in PEAKS.items() if name in kind), None)


def _peak_text(devices: Devices) -> str:
    texts = []
    for precision, unit in (("float32", "TF32"), ("bfloat16", "bfloat16")):
        peak = peak_flops(devices.kind, precision)
        texts.append("unknown" if peak is None else f"{peak * 1e-12:.0f} TFLOP/s {unit}, dense")
    return "; ".join(dict.fromkeys(texts))
