"""Packs: trials that one compiled program trains together, sized to the device's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.engine.devices import Devices
from harness.engine.program import make_train
from harness.trial import Hparams, Static, Trial
from workloads.base import Workload


@dataclass(frozen=True)
class Pack:
    """Trials that one compiled program trains together. All share the static signature and the horizon."""

    static: Static
    trials: tuple[Trial, ...]
    width: int

    @property
    def id(self) -> str:
        """16 hex digits that name this set of trials."""
        return hashlib.sha256("".join(trial.id for trial in self.trials).encode()).hexdigest()[:16]

    @property
    def horizon(self) -> int:
        return self.trials[0].horizon

    @property
    def signature(self) -> tuple[Static, int]:
        """Packs with equal signatures share one compiled program."""
        return self.static, self.width

    def hparams(self) -> Hparams:
        """Stacked traced values, (width,) leaves; the unused slots at the end repeat the last trial."""
        rows = [trial.hparams() for trial in self.trials]
        rows += rows[-1:] * (self.width - len(rows))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    def stops(self, step: int) -> np.ndarray:
        """(width,) int32: the step to train to; 0 in unused slots, which therefore never train."""
        active = np.arange(self.width) < len(self.trials)
        return np.where(active, step, 0).astype(np.int32)


def make_packs(
    trials: Iterable[Trial], devices: Devices, memory: float, pack_size: int | None = None
) -> tuple[list[Pack], list[str]]:
    """Group trials into packs that fit `memory` bytes per device, in order of cost; and a line for every split.

    Packs of one signature have one size, so that they share one program.
    """
    groups: dict[tuple[Static, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.static(), trial.horizon), []).append(trial)
    packs, notes = [], []
    for (static, _), members in sorted(groups.items(), key=lambda item: _flops(item[1][0])):
        most = fitting(members[0], devices, memory)
        count = -(-len(members) // min(most, pack_size or most))
        if count > 1 and most < min(len(members), pack_size or len(members)):
            notes.append(
                f"{len(members)} trials of width {static.workload.width} need more than the {memory / 2**30:.2f} GiB a pack "
                f"may take per device: split into {count} packs"
            )
        size = -(-len(members) // count)
        slots = devices.pack_width(size)
        packs += [Pack(static, tuple(members[i : i + size]), slots) for i in range(0, len(members), size)]
    return packs, notes


def _flops(trial: Trial) -> float:
    return trial.horizon * trial.workload.matmul_flops()


def fitting(trial: Trial, devices: Devices, memory: float) -> int:
    """How many trials like this one fit `memory` bytes per device (at least one per device).

    A trial's state counts twice, because a program's inputs and outputs may exist together. Activations exist once per
    device on CPU, where trials run in turn, and once per trial elsewhere.
    """
    state = jax.eval_shape(make_train(trial.static()).init, trial.hparams())
    state_bytes = 2 * _bytes(state)
    activations = _bytes(_residuals(trial.workload, state.params))
    on_cpu = devices.platform == "cpu"
    local = (memory - activations) / state_bytes if on_cpu else memory / (state_bytes + activations)
    return devices.count * max(1, int(local))


def _residuals(workload: Workload, params: Any) -> Any:
    """Shapes of what the backward pass keeps; nothing is computed."""

    def backward(params: Any, data: Any) -> Any:
        batch = workload.batch(data, jax.random.key(0), jnp.int32(0))
        return jax.vjp(lambda p: workload.loss(p, batch, jax.random.key(0))[0], params)[1]

    return jax.eval_shape(backward, params, dict(workload.load().arrays))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
