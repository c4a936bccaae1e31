"""What a registered optimizer's steps take when they are started one by one, as a submission's are: what limits its time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from harness.algoperf.apart import Apart
from harness.algoperf.run import train
from harness.algoperf.spec import ForwardPassMode
from harness.algoperf.submission import AlgoPerfSubmission, Functions
from harness.optimizers.base import Optimizer, apply_update
from harness.trial import Trial

_STEPS = 48
_RUNS = 3


@dataclass(frozen=True)
class Reference(AlgoPerfSubmission):
    """An optimizer at a constant learning rate, in the form of a submission."""

    optimizer: Optimizer

    @classmethod
    def of(cls, optimizer: Optimizer) -> Reference:
        text = repr(optimizer)
        return cls((Path(optimizer.name),), text, hashlib.sha256(text.encode()).hexdigest(), False, optimizer)

    def functions(self, apart: Apart) -> Functions:
        optimizer = self.optimizer
        rate: Any = optimizer.learning_rate  # type: ignore[attr-defined]

        def init(workload: Any, params: Any, model_state: Any, hyperparameters: Any, rng: Any) -> Any:
            def update(state: Any, params: Any, batch: Any, rng: Any) -> Any:
                def loss_of(params: Any) -> Any:
                    logits, _ = workload.model_fn(params, batch, None, ForwardPassMode.TRAIN, rng)
                    loss = workload.loss_fn(label_batch=batch["targets"], logits_batch=logits)
                    return loss["summed"] / loss["n_valid_examples"]

                loss, grads = jax.value_and_grad(loss_of)(params)
                ones = jax.tree.map(lambda leaf: 1.0, params)
                params, state = apply_update(optimizer, rate, grads, state, params, loss, ones, ones, ones)
                return state, params

            return optimizer.build(rate).init(params), jax.jit(update, donate_argnums=(0, 1))

        def update_params(current_param_container: Any, batch: Any, optimizer_state: Any, rng: Any, **_: Any) -> Any:
            state, update = optimizer_state
            state, params = update(state, current_param_container, batch, rng)
            return (state, update), params, None

        def batch_size(name: str) -> int:
            raise KeyError(name)  # the workload's own

        def select(workload: Any, batches: Any, *_: Any, **__: Any) -> Any:
            return next(batches)

        return Functions(init, update_params, batch_size, select, None)


def step_seconds(trials: Sequence[Trial]) -> list[float]:
    """Seconds of a step of each trial's optimizer on its workload, unpacked: the mean of the slowest of three short runs.

    Of the second half of each, as the first steps of a run load what was compiled.
    """
    found = []
    for trial in trials:
        reference = Reference.of(trial.optimizer)
        runs = [train(reference, trial.workload, {}, _STEPS, 2, seed=0).evaluations for _ in range(_RUNS)]
        found.append(max((last.seconds - first.seconds) / (last.step - first.step) for first, last in runs))
    return found
