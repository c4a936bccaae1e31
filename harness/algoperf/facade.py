"""Our workloads as submissions know them: AlgoPerf's `workload` argument, and its batches."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
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
    are none, instead of getting a wrong answer. dropout: rate, None for the workload's own.
    """

    params: Params
    inputs: Any
    rng: Array | None
    dropout: Any

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

    steps, max_seconds: the longest run. stretch: of that over what submissions are told (AlgoPerf gives self-tuning ones more
    time without saying so). step_hint: the horizon in steps of the batch size that is trained with, the submission's own if it
    has one (AlgoPerf's hint is the same for all). max_allowed_runtime_sec: limit on the submission's time, inf for none.
    dropout_rate: model_fn's where it is given none; None: the workload's own.

    The workload itself, which has the data that submissions are judged on, is in no attribute: only the functions made below
    see it. That keeps out who looks around; who takes functions apart is refused by submission.load; who does neither and
    reads it all the same (it is in this process) must be caught by reading.
    """

    def __init__(
        self,
        workload: Workload,
        steps: int,
        evaluations: int,
        max_seconds: float,
        stretch: float = 1.0,
        dropout_rate: Any = None,
    ) -> None:
        data = workload.load()
        shapes = jax.eval_shape(workload.init, jax.random.key(0))
        self.smoothing_traced = False
        self.step_hint = math.ceil(steps / stretch - 1e-9)
        self.max_allowed_runtime_sec = max_seconds / stretch
        self.eval_period_time_sec = max_seconds / evaluations
        self.num_train_examples = data.examples
        self.target_metric_name = workload.metric.name
        self.loss_type = _LOSSES.get(workload.name, LossType.SOFTMAX_CROSS_ENTROPY)
        self.metrics_logger = None
        self.param_shapes = jax.tree.map(lambda leaf: ShapeTuple(leaf.shape), shapes)
        self.model_params_types = jax.tree_util.tree_map_with_path(_parameter_type, shapes)
        form = BatchForm.of(jax.eval_shape(lambda arrays: _first_batch(workload, arrays), dict(data.arrays)))
        self.model_fn = _model_fn(workload, dropout_rate)
        self.loss_fn = _loss_fn(workload, form, self)

    def __getattr__(self, name: str) -> NoReturn:
        known = ", ".join(sorted(vars(self)))
        raise AttributeError(f"workload.{name} is not offered to submissions here; there are is_output_params, {known}")

    def is_output_params(self, param_key: str) -> bool:
        """Whether this top-level key of the parameters is the output layer's."""
        return param_key in _OUTPUTS


def _model_fn(workload: Workload, default_rate: Any) -> Callable[..., tuple[Logits, Any]]:
    if default_rate is not None:
        _say_if_ignored(workload, default_rate)

    def model_fn(
        params: Params,
        augmented_and_preprocessed_input_batch: Mapping[str, Any],
        model_state: Any,
        mode: Any,
        rng: Array | None,
        update_batch_norm: bool = True,
        dropout_rate: Any = None,
        **_: Any,
    ) -> tuple[Logits, Any]:
        """(logits, model_state). Without `rng` the loss's noise is that of seed 0.

        dropout_rate: replaces the workload's own where it has one; elsewhere it is without effect, which is said once. The
        mode EVAL leaves out dropout and nothing else: label smoothing, SpecAugment and batch statistics are the training
        loss's. The rest is ignored: batch statistics are no state.
        """
        rate = default_rate if dropout_rate is None else dropout_rate
        if getattr(mode, "name", None) == "EVAL":
            rate = 0.0
        elif dropout_rate is not None:
            _say_if_ignored(workload, rate)
        return Logits(params, augmented_and_preprocessed_input_batch["inputs"], rng, rate), model_state

    return model_fn


def _loss_fn(workload: Workload, form: BatchForm, facade: Facade) -> Callable[..., dict[str, Array]]:
    def loss_fn(
        label_batch: Any,
        logits_batch: Any,
        mask_batch: Array | None = None,
        label_smoothing: Any = 0.0,
    ) -> dict[str, Array]:
        """{"summed", "n_valid_examples"}: the mean loss times the examples, and their number.

        There is no "per_example": batches of one have other statistics, noise and normalisation, so their losses are not
        parts of this one. label_smoothing: replaces the workload's own where it has one and this is not 0; elsewhere only 0
        will do. Raises BadInput on that, on a mask (our loss is a mean over the batch), and on other logits than model_fn's.
        """
        if not isinstance(logits_batch, Logits):
            raise BadInput(f"loss_fn was given a {type(logits_batch).__name__}: {_NO_LOGITS}")
        if mask_batch is not None:
            raise BadInput("loss_fn was given mask_batch, but our losses are means over whole batches; leave it out")
        smoothed, factor = _smoothed(_dropping(workload, logits_batch.dropout), label_smoothing, facade)
        batch = form.join(logits_batch.inputs, label_batch)
        mean = factor * smoothed.loss(logits_batch.params, batch, _key(logits_batch.rng))[0].astype(jnp.float32)
        examples = jax.tree.leaves(batch)[0].shape[0]
        return {"summed": mean * examples, "n_valid_examples": jnp.asarray(examples, jnp.float32)}

    return loss_fn


def _smoothed(workload: Workload, label_smoothing: Any, facade: Facade) -> tuple[Workload, Any]:
    """The workload at this label smoothing, and a factor on its loss: NaN where it has none and the number is a tracer."""
    own = getattr(workload, "label_smoothing", None)
    if isinstance(label_smoothing, jax.core.Tracer):
        if own is not None:
            smoothing = jnp.where(label_smoothing == 0.0, own, label_smoothing)
            return dataclasses.replace(workload, label_smoothing=smoothing), 1.0  # type: ignore[call-arg]
        facade.smoothing_traced = True
        return workload, jnp.where(label_smoothing == 0.0, 1.0, jnp.nan)
    if float(label_smoothing) == 0.0:
        return workload, 1.0
    refuse_smoothing(workload, float(label_smoothing))
    smoothed: Workload = dataclasses.replace(workload, label_smoothing=float(label_smoothing))  # type: ignore[call-arg]
    smoothed.validate()
    return smoothed, 1.0


def _dropping(workload: Workload, rate: Any) -> Workload:
    """The workload at this dropout rate, if it has any and is given one."""
    if rate is None or not hasattr(workload, "dropout"):
        return workload
    if isinstance(rate, jax.core.Tracer):
        return dataclasses.replace(workload, dropout=rate)  # type: ignore[call-arg]
    dropping: Workload = dataclasses.replace(workload, dropout=float(rate) or None)  # type: ignore[call-arg]
    dropping.validate()
    return dropping


def _say_if_ignored(workload: Workload, rate: Any) -> None:
    """Submissions ask for the same rate everywhere, as AlgoPerf lets them; so this is no error."""
    known = not isinstance(rate, jax.core.Tracer)
    if not hasattr(workload, "dropout") and not (known and float(rate) == 0.0):
        asked = f"{float(rate):g}" if known else "of a traced value"
        _say(f"dropout_rate {asked} is without effect: workload '{workload.name}' has no dropout; give 0, or no rate")


@functools.cache
def _say(text: str) -> None:
    print(text, flush=True)


def refuse_smoothing(workload: Workload, label_smoothing: float | None) -> None:
    """Raise BadInput where a workload cannot smooth its labels and should."""
    if label_smoothing and not hasattr(workload, "label_smoothing"):
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
