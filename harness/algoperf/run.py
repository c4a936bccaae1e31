"""Training with an AlgoPerf submission: its runner's loop on one of our workloads, unpacked."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from harness.algoperf.apart import Apart
from harness.algoperf.facade import BatchForm, Facade, NoSmoothing, refuse_smoothing
from harness.algoperf.records import BrokenOff, Ended, Evaluation, Run, Task
from harness.algoperf.submission import AlgoPerfSubmission, ends_training
from harness.algoperf.timing import Mark, Stopwatch
from harness.budget import evaluation_steps
from harness.engine import keys
from workloads.base import Array, BadInput, Params, Workload

_STREAM = np.uint32(2**32 - 1)  # of the submission's other keys; the loss's noise is folded in by step
_INIT = np.uint32(2**32 - 2)  # of init_optimizer_state
_PROGRAMS = 16  # kept compiled, for the next run on the same workload; each takes hundreds of memory maps
_UNKNOWN = (
    KeyError,
    ValueError,
    NotImplementedError,
)  # from get_batch_size, on workloads that a submission does not know


def train(
    submission: AlgoPerfSubmission,
    workload: Workload,
    hyperparameters: Mapping[str, Any],
    steps: int,
    evaluations: int,
    seed: int,
    max_seconds: float = math.inf,
    data_seed: int | None = None,
    test_curve: bool = False,
    stretch: float = 1.0,
) -> Run:
    """Train for `steps` updates, evaluated `evaluations` times, evenly spread, the last time at the end.

    Initial parameters, batches and the noise of the loss are those of the engine's trials (SP) at the same seeds. Timed are
    data_selection, update_params and prepare_for_eval, each until its results are there; evaluation is not timed.

    hyperparameters: what the submission gets as attributes (where empty None, as AlgoPerf gives to self-tuning ones).
    get_batch_size is asked with our workload's name; where the submission does not know it, the workload's batch size stays.
    max_seconds: of the submission's time. data_seed: which batches are seen (None: the seed's). test_curve: evaluate the test
    split, too, whenever the validation split is, and not at the end only. stretch: of steps and max_seconds over the step_hint
    and the max_allowed_runtime_sec that the submission is told.
    A batch size of the submission's own sees as many examples in another number of steps, and is told another step_hint.
    Raises BadInput on a file that does not fit, and BrokenOff, which has the run until then, on whatever the submission raises
    in training, and on parameters of other shapes.
    """
    task = Task(
        submission, workload, hyperparameters, steps, evaluations, seed, max_seconds, data_seed, test_curve, stretch
    )
    task.validate()
    return _Training(task).run()


class _State(NamedTuple):
    """What a submission carries from step to step, in the order in which update_params returns it."""

    optimizer: Any
    params: Params
    model: Any


class _Training:
    """A run under way. Leaves of the parameters have a leading axis of devices where the submission uses pmap."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.watch = Stopwatch()
        self.apart = Apart(task.seed)
        self.functions = task.submission.functions(self.apart)
        self.shows_train_state = _takes(self.functions.update_params, "train_state")
        self.workload = self._with_batch_size(task.workload)
        refuse_smoothing(self.workload, task.hyperparameters.get("label_smoothing"))
        self.devices = _device_count(task.submission, self.workload.batch_size)
        self.steps = max(1, round(task.steps * task.workload.batch_size / self.workload.batch_size))
        rate = task.hyperparameters.get("dropout_rate")
        self.facade = Facade(self.workload, self.steps, task.evaluations, task.max_seconds, task.stretch, rate)
        self.hyperparameters = _as_attributes(task.hyperparameters)
        self.data = _device_data(self.workload)
        data_seed = task.seed if task.data_seed is None else task.data_seed
        _compiled_batch(self.workload, self.devices)  # before anything is timed
        self.batches = _batches(self.workload, self.data, data_seed, self.devices)
        self.results: list[tuple[Mark, Evaluation]] = []
        self.clock = {"accumulated_eval_time": 0.0, "last_eval_time": 0.0, "last_step_end_time": time.time()}
        self.state = self._initial()
        leaves, structure = jax.tree.flatten(self.state.params)
        self.model: tuple[Any, list[tuple[int, ...]]] = structure, [leaf.shape for leaf in leaves]

    def run(self) -> Run:
        due = set(evaluation_steps(self.steps, self.task.evaluations))
        ended: Ended | None = None
        taken = 0
        try:
            with self.watch:
                while ended is None:
                    complete = self.update(taken)
                    taken += 1
                    ended = "submission" if complete else "steps" if taken == self.steps else None
                    evaluated = self.prepare_and_evaluate(taken) if complete or taken in due else True
                    self.clock["last_step_end_time"] = time.time()
                    if not evaluated or (ended is None and self.watch.seconds >= self.task.max_seconds):
                        ended = "time"
        except BadInput as error:
            raise BrokenOff(self._run("error", taken, str(error))) from error
        return self._run(ended, taken)

    def _run(self, ended: Ended, taken: int, error: str = "") -> Run:
        loss: float | None
        metric: float | None
        try:
            loss, metric = self._scores("test")
        except Exception:  # what it broke off in may have used up its parameters
            if ended != "error":
                raise
            loss = metric = None
        results = tuple(replace(found, seconds=self.watch.at(mark)) for mark, found in self.results)
        return Run(results, ended, taken, self.watch.seconds, self.workload.batch_size, loss, metric, error)

    def update(self, step: int) -> bool:
        """Take one timed step. True if the submission says that its training is complete."""
        select_key, update_key, _ = _step_keys(np.int32(self.task.seed), np.int32(step))
        state, facade = self.state, self.facade
        selecting = (facade, self.batches, *state, self.hyperparameters, step, select_key)
        updating = self._arguments(step, update_key)
        if self.shows_train_state:
            updating["train_state"] = self._train_state()
        submission = self.task.submission
        hint = "" if step else submission.replication
        try:
            with submission.blamed(f"step {step}", may_end=True, hint=hint), self.apart, self.watch.timed("step"):
                batch = self.functions.data_selection(*selecting)
                new = jax.block_until_ready(self.functions.update_params(batch=batch, **updating))
        except Exception as error:
            if ends_training(error):
                return True
            raise
        self.state = self._checked(new, "update_params")
        if step == 0 and facade.smoothing_traced and not _finite(self.state.params):
            _refuse_traced_smoothing(self.task)
        return False

    def prepare_and_evaluate(self, step: int) -> bool:
        """Prepare (timed) and evaluate (untimed); training goes on with what was prepared. False if the time was over."""
        prepare = self.functions.prepare_for_eval
        if prepare is not None:
            arguments = self._arguments(step, _step_keys(np.int32(self.task.seed), np.int32(step - 1))[2])
            blamed = self.task.submission.blamed(f"prepare_for_eval after step {step}")
            with blamed, self.apart, self.watch.timed("prepare"):
                new = jax.block_until_ready(prepare(**arguments))
            self.state = self._checked(new, "prepare_for_eval")
        if self.watch.seconds >= self.task.max_seconds:
            return False
        begun = time.time()
        scores = [*self._scores("validation"), *(self._scores("test") if self.task.test_curve else ())]
        self.clock["last_eval_time"] = time.time()
        self.clock["accumulated_eval_time"] += self.clock["last_eval_time"] - begun
        self.results.append((self.watch.mark(), Evaluation(step, self.watch.seconds, *scores)))
        return True

    def _initial(self) -> _State:
        """Initial parameters and optimizer state; neither is timed."""
        params = _initial_params(self.workload, self.task.seed, self.devices)
        rng = jax.random.key_data(jax.random.fold_in(keys.key(jnp.int32(self.task.seed)), _INIT))
        with self.task.submission.blamed("init_optimizer_state"), self.apart:
            optimizer = self.functions.init_optimizer_state(self.facade, params, None, self.hyperparameters, rng)
            return _State(jax.block_until_ready(optimizer), params, None)

    def _arguments(self, step: int, rng: Array) -> dict[str, Any]:
        """What update_params and prepare_for_eval both get."""
        name = self.workload.metric.name
        results = [
            (e.step, {"validation/loss": e.loss, f"validation/{name}": e.metric, "score": e.seconds})
            for _, e in self.results
        ]
        return {
            "workload": self.facade,
            "current_param_container": self.state.params,
            "current_params_types": self.facade.model_params_types,
            "model_state": self.state.model,
            "hyperparameters": self.hyperparameters,
            "loss_type": self.facade.loss_type,
            "optimizer_state": self.state.optimizer,
            "eval_results": results,
            "global_step": step,
            "rng": rng,
        }

    def _train_state(self) -> Mapping[str, Any]:
        """AlgoPerf's, as it is while training goes on. Whether targets are reached is not known here, so it is not said.

        accumulated_*: seconds; of logging there is none. last_*: time.time() then, 0 before the first evaluation.
        """
        constant = {"is_time_remaining": True, "training_complete": False, "accumulated_logging_time": 0.0}
        return MappingProxyType({**constant, **self.clock, "accumulated_submission_time": self.watch.seconds})

    def _checked(self, new: Any, function: str) -> _State:
        """What a submission returned. Raises BadInput if that is no state, or changes the model."""
        who = f"{self.task.submission.path.name}: {function}"
        if not isinstance(new, tuple) or len(new) != 3:
            raise BadInput(f"{who} must return (optimizer_state, params, model_state)")
        structure, shapes = self.model
        if structure != jax.tree.structure(new[1]):
            raise BadInput(f"{who} returned the parameters in another tree; a submission may not change the model")
        for leaf, shape in zip(jax.tree.leaves(new[1]), shapes, strict=True):
            if jnp.shape(leaf) != shape:
                raise BadInput(
                    f"{who} returned a parameter of shape {jnp.shape(leaf)} where the model has {shape}; a submission may not "
                    "change the model"
                )
        return _State(*new)

    def _scores(self, split: str) -> tuple[float, float]:
        """Loss and metric."""
        params = jax.tree.map(lambda leaf: leaf[0], self.state.params) if self.devices else self.state.params
        scores = _compiled_evaluate(self.workload)(params, self.data, split=split)
        return float(scores["loss"]), float(scores[self.workload.metric.name])

    def _with_batch_size(self, workload: Workload) -> Workload:
        """The workload at the submission's batch size, if it has one for it."""
        submission, size = self.task.submission, None
        with submission.blamed("get_batch_size"), self.apart, suppress(*_UNKNOWN):
            size = self.functions.get_batch_size(workload.name)
        try:
            workload = workload if size is None else workload.replace(batch_size=operator.index(size))
        except TypeError:
            name = submission.path.name
            raise BadInput(f"{name}: get_batch_size returned {size!r}; it must be a whole number") from None
        workload.validate()
        return workload


def _initial_params(workload: Workload, seed: int, devices: int) -> Params:
    """Of the engine's trial of this seed, in float32. devices: as many copies, one on each, or 0."""
    params = _compiled_init(workload)(np.int32(seed))
    if not devices:
        return params
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (devices, *leaf.shape)), params)
    return jax.device_put(copies, NamedSharding(Mesh(jax.local_devices(), ("device",)), PartitionSpec("device")))


def _batches(workload: Workload, data: Mapping[str, Array], seed: int, devices: int) -> Iterator[dict[str, Any]]:
    """The engine's batches in AlgoPerf's form, without end. devices: split over as many (a first axis), or 0."""
    batch = _compiled_batch(workload, devices)
    step = 0
    while True:
        with jax.disable_jit(False):  # whatever the submission set, a compiled function cannot run otherwise
            made = batch(data, np.int32(seed), np.int32(step))
        yield made
        step += 1


@functools.lru_cache(maxsize=_PROGRAMS)
def _compiled_init(workload: Workload) -> Callable[[Array], Params]:
    def init(seed: Array) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), workload.init(jax.random.key(seed)))

    return jax.jit(init)


@functools.lru_cache(maxsize=_PROGRAMS)
def _compiled_batch(workload: Workload, devices: int) -> Callable[..., dict[str, Any]]:
    """(data, seed, step) -> batch. Compiled here, so that nothing a submission does to JAX's configuration changes it."""

    def batch(data: Mapping[str, Array], seed: Array, step: Array) -> dict[str, Any]:
        made = workload.batch(data, keys.key(seed), step)
        made = BatchForm.of(made).split(made)
        return jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), made) if devices else made

    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in _device_data(workload).items()}
    return jax.jit(batch).lower(shapes, np.int32(0), np.int32(0)).compile()


@functools.lru_cache(maxsize=_PROGRAMS)
def _compiled_evaluate(workload: Workload) -> Callable[..., dict[str, Array]]:
    """(params, data, split=...) -> scalars."""
    return jax.jit(workload.evaluate, static_argnames="split")


@functools.lru_cache(maxsize=1)
def _device_data(workload: Workload) -> dict[str, Array]:
    return {name: jnp.asarray(array) for name, array in workload.load().arrays.items()}


@jax.jit
def _step_keys(seed: Array, step: Array) -> tuple[Array, Array, Array]:
    """Keys of data_selection, update_params and prepare_for_eval, (2,) uint32 each. The second is the engine's noise."""
    noise = jax.random.fold_in(keys.key(seed), step)
    others = jax.random.split(jax.random.fold_in(jax.random.fold_in(keys.key(seed), _STREAM), step))
    select, prepare = jax.random.key_data(others)
    return select, jax.random.key_data(noise), prepare


def _as_attributes(hyperparameters: Mapping[str, Any]) -> Any:
    if not hyperparameters:
        return None
    return namedtuple("Hyperparameters", hyperparameters)(**hyperparameters)  # type: ignore[misc]


def _takes(function: Any, name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _device_count(submission: AlgoPerfSubmission, batch_size: int) -> int:
    """How many devices a submission with pmap is spread over; 0 for others."""
    count = jax.local_device_count()
    if not submission.replicated:
        return 0
    if batch_size % count:
        raise BadInput(
            f"{submission.path.name} uses jax.pmap on {count} devices, by which its batch size {batch_size} is not divisible; "
            "use jax.jit, another batch size, or fewer devices"
        )
    return count


def _finite(params: Params) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params))


def _refuse_traced_smoothing(task: Task) -> None:
    """Raise BadInput if a first step is not finite for asking label smoothing of a workload that has none.

    Within jit the number is not known, so the step is taken again, from the start, without jit.
    """
    again = _Training(task)
    try:
        with jax.disable_jit():
            again.update(0)
    except NoSmoothing:
        raise
    except BadInput:
        pass
