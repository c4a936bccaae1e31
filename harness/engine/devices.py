"""Devices: the CPU's cores or the GPUs, the compilation cache, and memory budgets.

Two layouts: `trials`, where every core or GPU trains whole trials of its own; and `model`, for a trial that outgrows one
device, where every array of a trial is split over all devices of all processes (fully sharded data parallelism).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from harness.engine.side_by_side import Lanes
from harness.registry import nearest
from workloads.base import BadInput

TRIAL_AXIS, MODEL_AXIS = "trial", "model"
LAYOUTS = ("trials", "model")
# One core per trial: its arithmetic then never depends on how many cores or trials run beside it.
_CPU_FLAGS = {"xla_cpu_multi_thread_eigen": "false"}
# XLA runs programs on a pool of $NPROC threads (default: the cores), and is fastest with as many as there are programs:
# language models of width 32 and 64 take 1.5 and 1.4 times as long with four times as many. But what waits for a part of itself
# holds its thread, and if all do, they wait for ever: a program's devices for each other, and LAPACK (see compiler.py).
_THREADS_PER_DEVICE = {"trials": 1, "model": 4}
_CACHE_HITS = "/jax/compilation_cache/cache_hits"
_CACHE_MISSES = "/jax/compilation_cache/cache_misses"
MEMORY_SHARE = 0.6  # of the memory that there is goes to a pack
XLA_SHARE = 0.75  # of a GPU's memory is what XLA takes, its `bytes_limit`, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set
_GIB = 2**30


def configure(devices: int | None = None, cache: Path | None = None, layout: str = "trials") -> None:
    """Set up JAX for training; call once, before anything touches a device.

    devices: CPU cores to use, default all that are available to this process. Flags the user set in XLA_FLAGS stay.
    cache: persistent compilation cache, default $XDG_CACHE_HOME/windtunnel (JAX_COMPILATION_CACHE_DIR wins).
    """
    given = os.environ.get("XLA_FLAGS", "")
    ours = [f"--{flag}={value}" for flag, value in _CPU_FLAGS.items() if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *ours]).strip()
    threads = _THREADS_PER_DEVICE.get(layout, 1) * (devices or len(os.sched_getaffinity(0)))
    os.environ.setdefault("NPROC", str(threads))
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update(
        "jax_default_matmul_precision", "highest"
    )  # or float32 would be TF32 on some GPUs, under one trial id
    if "xla_force_host_platform_device_count" not in given:
        try:
            jax.config.update("jax_num_cpu_devices", devices or len(os.sched_getaffinity(0)))
        except RuntimeError:  # something used JAX before; the default is a wish, a number asked for an order
            if devices:
                raise
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache or _default_cache()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _default_cache() -> Path:
    """A folder per processor type: programs compiled for one CPU may use instructions another lacks."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = ""
    return base / "windtunnel" / f"xla-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


@dataclass
class CacheCounter:
    """Counts hits and misses of the persistent compilation cache in this process."""

    hits: int = 0
    misses: int = 0

    def __call__(self, event: str, **_: object) -> None:
        self.hits += event == _CACHE_HITS
        self.misses += event == _CACHE_MISSES


@dataclass(frozen=True)
class Devices:
    """The devices as one axis, over which trials are split, or with `spread` the arrays of each trial.

    lanes: cores that train trials side by side on each of the devices; on CPU, where one device has them all.
    """

    mesh: Mesh
    spread: bool = False
    lanes: int = 1

    @property
    def count(self) -> int:
        """Cores or GPUs."""
        return self.mesh.size * self.lanes

    @property
    def platform(self) -> str:
        return str(self.mesh.devices.flat[0].platform)

    @property
    def kind(self) -> str:
        """A human-readable device name such as "NVIDIA H100" or "cpu"."""
        return str(self.mesh.devices.flat[0].device_kind)

    @property
    def primary(self) -> bool:
        """Whether this process writes the records: the first one of those that train together."""
        return not self.spread or jax.process_index() == 0

    @property
    def by_trial(self) -> NamedSharding:
        """Leading axis = trials, split over the devices; with `spread` every device has all."""
        return NamedSharding(self.mesh, PartitionSpec() if self.spread else PartitionSpec(TRIAL_AXIS))

    def of_state(self, tree: Any) -> Any:
        """Shardings of a state's leaves, (trials, ...) each: by trial, or with `spread` along the longest axis that divides."""
        return jax.tree.map(lambda leaf: self._of_leaf(leaf.shape) if self.spread else self.by_trial, tree)

    def _of_leaf(self, shape: tuple[int, ...]) -> NamedSharding:
        lengths = [length if length % self.count == 0 else 0 for length in shape[1:]]
        longest = max(lengths, default=0)
        if not longest:
            return self.replicated
        at = 1 + lengths.index(longest)
        return NamedSharding(self.mesh, PartitionSpec(*[None] * at, MODEL_AXIS))

    def split_batch(self, batch: Any) -> Any:
        """With `spread`: the batch, each device computing on its share of the examples (if their number divides)."""
        if not self.spread:
            return batch

        def split(leaf: Any) -> Any:
            shared = leaf.ndim > 0 and leaf.shape[0] % self.count == 0
            spec = PartitionSpec(MODEL_AXIS) if shared else PartitionSpec()
            return jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, spec))

        return jax.tree.map(split, batch)

    def place(self, tree: Any) -> Any:
        """Host arrays with a leading trial axis onto the devices, each its own trials' (with `spread` all)."""
        if self.lanes == 1:
            return self.put(tree, self.by_trial)
        return jax.device_put(Lanes.of(tree, self.lanes), self.replicated)

    def place_state(self, whole: Any, like: Any) -> Any:
        """Host arrays of a state onto the devices, as `like`, the state of a program, is."""
        return self.place(whole) if self.lanes > 1 else self.put(whole, self.of_state(like))

    def put(self, tree: Any, shardings: Any) -> Any:
        """Host arrays onto the devices; with `spread` each process gives its devices their part of what all of them hold."""
        if not self.spread:
            return jax.device_put(tree, shardings)

        def one(leaf: Any, sharding: NamedSharding) -> Any:
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        if isinstance(shardings, NamedSharding):
            return jax.tree.map(lambda leaf: one(leaf, shardings), tree)
        return jax.tree.map(one, tree, shardings)

    def fetch(self, tree: Any) -> Any:
        """Leaves as numpy arrays, whole; with `spread` all processes must ask together.

        One by one, since the whole state may not fit a device: no device ever holds more than one whole leaf.
        """
        return tree.whole() if isinstance(tree, Lanes) else jax.tree.map(_whole, tree)

    def surviving(self) -> Devices:
        """Those of the devices that still compute, as found out by asking each."""

        def computes(device: Any) -> bool:
            try:
                return float(jax.device_put(np.float32(1.0), device) + np.float32(1.0)) == 2.0
            except jax.errors.JaxRuntimeError:
                return False

        kept = [device for device in self.mesh.devices.flat if computes(device)]
        return self if len(kept) in (0, self.mesh.size) else Devices(Mesh(kept, self.mesh.axis_names), self.spread)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def memory(self, limit_gb: float | None) -> float:
        """Bytes that a pack may take on each device."""
        if limit_gb is not None:
            if limit_gb <= 0:
                raise BadInput(f"engine.memory_gb={limit_gb} must be positive")
            return limit_gb * _GIB
        stats = self.mesh.devices.flat[0].memory_stats() if self.platform != "cpu" else None
        if stats and "bytes_limit" in stats:
            return MEMORY_SHARE * stats["bytes_limit"]
        return MEMORY_SHARE * _available_memory() / self.count


def _whole(leaf: Any) -> np.ndarray:
    """An array on the host, its parts on other processes' devices included."""
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    return np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))


def local_devices(layout: str = "trials") -> Devices:
    """This process' devices for the layout `trials`, those of all processes for `model`."""
    if layout not in LAYOUTS:
        raise BadInput(f"unknown engine.layout '{layout}'. {nearest(layout, LAYOUTS)}")
    if layout == "model":
        return Devices(Mesh(jax.devices(), (MODEL_AXIS,)), spread=True)
    found = jax.local_devices()
    if found[0].platform == "cpu":
        return Devices(Mesh(found[:1], (TRIAL_AXIS,)), lanes=len(found))
    return Devices(Mesh(found, (TRIAL_AXIS,)))


def _available_memory() -> float:
    """Bytes this process may still take: the system's available memory or the cgroup's limit, whichever is less."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return float(available if limit == "max" else min(available, int(limit)))
