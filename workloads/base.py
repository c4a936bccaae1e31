"""The workload protocol: everything the harness asks of a thing to train.

A workload is a frozen dataclass: its fields are its configuration, its methods are pure functions.
One convention makes packs possible: a field annotated `float` is *traced* (trials that differ only
there share one compiled program), every other field (int, bool, str) is *static* (it shapes the program).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

Array = Any  # a jax.Array, or a tracer of one
Params = Any  # nested dict of arrays
Batch = Any  # pytree of arrays with a leading batch axis


class BadInput(ValueError):
    """What the user gave cannot work; the message says why and names the fix (commands exit with 2)."""


@dataclass(frozen=True)
class Metric:
    """The number a workload is judged by."""

    name: str
    direction: Literal["minimize", "maximize"]
    unit: str

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is a strictly better value than `b` (NaN is never better)."""
        return a < b if self.direction == "minimize" else a > b


@dataclass(frozen=True)
class Data:
    """A loaded data set. `arrays` live on the device and are passed to `batch` and `evaluate`.

    arrays: name -> array (any shapes; read-only).
    info: what is recorded with the study: JSON-able facts such as sizes, file counts, SHA-256.
    examples: number of distinct training examples, which is what one epoch means.
    """

    arrays: Mapping[str, np.ndarray]
    info: Mapping[str, Any]
    examples: int


Tap = Callable[[str, Array], None]
"""Is told the activations of a forward pass, by name."""


def ignore(name: str, activation: Array) -> None:
    """A tap that listens to nothing."""


@dataclass(frozen=True)
class Workload:
    """Base of all families. Subclasses add their fields and implement the methods that raise here.

    variants: named modifications of the family (AlgoPerf's sense), name -> changed fields. default_steps: horizon of a
    default-budget trial, the one that targets are set with.

    width, depth: the two size knobs every family has.
    batch_size: examples per step.
    attention_scale, residual_scale, output_scale: the named scalars that parametrizations set
    (multiplied onto attention logits, residual branches and outputs; 1.0 is SP).
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    default_steps: ClassVar[int] = 200

    width: int = 64
    depth: int = 2
    batch_size: int = 16
    attention_scale: float = 1.0
    residual_scale: float = 1.0
    output_scale: float = 1.0

    @property
    def tokens_per_example(self) -> int:
        """Tokens in one example (1 where the family has no tokens)."""
        return 1

    @property
    def head_size(self) -> int:
        """Size of one attention head (1 where the family has no attention)."""
        return 1

    def validate(self) -> None:
        """Raise BadInput if the fields cannot make a model. Called before anything compiles."""
        for field in ("width", "depth", "batch_size"):
            if getattr(self, field) < 1:
                raise BadInput(f"workload.{field}={getattr(self, field)} must be at least 1")

    def load(self) -> Data:
        """Read or generate the data set (host side; cached per process by the family)."""
        raise NotImplementedError

    def data_key(self) -> Hashable:
        """Equal for workloads whose `load` gives the same data, so that the device holds it once."""
        return type(self), dataclasses.replace(self, width=1, depth=1)

    def init(self, key: Array) -> Params:
        """Parameters at SP initialisation, a nested dict. Matrices are stored (..., fan_in, fan_out)."""
        raise NotImplementedError

    def batch(self, data: Mapping[str, Array], key: Array, step: Array) -> Batch:
        """The training batch of `step`: a pure function of (data, key, step), on device.

        `key` depends on the data seed only, so every width and learning rate sees the same batches.
        """
        raise NotImplementedError

    def loss(self, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Training loss (scalar, mean over the batch) and auxiliary scalars."""
        raise NotImplementedError

    def evaluate(self, params: Params, data: Mapping[str, Array], split: str) -> dict[str, Array]:
        """Scalars on the whole held-out `split` ("validation" or "test"). Holds "loss" and the metric's name."""
        raise NotImplementedError

    def activations(self, params: Params, batch: Batch) -> dict[str, Array]:
        """What the layers put out on a batch, name -> (examples, features), the outputs last.

        Diagnostics compare their sizes across widths. Raises BadInput where the family does not say.
        """
        raise BadInput(f"workload '{self.name}' does not expose its activations, which this check needs")

    def instabilities(self, params: Params, batch: Batch) -> dict[str, Array]:
        """Scalars that grow before training becomes unstable, name -> value: the largest attention logit of each layer
        ("attention_logit_LAYER") and the mean of log Z of the outputs ("log_z").

        Raises BadInput where the family has none.
        """
        raise BadInput(f"workload '{self.name}' logs no attention logits, which the probe 'instabilities' reads")

    def matmul_flops(self) -> float:
        """Analytic FLOPs of the matrix multiplications of one training step (forward and backward).

        Convolutions count as the products they are: 2 x outputs x kernel entries per output, zero padding included.
        """
        raise NotImplementedError

    def trivial_metric(self) -> float | None:
        """The validation metric of the best predictor that looks at no input (None where it is not known)."""
        return None

    def oracle_metric(self) -> float | None:
        """The validation metric of the best possible predictor, which knows how data were made (None where nobody knows)."""
        return None

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)
