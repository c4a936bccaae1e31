"""steps: the engine's trial-steps against an eager PyTorch loop of the same model, and the share of the matmul peak."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from harness.engine.devices import TRIAL_AXIS, Devices
from harness.engine.side_by_side import side_by_side
from harness.trial import Trial
from tests.bench.cases import language_model, seeds, trial
from tests.bench.measure import Section, Target, Timer, interleave, ratios, scaled
from tests.bench.packs import timed_pack
from tests.bench.same_model import TOLERANCE, largest_difference, send
from tests.bench.setup import Setup
from tests.bench.worker import Worker

SPEED = {32: 1.5, 64: 1.2, 128: 1.0}  # width -> how many times the speed of PyTorch
CEILING_WIDTH = 128
CEILING_SHARE = 45.0  # percent
_PACK = 4
_HORIZON = 512
_MATRIX = 1024
_MOST_PRODUCTS = 4096

Timings = Mapping[str, Sequence[float]]


def measure(setup: Setup) -> Section:
    section = Section("steps", f"language model, batch 16 x 64 bytes, 2 layers: packs of {_PACK} on all devices")
    trials = {width: trial(language_model(width), "adamw", _HORIZON) for width in SPEED}
    timers: dict[str, Callable[[], float]] = {
        f"engine {width}": timed_pack(seeds(one, _PACK), setup.devices, setup.seconds) for width, one in trials.items()
    }
    timers["engine matmul"] = matmul_timer(setup.devices, setup.seconds / 2)
    with ExitStack() as stack:
        if importlib.util.find_spec("torch"):
            worker = stack.enter_context(Worker("tests.bench.eager", setup.environment))
            timers |= _torch_timers(worker, trials, setup, section)
        else:
            section.notes.append("PyTorch is not installed, so nothing is compared with it; `make bench` installs it")
        timings = interleave(timers, setup.rounds)
    for width in SPEED:
        _add_width(section, width, timings)
    _add_ceiling(section, trials[CEILING_WIDTH], timings)
    return section


def _torch_timers(
    worker: Worker, trials: Mapping[int, Trial], setup: Setup, section: Section
) -> dict[str, Callable[[], float]]:
    """PyTorch's step at every width and its matmul; adds the proof that the models are the same."""
    timers: dict[str, Callable[[], float]] = {}
    for width, one in trials.items():
        facts = send(worker, one, setup.folder, setup.seconds)
        difference = largest_difference(worker, one)
        section.add(
            f"width {width}: difference of losses, 4 steps", "relative", [difference], Target("at most", TOLERANCE)
        )
        timers[f"torch {width}"] = lambda width=width: worker.ask(time=str(width))["seconds"]  # type: ignore[misc]
    timers["torch matmul"] = lambda: 1.0 / worker.ask(matmul=_MATRIX, seconds=setup.seconds / 2)["rate"]
    section.notes.append(
        f"PyTorch {facts['torch']} with {facts['threads']} threads, its default, in a process of its own"
    )
    return timers


def _add_width(section: Section, width: int, timings: Timings) -> None:
    engine, torch = timings[f"engine {width}"], timings.get(f"torch {width}")
    section.add(f"width {width}: engine", "ms", scaled(engine, 1e3))
    if torch:
        section.add(f"width {width}: PyTorch", "ms", scaled(torch, 1e3))
        section.add(f"width {width}: PyTorch / engine", "x", ratios(torch, engine), Target("at least", SPEED[width]))


def _add_ceiling(section: Section, one: Trial, timings: Timings) -> None:
    """The model-FLOP rate beside the fastest float32 matmul of either library; the higher ceiling is the target's."""
    flops = one.workload.matmul_flops()
    rates = [flops / seconds for seconds in timings[f"engine {CEILING_WIDTH}"]]
    section.add(f"width {CEILING_WIDTH}: matrix FLOPs of the model", "GFLOP/s", scaled(rates, 1e-9))
    names = {"engine matmul": "XLA", "torch matmul": "torch.mm"}
    ceilings = {names[key]: [1.0 / t for t in timings[key]] for key in names if key in timings}
    highest = max(ceilings, key=lambda name: max(ceilings[name]))
    for name, ceiling in ceilings.items():
        section.add(f"matmul ceiling {_MATRIX}: {name}", "GFLOP/s", scaled(ceiling, 1e-9))
    for name, ceiling in ceilings.items():
        target = Target("at least", CEILING_SHARE) if name == highest else None
        share = scaled(ratios(rates, ceiling), 100.0)
        section.add(f"width {CEILING_WIDTH}: share of the {name} ceiling", "% of peak", share, target)
    section.notes.append(
        f"ceilings: float32, n = {_MATRIX}; torch.mm on its default threads, XLA with one product per device"
    )


def matmul_timer(devices: Devices, seconds: float) -> Callable[[], float]:
    """Seconds per FLOP of float32 products, every device busy with its own."""
    keys = jax.random.split(jax.random.key(0), devices.count)
    x = jax.vmap(lambda key: jax.random.normal(key, (_MATRIX, _MATRIX)))(keys)
    w = jax.random.normal(jax.random.key(1), (_MATRIX, _MATRIX)) * _MATRIX**-0.5

    def chain(x: jax.Array, w: jax.Array, count: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, x: x @ w, x[0])[None]

    specs = (PartitionSpec(TRIAL_AXIS), PartitionSpec(), PartitionSpec())
    program: Callable[..., Any] = jax.jit(
        jax.shard_map(chain, mesh=devices.mesh, in_specs=specs, out_specs=PartitionSpec(TRIAL_AXIS), check_vma=False)
    )
    if devices.lanes > 1:
        program = side_by_side(program, devices.lanes)
    x, w = devices.place(x), jax.device_put(w, devices.replicated)

    def run(count: int) -> float:
        count_on_device = jax.device_put(jnp.int32(count), devices.replicated)
        started = time.perf_counter()
        jax.block_until_ready(program(x, w, count_on_device))
        return time.perf_counter() - started

    timer = Timer(run, seconds, _MOST_PRODUCTS, devices.count)
    return lambda: timer() / (2.0 * _MATRIX**3)
