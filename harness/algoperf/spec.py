"""What submissions import as `algoperf.spec`: the names of AlgoPerf's API, for files that run without its package."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any


class ForwardPassMode(enum.Enum):
    """What a forward pass is for."""

    TRAIN = 0
    EVAL = 1


class LossType(enum.Enum):
    """The training loss of a workload."""

    SOFTMAX_CROSS_ENTROPY = 0
    SIGMOID_CROSS_ENTROPY = 1
    MEAN_SQUARED_ERROR = 2
    CTC_LOSS = 3
    MEAN_ABSOLUTE_ERROR = 4


class ParameterType(enum.Enum):
    """What a leaf of the parameters is."""

    WEIGHT = 0
    BIAS = 1
    CONV_WEIGHT = 2
    BATCH_NORM_SCALE = 3
    BATCH_NORM_BIAS = 4
    LAYER_NORM_SCALE = 5
    LAYER_NORM_BIAS = 6
    EMBEDDING = 7
    ATTENTION_Q = 8
    ATTENTION_K = 9
    ATTENTION_V = 10
    ATTENTION_OUT = 11
    ATTENTION_QKV = 12
    ATTENTION_KV = 13
    ATTENTION_BIAS = 14


class ShapeTuple:
    """The shape of one leaf, `shape_tuple`; itself a leaf, where a tuple would be a tree."""

    def __init__(self, shape_tuple: tuple[int, ...]) -> None:
        self.shape_tuple = shape_tuple

    def __repr__(self) -> str:
        return f"ShapeTuple({self.shape_tuple})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapeTuple) and self.shape_tuple == other.shape_tuple

    def __hash__(self) -> int:
        return hash(self.shape_tuple)


class TrainingCompleteError(Exception):
    """Raised by update_params to end the training, which is then evaluated a last time."""


class Workload:
    """The base of what submissions get as `workload`."""


# Names of annotations, which nothing checks.
Tensor = Any
Shape = Any
ParameterShapeTree = Any
ParameterKey = str
ParameterContainer = Any
ParameterTypeTree = Any
RandomState = Any
OptimizerState = Any
Hyperparameters = Any
Timing = int
Steps = int
ModelAuxiliaryState = Any
ModelInitState = Any
UpdateReturn = Any
InitOptimizerFn = Callable[..., Any]
UpdateParamsFn = Callable[..., Any]
PrepareForEvalFn = Callable[..., Any]
DataSelectionFn = Callable[..., Any]
