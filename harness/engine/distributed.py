"""Several processes that train one trial together: how they find each other, and what they must agree on.

    srun --ntasks=8 python -m harness.train engine.layout=model …            # one task a GPU or a node: found by themselves
    python -m harness.train engine.layout=model engine.coordinator=node001:29400 engine.processes=2 engine.process=0 …

Every process runs the same command and computes the same; the first one writes the records.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from workloads.base import BadInput

_PORTS = (61440, 4096)  # first, and how many: beyond those that Linux hands out
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Group:
    """coordinator: host:port of process 0. processes: how many. process: which one this is.

    gpus: which of the GPUs that this process sees it takes (None: all, or those of JAX_LOCAL_DEVICE_IDS).
    """

    coordinator: str
    processes: int
    process: int
    gpus: tuple[int, ...] | None = None


def group_of(
    coordinator: str, processes: int | None, process: int | None, environment: Mapping[str, str]
) -> Group | None:
    """Who trains together: as given, or else as srun says; None for a process on its own. Raises BadInput on half an answer."""
    if coordinator or processes is not None or process is not None:
        if not coordinator or processes is None or process is None:
            raise BadInput(
                "engine.coordinator=HOST:PORT, engine.processes=N and engine.process=K go together; give all three"
            )
        if not 0 <= process < processes:
            raise BadInput(f"engine.process={process} must lie in [0, {processes}), engine.processes={processes}")
        return Group(coordinator, processes, process, share_of_gpus(environment))
    count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if count < 2:
        return None
    host = first_host(environment["SLURM_STEP_NODELIST"])
    port = _PORTS[0] + int(environment["SLURM_JOB_ID"]) % _PORTS[1]
    return Group(f"{host}:{port}", count, int(environment["SLURM_PROCID"]), share_of_gpus(environment))


def share_of_gpus(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Of the GPUs that all tasks of a node see, this task's, where srun started several there; None for all that it sees.

    srun shows every task all GPUs of its node, unless it was asked to give each its own (--gpus-per-task, --gpu-bind …).
    Raises BadInput where there are fewer than tasks.
    """
    tasks, there = _tasks_here(environment), int(environment.get("SLURM_GPUS_ON_NODE") or "0")
    seen = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES"))
    if tasks < 2 or not there or _have_their_own(environment) or (seen is not None and len(seen.split(",")) < there):
        return None
    if there < tasks:
        raise BadInput(
            f"{tasks} tasks share the {there} GPUs of a node; start at most one a GPU: srun --ntasks-per-node={there}"
        )
    rank = int(environment["SLURM_LOCALID"])
    return tuple(range(rank * there // tasks, (rank + 1) * there // tasks))


def _have_their_own(environment: Mapping[str, str]) -> bool:
    """Whether srun was asked to show each task its own GPUs only."""
    binding = environment.get("SLURM_GPU_BIND", "") + environment.get("SLURM_TRES_BIND", "")
    asked = any(environment.get(name) for name in ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU"))
    asked = asked or "gpu" in environment.get("SLURM_TRES_PER_TASK", "")  # --cpus-per-task is there, too
    return (asked or bool(binding)) and "none" not in binding


def _tasks_here(environment: Mapping[str, str]) -> int:
    """Tasks of the step on this node: SLURM_STEP_TASKS_PER_NODE=4(x2),1 has 4, 4 and 1."""
    words = re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    counts = [int(count) for count, times in words for _ in range(int(times or 1))]
    return counts[min(int(environment.get("SLURM_NODEID", "0")), len(counts) - 1)]


def first_host(nodes: str) -> str:
    """Of SLURM's list of nodes: node[003-005,7],gpu1 -> node003."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    if found is None:
        raise BadInput(f"SLURM_STEP_NODELIST='{nodes}' names no node; give engine.coordinator=HOST:PORT")
    return found[1] + (found[2] or "")


def join(group: Group, timeout: float = _TIMEOUT) -> None:
    """Meet the other processes; call before anything touches a device. Raises BadInput if they can't be met in time."""
    host, _, port = group.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"engine.coordinator={group.coordinator} must be HOST:PORT, e.g. node001:29400")
    try:
        socket.getaddrinfo(host, int(port), proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise BadInput(
            f"the coordinator's host '{host}' does not resolve on {socket.gethostname()} ({error.strerror}); give a name or "
            "address that every node knows: engine.coordinator=HOST:PORT"
        ) from None
    if group.process > 0:
        _await(host, int(port), timeout)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.process,
            local_device_ids=group.gpus,
            cluster_detection_method="deactivate",  # which, under srun, gives every process one GPU
            initialization_timeout=max(1, int(timeout)),
        )
    except RuntimeError as error:
        raise BadInput(
            f"process {group.process} of {group.processes} did not meet the others at {group.coordinator} within {timeout:g} "
            f"s: {str(error).splitlines()[0]}"
        ) from None


def _await(host: str, port: int, timeout: float) -> None:
    """Wait until the coordinator listens."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BadInput(
                    f"nobody answers at engine.coordinator={host}:{port} within {timeout:g} s ({error}); is process 0 running, "
                    "and is the port open between the nodes?"
                ) from None
            time.sleep(0.2)


def greatest(*numbers: int) -> tuple[int, ...]:
    """Each number's maximum over all processes, which must all ask: so that they decide alike."""
    if jax.process_count() == 1:
        return numbers
    return tuple(multihost_utils.process_allgather(np.array(numbers, np.int32)).max(axis=0).tolist())
