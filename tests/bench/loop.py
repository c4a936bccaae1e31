"""What the engine is compared with where models are small: one trial, one jitted step per step of a Python loop.

The step is the engine's own, with the hyperparameters and the data as constants and the state donated; its keys are
JAX's, which give the same numbers. As a worker it runs in a JAX process with JAX's defaults, as a user's loop would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from harness.engine import keys
from harness.engine.program import make_train
from harness.trial import Trial
from tests.bench.cases import family, trial
from tests.bench.measure import Timer
from tests.bench.worker import serve

_MOST = 20_000


def loop_runner(trial: Trial, fetch: bool) -> Callable[[int], float]:
    """steps -> seconds that the loop takes. fetch: read the loss on the host at every step."""
    train = make_train(trial.static())
    data = jax.device_put(dict(trial.workload.load().arrays))
    hparams = jax.tree.map(jnp.asarray, trial.hparams())
    init = jax.jit(lambda: train.init(hparams))
    step = jax.jit(lambda state: train.step(state, hparams, data), donate_argnums=0)

    def run(steps: int) -> float:
        state = jax.block_until_ready(init())
        started = time.perf_counter()
        for _ in range(steps):
            state, loss = step(state)
            if fetch:
                float(loss)
        jax.block_until_ready(state)
        return time.perf_counter() - started

    return run


def main() -> None:
    keys.key = jax.random.key  # type: ignore[assignment]
    timers: dict[str, Timer] = {}

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        """{workload, fields, optimizer, steps, fetch, seconds} -> {seconds: per step}."""
        key = repr(question)
        if key not in timers:
            one = trial(family(question["workload"], **question["fields"]), question["optimizer"], question["steps"])
            timers[key] = Timer(loop_runner(one, question["fetch"]), question["seconds"], _MOST)
        return {"seconds": timers[key]()}

    serve(answer)


if __name__ == "__main__":
    main()
