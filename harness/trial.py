"""Trial: the frozen, hashable, complete description of one training run, and its split into static and traced parts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from harness import components
from harness.budget import Budget, Rates, evaluation_steps, steps_of
from harness.optimizers.base import Optimizer
from harness.optimizers.normalisation import refuse_unnormalised
from harness.parametrizations.base import Parametrization, scales
from harness.parametrizations.rescale import Run
from harness.parametrizations.user_table import UserTable
from harness.probes.base import PROBES
from harness.registry import nearest
from harness.schedules.base import Schedule
from workloads.base import Array, BadInput, Params, Workload

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Static:
    """Everything that shapes the compiled program. Trials with equal statics share one compilation.

    capacity: the most steps one call of the program can take (the length of its loss buffer).
    """

    workload: Workload
    optimizer: Optimizer
    schedule: Schedule
    precision: str
    capacity: int
    keep_norms: bool = False
    probes: tuple[str, ...] = ()


class Hparams(NamedTuple):
    """Everything traced, one trial's worth: float32 and integer scalars (the engine adds a leading trial axis).

    scales: the parametrization's (init, learning rate, weight decay, epsilon) trees. horizon in steps. lengths: the schedule's
    durations in steps.
    """

    workload: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    lengths: dict[str, Any]
    scales: tuple[Any, Any, Any, Any]
    horizon: Any
    divergence_factor: Any
    seed: Any
    data_seed: Any


@dataclass(frozen=True)
class Trial:
    """One training run. Two trials with the same `id` are the same computation.

    evaluations: how often the validation split is evaluated, evenly spread, the last time at the horizon.
    data_seed: which batches are seen, and in what order (null: the seed's). divergence_factor: a training loss above this
    multiple of the first step's loss (or a non-finite one) ends the trial as diverged. keep_norms: every
    matrix keeps its initial norm (Normalize-and-Project; the model must normalise before every nonlinearity). probes: names of
    what is measured on the model at every evaluation (harness.probes).
    """

    name: ClassVar[str] = "trial"

    workload: Workload
    optimizer: Optimizer
    schedule: Schedule
    parametrization: Parametrization
    budget: Budget
    seed: int = 0
    data_seed: int | None = None
    evaluations: int = 10
    divergence_factor: float = 10.0
    precision: str = "float32"
    keep_norms: bool = False
    probes: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raise BadInput if this can't be trained. Compiles nothing; reads the corpus to know its length."""
        for part in (self.workload, self.optimizer, self.schedule, self.parametrization):
            part.validate()
        for key, number in self.config().items():
            if isinstance(number, float) and not math.isfinite(number):
                raise BadInput(f"{key}={number} must be finite")
        if self.precision not in PRECISIONS:
            raise BadInput(f"unknown precision '{self.precision}'. {nearest(self.precision, PRECISIONS)}")
        if self.evaluations < 1:
            raise BadInput(f"evaluations={self.evaluations} must be at least 1")
        if not self.divergence_factor > 1:
            raise BadInput(f"divergence_factor={self.divergence_factor} must be above 1")
        for seed in ("seed", "data_seed"):
            if not 0 <= (getattr(self, seed) or 0) < 2**31:
                raise BadInput(f"{seed}={getattr(self, seed)} must lie in [0, 2^31)")
        for probe in self.probes:
            PROBES[probe]
        if self.keep_norms:
            self._require_normalisation()
        self.schedule.check_lengths(self.lengths(), self.horizon)
        scales(self.parametrization, self.workload, components.erase(self.optimizer))
        self.rescaled_optimizer()

    def _require_normalisation(self) -> None:
        """Raise BadInput if the projection of matrices would change what the model can express."""
        shapes = {name: (array.shape, array.dtype) for name, array in self.workload.load().arrays.items()}
        key, step = jax.random.key(0), np.int32(0)

        def loss(params: Params, output_scale: Array) -> Array:
            data = {name: jnp.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
            workload = self.workload.replace(output_scale=output_scale)
            return workload.loss(params, workload.batch(data, key, step), key)[0]

        refuse_unnormalised(loss, jax.eval_shape(self.workload.init, key))

    def config(self) -> dict[str, Any]:
        """The canonical configuration, flat: "workload" is a name, "workload.width" its field, and so on."""
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not dataclasses.is_dataclass(value):
                flat[field.name] = ",".join(value) if isinstance(value, tuple) else value
                continue
            config = components.as_config(value)
            name = config.pop("name")
            if field.name != "budget":
                flat[field.name] = name
            flat.update({f"{field.name}.{key}": entry for key, entry in config.items()})
        return flat

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits of the SHA-256 of the canonical configuration and of the files it names.

        A table of exponents counts by its content, wherever it lies: a copy of it is the same trial.
        """
        parts: list[Any] = [self.config(), self.data_sha256]
        if isinstance(self.parametrization, UserTable) and self.parametrization.file:
            del parts[0]["parametrization.file"]
            parts.append(self.parametrization.sha256)
        canonical = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @functools.cached_property
    def data_sha256(self) -> str:
        """Of the corpus, where the workload has one: the same path may hold another text tomorrow."""
        return str(self.workload.load().info.get("sha256", ""))

    @functools.cached_property
    def rates(self) -> Rates:
        from harness.engine.cost import step_seconds  # the engine measures what few budgets ask for

        return Rates(
            examples=self.workload.batch_size,
            tokens=self.workload.batch_size * self.workload.tokens_per_example,
            epoch=self.workload.load().examples,
            flops=lambda: self.matmul_flops,
            seconds=lambda: step_seconds(self),
        )

    @functools.cached_property
    def horizon(self) -> int:
        """The budget in steps."""
        return self.budget.horizon(self.rates)

    @property
    def tokens(self) -> int:
        """Tokens seen over the whole horizon."""
        return self.horizon * self.rates.tokens

    @property
    def matmul_flops(self) -> float:
        """Analytic FLOPs of a step's matrix multiplications; an optimizer that selects its examples looks at all candidates,
        which takes a third of training on them (the forward pass).
        """
        candidates = self.optimizer.candidates
        return self.workload.matmul_flops() * (1.0 if candidates == 1 else 1.0 + candidates / 3.0)

    def lengths(self) -> dict[str, float]:
        """The schedule's durations in steps."""
        return {
            name: steps_of(getattr(self.schedule, name), self.horizon, self.rates) for name in self.schedule.durations
        }

    def static(self) -> Static:
        longest = max(np.diff([0, *evaluation_steps(self.horizon, self.evaluations)]))
        return Static(
            workload=components.erase(self.workload),
            optimizer=components.erase(self.optimizer),
            schedule=dataclasses.replace(components.erase(self.schedule), **dict.fromkeys(self.schedule.durations, "")),
            precision=self.precision,
            capacity=1 << int(longest - 1).bit_length(),
            keep_norms=self.keep_norms,
            probes=self.probes,
        )

    def rescaled_optimizer(self) -> Optimizer:
        """The optimizer with its hyperparameters carried from the parametrization's base run to this one."""
        run = Run(self.workload.batch_size, self.tokens, self.horizon)
        return self.parametrization.apply(self.optimizer, run)

    def hparams(self) -> Hparams:
        """The traced part as numpy scalars; factors by leaf and rescaled hyperparameters come from the parametrization."""
        factors = scales(self.parametrization, self.workload, components.erase(self.optimizer))
        named = {key: getattr(factors, key) for key in ("attention_scale", "residual_scale", "output_scale")}
        values = Hparams(
            workload=components.traced(self.workload) | named,
            optimizer=components.traced(self.rescaled_optimizer()),
            schedule=components.traced(self.schedule),
            lengths=self.lengths(),
            scales=(factors.init, factors.learning_rate, factors.weight_decay, factors.epsilon),
            horizon=float(self.horizon),
            divergence_factor=self.divergence_factor,
            seed=np.int32(self.seed),
            data_seed=np.int32(self.seed if self.data_seed is None else self.data_seed),
        )
        return jax.tree.map(lambda v: np.float32(v) if isinstance(v, float) else v, values)
