"""The coordinate check (harness.transfer.coordinate_check) for families that take long to compile.

The same movements, from one compiled step and one compiled forward pass a width, which both parametrizations share.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.budget import Budget
from harness.components import bind
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.schedules import SCHEDULES
from harness.transfer.coordinate_check import FLAT
from harness.trial import Static, Trial
from workloads.base import Workload

_QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
_STEPS = 4


@functools.cache
def _programs(static: Static) -> tuple[Any, Any, Any]:
    train = make_train(static)

    def activations(params: Any, hparams: Any, data: Any) -> Any:
        workload = bind(static.workload, hparams.workload)
        found = workload.activations(params, workload.batch(data, jax.random.key(1), jnp.int32(0)))
        return OrderedDict(found)  # jit sorts what comes in a plain dict, and which comes first matters

    compiled = (jax.jit(f, compiler_options=_QUICK) for f in (train.init, train.step, activations))
    return tuple(compiled)  # type: ignore[return-value]


def slopes(
    workload: Workload, parametrization: str, widths: Sequence[int], seeds: int, rate: float = 1e-2, together: int = 1
) -> dict[str, float]:
    """Log-log slope against width of how far each activation moves in 4 steps of AdamW, mean over seeds, and of the first
    activation that a matrix moves when it alone moves on from step `together` ("MATRIX alone").

    A matrix that moves nothing is left out: where branches and output start at zero, what lies before them comes alive in
    step 3 only.
    """
    trial = Trial(
        workload=workload,
        optimizer=OPTIMIZERS["adamw"](learning_rate=rate),
        schedule=SCHEDULES["constant"](warmup="0 steps"),
        parametrization=PARAMETRIZATIONS[parametrization](**({} if parametrization == "sp" else {"base_width": 8})),
        budget=Budget(steps=_STEPS),
        data_seed=0,
    )
    data = {name: jnp.asarray(array) for name, array in workload.load().arrays.items()}
    wide = [replace(trial, workload=workload.replace(width=width)) for width in widths]
    moved = [[_movement(replace(one, seed=seed), data, together) for seed in range(seeds)] for one in wide]
    changes = {name: np.array([[found[name] for found in row] for row in moved]) for name in moved[0][0]}
    return {
        name: float(np.polyfit(np.log(widths), np.log(change), 1)[0].mean())
        for name, change in changes.items()
        if np.all(change > 0)
    }


def uneven(found: dict[str, float]) -> dict[str, float]:
    """The slopes that no transferring parametrization has: activations stay within +-1/4. Of what a matrix moves alone, chance
    overlaps that fade with width may take a little more, but not the half power of a wrong exponent.
    """
    least = {name: -2 * FLAT if name.endswith(" alone") else -FLAT for name in found}
    return {name: slope for name, slope in found.items() if not least[name] <= slope <= FLAT}


def _movement(trial: Trial, data: Any, together: int) -> dict[str, float]:
    init, step, activations = _programs(trial.static())
    hparams = trial.hparams()
    states = [init(hparams)]
    for _ in range(_STEPS):
        states.append(step(states[-1], hparams, data)[0])
    start, fork, end = (states[index].params for index in (0, together, _STEPS))
    before, early, after = (activations(params, hparams, data) for params in (start, fork, end))
    found = {name: _distance(before[name], after[name]) for name in before}
    old, new = (jax.tree_util.tree_leaves_with_path(params) for params in (fork, end))
    for index, (path, leaf) in enumerate(old):
        if leaf.ndim > 1:
            leaves = [*(x for _, x in old[:index]), new[index][1], *(x for _, x in old[index + 1 :])]
            alone = activations(jax.tree.unflatten(jax.tree.structure(fork), leaves), hparams, data)
            name = "/".join(entry.key for entry in path) + " alone"
            found[name] = next((change for key in early if (change := _distance(early[key], alone[key])) > 0), 0.0)
    return found


def _distance(a: Any, b: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)))))
