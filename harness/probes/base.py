"""The probe protocol: what is measured on a trial's model whenever it is evaluated, beside its loss and metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from harness.optimizers.base import Optimizer
from harness.registry import Registry
from workloads.base import Array, Batch, Params, Workload

_BATCH_KEY = 2**30  # of probe batches: no data seed is as likely to be used


class Moment(NamedTuple):
    """A trial at one evaluation. evaluated: the parameters that are scored, averaged or rounded where the trial says so.

    learning_rate: of the last step taken; lr_scale: its factor by leaf.
    """

    workload: Workload
    optimizer: Optimizer
    params: Params
    evaluated: Params
    state: Any
    learning_rate: Array
    lr_scale: Any
    data: Mapping[str, Array]

    def batch(self, examples: int, number: int = 0) -> Batch:
        """A fixed batch of the training data, the same for every trial; another `number` is another batch."""
        workload = self.workload.replace(batch_size=examples)
        return workload.batch(self.data, jax.random.key(_BATCH_KEY), jnp.int32(number))

    def loss(self, params: Params, batch: Batch) -> Array:
        """The training loss, scalar."""
        return self.workload.loss(params, batch, jax.random.key(_BATCH_KEY))[0]


@dataclass(frozen=True)
class Probe:
    """Measures scalars. They are recorded with the curves as `probe.NAME`, and at the horizon in the trial's row."""

    name: ClassVar[str]

    def measure(self, moment: Moment) -> dict[str, Array]:
        """Name -> scalar. A pure function. Raises BadInput where workload or optimizer cannot be measured."""
        raise NotImplementedError


PROBES: Registry[Probe] = Registry("probe")
