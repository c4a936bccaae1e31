"""Our workloads as submissions know them: AlgoPerf's `workload` argument, and its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from harness.algoperf import spec
from harness.algoperf.spec import LossType, ParameterType, ShapeTuple
from harness.engine import keys
from workloads.base import Array, BadInput, Batch, Params, Workload

_TARGETS = ("targets", "target", "labels")  # the leaf of a batch that is called so is AlgoPerf's "targets"
_OUTPUTS = ("output", "output_bias", "readout", "head")
_LOSSES = {
    "ctr": LossType.SIGMOID_CROSS_ENTROPY,
    "graph": LossType.SIGMOID_CROSS_ENTROPY,
    "mri": LossType.MEAN_ABSOLUTE_ERROR,
    "regression": LossType.MEAN_SQUARED_ERROR,
    "speech_conformer": LossType.CTC_LOSS,
    "speech_deepspeech": LossType.CTC_LOSS,
}
_ATTENTION = {
    "query": ParameterType.ATTENTION_Q,
    "query_key_value": ParameterType.ATTENTION_QKV,
    "key_value": ParameterType.ATTENTION_KV,
    "attention_out": ParameterType.ATTENTION_OUT,
}


class NoSmoothing(BadInput):
    """A workload was asked for label smoothing that its loss has not."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Logits:
    """What model_fn returns: not logits, but all that loss_fn needs to compute the loss, as our workloads only offer that.

    Gradients flow through it, and it may cross jit, checkpoint or scan. Whoever wants numbers in it is told that there
    are none, instead of getting a wrong answer.
    """

    params: Params
    inputs: Any
    rng: Array | None

    def __jax_array__(self) -> NoReturn:
        raise BadInput(_NO_LOGITS)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"'{name}': {_NO_LOGITS}")


_NO_LOGITS = (
    "our workloads tell no logits, only their loss; a submission can do nothing with what model_fn returns but give it to "
    "workload.loss_fn"
)


@dataclass(frozen=True)
class BatchForm:
    """How a workload's batches become AlgoPerf's {"inputs", "targets"}, and come back.

    target: key of the leaf that is "targets"; None where there is none, then it is (batch,) zeros. single: key of the only
    other leaf, which is "inputs" itself.
    """

    target: str | None
    single: str | None

    @classmethod
    def of(cls, batch: Batch) -> BatchForm:
        target = next((name for name in _TARGETS if name in batch), None) if isinstance(batch, Mapping) else None
        others = [name for name in batch if name != target] if target else []
        return cls(target, others[0] if len(others) == 1 else None)

    def split(self, batch: Batch) -> dict[str, Any]:
        if self.target is None:
            examples = jax.tree.leaves(batch)[0].shape[0]
            return {"inputs": batch, "targets": jnp.zeros(examples, jnp.int32)}
        inputs = {name: leaf for name, leaf in batch.items() if name != self.target}
        return {"inputs": inputs[self.single] if self.single else inputs, "targets": batch[self.target]}

    def join(self, inputs: Any, targets: Any) -> Batch:
        if self.target is None:
            return inputs
        return {**({self.single: inputs} if self.single else inputs), self.target: targets}


class Facade(spec.Workload):
    """What a submission may ask of a workload. Hashable, as submissions make it a static argument of their jit.

    step_hint: the horizon in steps. max_allowed_runtime_sec: limit on the submission's time, inf for none.
    """

    def __init__(self, workload: Workload, steps: int, evaluations: int, max_seconds: float) -> None:
        self._workload = workload
        data = workload.load()
        self._form = BatchForm.of(jax.eval_shape(lambda arrays: _first_batch(workload, arrays), dict(data.arrays)))
        shapes = jax.eval_shape(workload.init, jax.random.key(0))
        self.smoothing_traced = False
        self.step_hint = steps
        self.max_allowed_runtime_sec = max_seconds
        self.eval_period_time_sec = max_seconds / evaluations
        self.num_train_examples = data.examples
        self.target_metric_name = workload.metric.name
        self.loss_type = _LOSSES.get(workload.name, LossType.SOFTMAX_CROSS_ENTROPY)
        self.metrics_logger = None
        self.param_shapes = jax.tree.map(lambda leaf: ShapeTuple(leaf.shape), shapes)
        self.model_params_types = jax.tree_util.tree_map_with_path(_parameter_type, shapes)

    def __getattr__(self, name: str) -> NoReturn:
        known = ", ".join(sorted(key for key in vars(self) if not key.startswith("_")))
        raise AttributeError(
            f"workload.{name} is not offered to submissions here; there are model_fn, loss_fn, {known}"
        )

    def is_output_params(self, param_key: str) -> bool:
        """Whether this top-level key of the parameters is the output layer's."""
        return param_key in _OUTPUTS

    def model_fn(
        self,
        params: Params,
        augmented_and_preprocessed_input_batch: Mapping[str, Any],
        model_state: Any,
        mode: Any,
        rng: Array | None,
        update_batch_norm: bool = True,
        dropout_rate: Any = 0.0,
        **_: Any,
    ) -> tuple[Logits, Any]:
        """(logits, model_state). Both modes give the training loss; without `rng` its noise is that of seed 0.

        The rest is ignored: dropout is a field of the workloads that have it, and batch statistics are no state.
        """
        return Logits(params, augmented_and_preprocessed_input_batch["inputs"], rng), model_state

    def loss_fn(
        self,
        label_batch: Any,
        logits_batch: Any,
        mask_batch: Array | None = None,
        label_smoothing: Any = 0.0,
    ) -> dict[str, Array]:
        """{"summed", "n_valid_examples", "per_example" (batch,)}: the mean loss, times the examples and as each one's.

        label_smoothing: replaces the workload's own where it has one and this is not 0; elsewhere only 0 will do.
        Raises BadInput on that, on a mask (our loss is a mean over the batch), and on other logits than model_fn's.
        """
        if not isinstance(logits_batch, Logits):
            raise BadInput(f"loss_fn was given a {type(logits_batch).__name__}: {_NO_LOGITS}")
        if mask_batch is not None:
            raise BadInput("loss_fn was given mask_batch, but our losses are means over whole batches; leave it out")
        workload, factor = self._smoothed(label_smoothing)
        batch = self._form.join(logits_batch.inputs, label_batch)
        mean = factor * workload.loss(logits_batch.params, batch, _key(logits_batch.rng))[0].astype(jnp.float32)
        examples = jax.tree.leaves(batch)[0].shape[0]
        return {
            "summed": mean * examples,
            "n_valid_examples": jnp.asarray(examples, jnp.float32),
            "per_example": jnp.broadcast_to(mean, (examples,)),
        }

    def _smoothed(self, label_smoothing: Any) -> tuple[Workload, Any]:
        """The workload at this label smoothing, and a factor on its loss: NaN where it has none and the number is a tracer."""
        own = getattr(self._workload, "label_smoothing", None)
        if isinstance(label_smoothing, jax.core.Tracer):
            if own is not None:
                smoothing = jnp.where(label_smoothing == 0.0, own, label_smoothing)
                return dataclasses.replace(self._workload, label_smoothing=smoothing), 1.0  # type: ignore[call-arg]
            self.smoothing_traced = True
            return self._workload, jnp.where(label_smoothing == 0.0, 1.0, jnp.nan)
        if float(label_smoothing) == 0.0:
            return self._workload, 1.0
        refuse_smoothing(self._workload, float(label_smoothing))
        smoothed: Workload = dataclasses.replace(self._workload, label_smoothing=float(label_smoothing))  # type: ignore[call-arg]
        smoothed.validate()
        return smoothed, 1.0


def refuse_smoothing(workload: Workload, label_smoothing: float) -> None:
    """Raise BadInput where a workload cannot smooth its labels and should."""
    if label_smoothing != 0.0 and not hasattr(workload, "label_smoothing"):
        raise NoSmoothing(
            f"label_smoothing={label_smoothing:g}, but the loss of workload '{workload.name}' has none; set it to 0"
        )


def _first_batch(workload: Workload, arrays: Mapping[str, Array]) -> Batch:
    return workload.batch(arrays, keys.key(jnp.int32(0)), jnp.int32(0))


def _key(rng: Array | None) -> Array:
    """A submission's key (uint32 words, or typed) as the engine's kind, which draws the same numbers."""
    if rng is None:
        return keys.key(jnp.int32(0))
    if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        return rng
    return jax.random.wrap_key_data(rng, impl=jax.random.key_impl(keys.key(jnp.int32(0))))


def _parameter_type(path: tuple[Any, ...], leaf: Any) -> ParameterType:
    """By name and shape. Norms count as layer norms, and a matrix that says nothing else as a weight."""
    names = [str(entry.key) for entry in path]
    last, inside = names[-1], "/".join(names)
    if last in _ATTENTION:
        return _ATTENTION[last]
    if last == "out" and len(names) > 1 and names[-2] in ("attention", "self", "cross"):
        return ParameterType.ATTENTION_OUT
    if len(leaf.shape) <= 1:
        if last in ("gain", "query_gain") or (last not in ("bias", "shift") and "norm" in inside):
            return ParameterType.LAYER_NORM_SCALE
        return ParameterType.LAYER_NORM_BIAS if "norm" in inside or last == "shift" else ParameterType.BIAS
    if last in ("table", "embedding"):
        return ParameterType.EMBEDDING
    return ParameterType.CONV_WEIGHT if len(leaf.shape) == 4 else ParameterType.WEIGHT
