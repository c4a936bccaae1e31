"""How an optimizer's hyperparameters follow batch size and duration, beside what depends on width and depth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.optimizers.base import Optimizer
from harness.registry import nearest
from workloads.base import BadInput

BATCH_POWERS = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
DURATION_POWERS = {"none": 0.0, "power_scheduler": -0.51, "step_law": 0.307}
_AVERAGES = ("b1", "b2", "momentum", "decay")


@dataclass(frozen=True)
class Run:
    """What hyperparameters are rescaled by. batch: examples a step. tokens: over the whole run. steps: its horizon."""

    batch: float
    tokens: float
    steps: float


@dataclass(frozen=True)
class Rescaling:
    """The hyperparameters given are those of a base run; these rules carry them to another, with k = batch / base batch.

    batch_rule: none; linear, learning rate x k (Goyal et al. 2017, for SGD); sqrt, learning rate x k^1/2 with
    1 - beta -> k (1 - beta) and epsilon -> epsilon / k^1/2 for Adam-like optimizers (Malladi et al. 2022, the square-root
    scaling rule from the SDE of Adam, definition 5.2).
    duration_rule: none; power_scheduler, learning rate x (tokens ratio)^-0.51 (Shen et al. 2024, eq. 6); step_law,
    learning rate x (tokens ratio)^0.307 (Li et al. 2025, eq. 1).
    decay_timescale: keep the time scale 1 / (eta lambda) of decoupled decay the same fraction of the run (Wang & Aitchison
    2024), whatever the rules did to eta. base_batch, base_tokens: of the base run; 0 where a rule does not need them.
    """

    batch_rule: str = "none"
    duration_rule: str = "none"
    decay_timescale: bool = False
    base_batch: int = 0
    base_tokens: int = 0

    def validate(self) -> None:
        for key, valid in (("batch_rule", BATCH_POWERS), ("duration_rule", DURATION_POWERS)):
            word = getattr(self, key)
            if word not in valid:
                raise BadInput(f"unknown parametrization.{key} '{word}'. {nearest(word, valid)}")
        if self.batch_rule != "none" and self.base_batch < 1:
            raise BadInput(
                "parametrization.batch_rule needs parametrization.base_batch, the batch size it is relative to"
            )
        if (self.duration_rule != "none" or self.decay_timescale) and self.base_tokens < 1:
            raise BadInput(
                "parametrization.duration_rule and decay_timescale need parametrization.base_tokens, the base run's tokens"
            )

    def apply(self, optimizer: Optimizer, run: Run) -> Optimizer:
        """The optimizer with hyperparameters for `run`. Raises BadInput where a rule leaves its range."""
        batches = run.batch / self.base_batch if self.base_batch else 1.0
        tokens = run.tokens / self.base_tokens if self.base_tokens else 1.0
        power = BATCH_POWERS[self.batch_rule]
        k = batches if power else 1.0
        rate = k**power * tokens ** DURATION_POWERS[self.duration_rule]
        changes = {"learning_rate": optimizer.learning_rate * rate}
        if self.batch_rule == "sqrt" and optimizer.family == "adam":
            changes |= _of_sde(optimizer, k)
        if self.decay_timescale and optimizer.decoupled_decay:
            steps = tokens / batches  # horizon over the base run's
            changes["weight_decay"] = optimizer.weight_decay / (rate * steps)  # type: ignore[attr-defined]
        return dataclasses.replace(optimizer, **changes)


def _of_sde(optimizer: Optimizer, k: float) -> dict[str, float]:
    """Averages over the same number of examples, and epsilon beside gradients that are k^-1/2 as noisy."""
    fields = {field.name for field in dataclasses.fields(optimizer)}
    changes = {}
    for name in _AVERAGES:
        if name in fields and getattr(optimizer, name) is not None:
            changes[name] = 1.0 - k * (1.0 - getattr(optimizer, name))
            if not 0.0 <= changes[name] < 1.0:
                raise BadInput(
                    f"parametrization.batch_rule=sqrt takes optimizer.{name}={getattr(optimizer, name)} to {changes[name]:.3g} "
                    f"at {k:g} times the base batch; use a larger {name}, a nearer base_batch, or batch_rule=none"
                )
    if "eps" in fields:
        changes["eps"] = optimizer.eps / k**0.5  # type: ignore[attr-defined]
    return changes
