"""Packs: trials that one compiled program trains together, sized to the device's memory."""

from __future__ import annotations

import hashlib
import math
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

_OTHER_WORK = 3e5  # FLOP-equivalents per token: width 32 trains at half the FLOP rate of width 128 on a CPU core
_PACK_WORK = 2e9  # FLOP-equivalents of one step of a full pack, per CPU core
_FEWEST_SLOTS, _MOST_SLOTS = 8, 64  # per CPU core
_GROUP = 16

Signature = tuple[Static, int]  # what a program is compiled for: the static part of its trials, and the number of slots


@dataclass(frozen=True)
class Pack:
    """Trials that one compiled program trains together. All share the static signature, the horizon and when they are
    evaluated.
    """

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

    def group(self, devices: Devices) -> int:
        """How many trials a device trains side by side: all of them, but on CPU one, whose data then stay in the core's
        caches, or several if steps are so cheap that their overhead counts.

        On CPU it depends on the program alone, so that a trial's bits do not depend on its company.
        """
        if devices.spread:
            return 1
        local = self.width // devices.count
        if devices.platform != "cpu":
            return local
        return math.gcd(_GROUP, local) if _wanted(self) == _MOST_SLOTS else 1

    @property
    def step_work(self) -> float:
        """What a step of all trials costs, in FLOPs of matrix products; time is about proportional to it on one device.

        What is not a matrix product (softmax, norms, the optimizer) is counted as a fixed amount per token.
        """
        workload = self.static.workload
        tokens = workload.batch_size * workload.tokens_per_example
        return len(self.trials) * (self.trials[0].matmul_flops + _OTHER_WORK * tokens)

    @property
    def signature(self) -> Signature:
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
    """Group trials into packs that fit `memory` bytes per device; and a line where memory decided.

    Packs of one signature have one number of slots, so that they share one program, and follow each other; signatures are in
    order of the cost of their cheapest pack.
    """
    groups: dict[tuple[Static, int, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.static(), trial.horizon, trial.evaluations), []).append(trial)
    cheapest: dict[Static, float] = {}
    for (static, *_), members in groups.items():
        cheapest[static] = min(cheapest.get(static, math.inf), _flops(members[0]))
    numbers = {static: number for number, static in enumerate(cheapest)}

    def order(item: tuple[tuple[Static, int, int], list[Trial]]) -> tuple[float, int, float]:
        (static, *_), members = item
        return cheapest[static], numbers[static], _flops(members[0])

    packs, notes = [], []
    for (static, *_), members in sorted(groups.items(), key=order):
        wanted = _slots(members, devices)
        fits = fitting(members[0], devices, memory)
        slots = min(wanted, fits)
        if pack_size and devices.platform != "cpu":  # there, idle slots would be computed
            slots = min(slots, devices.count * -(-pack_size // devices.count))
        size = min(slots, pack_size or slots)  # full ones first: what is left after some makes the same packs again
        count = -(-len(members) // size)
        if fits < min(wanted, len(members)):
            notes.append(
                f"{len(members)} trials of width {static.workload.width}: {fits} fit the {memory / 2**30:.2f} GiB a pack may "
                f"take per device, split into {count} packs"
            )
        packs += [Pack(static, tuple(members[i : i + size]), slots) for i in range(0, len(members), size)]
    return packs, notes


def _slots(trials: list[Trial], devices: Devices) -> int:
    """How long the trial axis should be, memory apart.

    On CPU, where trials run in turn and an idle slot costs nothing, a number that depends on the program alone, so that
    sweeps of every size share one compilation: few slots for costly steps, more for cheap ones, whose packs would
    otherwise be over before they are worth starting. Elsewhere all trials run at once. One at a time where each is spread over
    all devices.
    """
    if devices.spread:
        return 1
    if devices.platform != "cpu":
        return devices.count * -(-len(trials) // devices.count)
    return devices.count * _wanted(Pack(trials[0].static(), (trials[0],), 1))


def _wanted(pack: Pack) -> int:
    """Slots per CPU core: the fewer, the more a step of one of the pack's trials costs."""
    local = 1 << max(0, int(_PACK_WORK * len(pack.trials) / pack.step_work)).bit_length()
    return min(max(local, _FEWEST_SLOTS), _MOST_SLOTS)


def _flops(trial: Trial) -> float:
    return trial.horizon * trial.matmul_flops


_footprints: dict[Static, tuple[int, int]] = {}


def fitting(trial: Trial, devices: Devices, memory: float) -> int:
    """How many trials like this one fit `memory` bytes per device (at least one per device).

    A trial's state counts twice, because a program's inputs and outputs may exist together. Activations exist once per
    device on CPU, where trials run in turn, and once per trial elsewhere.
    """
    static = trial.static()
    if static not in _footprints:
        state = jax.eval_shape(make_train(static).init, trial.hparams())
        _footprints[static] = 2 * _bytes(state), _bytes(_residuals(trial.workload, state.params))
    state_bytes, activations = _footprints[static]
    if devices.platform != "cpu":
        return devices.count * max(1, int(memory / (state_bytes + activations)))
    local = max(1, int((memory - activations) / state_bytes))
    return devices.count * (1 << local.bit_length() - 1)  # a power of two, like the slots


def _residuals(workload: Workload, params: Any) -> Any:
    """Shapes of what the backward pass keeps; nothing is computed."""

    def backward(params: Any, data: Any) -> Any:
        batch = workload.batch(data, jax.random.key(0), jnp.int32(0))
        return jax.vjp(lambda p: workload.loss(p, batch, jax.random.key(0))[0], params)[1]

    return jax.eval_shape(backward, params, dict(workload.load().arrays))


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
