"""From a static signature to the compiled program of a pack: the pure functions mapped over the trial axis."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from harness.engine.devices import TRIAL_AXIS, Devices
from harness.engine.flops import step_flops
from harness.engine.history import Names
from harness.engine.pack import Pack, Signature
from harness.engine.program import make_train
from harness.engine.side_by_side import side_by_side
from harness.trial import Trial
from workloads.base import BadInput

_ALL_TRIALS = PartitionSpec(TRIAL_AXIS)
_EVERYWHERE = PartitionSpec()
SIDE_BY_SIDE = "side_by_side"
PROGRAMS_AHEAD = 8
_FIRST_OPERAND = re.compile(r" : \(tensor<((?:\d+x)+)")


@dataclass(frozen=True)
class Program:
    """Compiled init(hparams), chunk(state, hparams, stops, data) and evaluate(state, hparams, data).

    All leaves carry a leading trial axis except `data`; where several cores train side by side, trees with one come and go as
    Lanes. measures: (group, name) of what evaluate gives. sha256: of the chunk as it was lowered; programs that share it are
    the same. seconds: time spent compiling (or reading the cache).
    """

    init: Callable[..., Any]
    chunk: Callable[..., Any]
    evaluate: Callable[..., Any]
    measures: Names
    sha256: str
    seconds: float


def over_trials(function: Callable[..., Any], devices: Devices, group: int, with_data: bool) -> Callable[..., Any]:
    """`function(*one trial's arguments[, data])` for a sharded trial axis.

    Inside a device, groups of `group` trials one after the other, each mapped over the axis SIDE_BY_SIDE if there are several
    trials in it (see Pack.group).
    """

    def local(*arguments: Any) -> Any:
        mapped, shared = (arguments[:-1], arguments[-1:]) if with_data else (arguments, ())

        def one(trial: Any) -> Any:
            return function(*trial, *shared)

        if group == 1:
            return jax.lax.map(one, mapped)
        groups = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), mapped)
        done = jax.lax.map(jax.vmap(one, axis_name=SIDE_BY_SIDE), groups)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), done)

    if devices.spread:  # XLA splits the arrays of each trial
        return local

    def sharded(*arguments: Any) -> Any:
        specs = tuple(_ALL_TRIALS for _ in arguments)
        if with_data:
            specs = (*specs[:-1], _EVERYWHERE)
        return jax.shard_map(local, mesh=devices.mesh, in_specs=specs, out_specs=_ALL_TRIALS, check_vma=False)(
            *arguments
        )

    return sharded


def compile_program(pack: Pack, data: Any, devices: Devices, evaluates: bool = True) -> Program:
    """Compile everything a pack needs. data: the workload's arrays, on the devices. evaluates: or else it can only train.

    Raises BadInput on a program that could wait for itself for ever.
    """
    if devices.lanes > 1:  # all of them run the program of one, on its share of the slots
        slots = pack.width // devices.lanes
        share = replace(pack, trials=pack.trials[:slots], width=slots)
        one = compile_program(share, data, replace(devices, lanes=1), evaluates)
        init, chunk, evaluate = (side_by_side(f, devices.lanes) for f in (one.init, one.chunk, one.evaluate))
        return replace(one, init=init, chunk=chunk, evaluate=evaluate)
    started = time.perf_counter()
    lowered = _lowered(pack, data, devices, pack.group(devices), evaluates)
    texts = [part.as_text() for part in lowered]
    if devices.platform == "cpu" and not devices.spread and any(map(_waits, texts)):
        lowered = _lowered(pack, data, devices, 1, evaluates)
        texts = [part.as_text() for part in lowered]
        if any(map(_waits, texts)):
            raise BadInput(
                f"{pack.static.optimizer.name} on {pack.static.workload.name} hands LAPACK a stack of matrices (jnp.linalg), "
                "whose threads could wait for each other for ever on CPU; take one matrix at a time, with jax.lax.map"
            )
    init, chunk, *rest = (part.compile() for part in lowered)
    return Program(
        init=init,
        chunk=chunk,
        evaluate=rest[0] if rest else _no_evaluation,
        measures=tuple(
            (group, name) for part in lowered[2:] for group, names in part.out_info.items() for name in names
        ),
        sha256=hashlib.sha256(texts[1].encode()).hexdigest(),
        seconds=time.perf_counter() - started,
    )


def _no_evaluation(*_: Any) -> Any:
    raise RuntimeError("this program was compiled without its evaluation")


def _lowered(pack: Pack, data: Any, devices: Devices, group: int, evaluates: bool) -> list[Any]:
    """init, chunk and, if wanted, evaluate; not compiled yet."""
    train = make_train(pack.static, None if group == 1 else SIDE_BY_SIDE, devices.split_batch)
    by_trial = devices.by_trial
    hparams = _shapes(pack.hparams(), by_trial)
    stops = jax.ShapeDtypeStruct((pack.width,), np.int32, sharding=by_trial)
    first = over_trials(train.init, devices, group, False)
    of_state = devices.of_state(jax.eval_shape(first, hparams))
    init = jax.jit(first, out_shardings=of_state).lower(hparams)
    state = _shapes(init.out_info, of_state)
    chunk = jax.jit(
        over_trials(train.chunk, devices, group, True), donate_argnums=0, out_shardings=(of_state, by_trial)
    )
    parts = [init, chunk.lower(state, hparams, stops, data)]
    if evaluates:
        scores = jax.jit(over_trials(train.evaluate, devices, group, True), out_shardings=by_trial)
        parts.append(scores.lower(state, hparams, data))
    return parts


def _waits(program: str) -> bool:
    """Whether a program calls LAPACK on a stack of matrices.

    On CPU such a call waits, on one of XLA's threads, for as many others as it has parts; if all threads do, nobody is left.
    """
    for line in program.splitlines():
        if "@lapack_" in line:
            shape = _FIRST_OPERAND.search(line)
            if shape is not None and math.prod(int(size) for size in shape[1].split("x")[:-3]) > 1:
                return True
    return False


def _shapes(tree: Any, shardings: Any) -> Any:
    """Shapes of a tree's leaves. shardings: one for all, or a tree of them."""
    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings), tree)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


class Compiler:
    """Compiles programs in background threads, one per signature, while earlier packs train.

    At most `ahead` programs exist at a time, besides those in use: on CPU each takes hundreds of memory maps, of which a
    process may have 65,530. load: the data set of a pack, on the devices.
    """

    def __init__(
        self, devices: Devices, load: Callable[[Pack], Any], ahead: int = PROGRAMS_AHEAD, threads: int = 2
    ) -> None:
        self._devices = devices
        self._load = load
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="compile")
        self._waiting: deque[Pack] = deque()
        self._packs_left: Counter[Signature] = Counter()
        self._programs: dict[Signature, Future[Program]] = {}
        self._asked: set[Signature] = set()
        self._used: set[Signature] = set()
        self._uncounted: Trial | None = None

    @property
    def count(self) -> int:
        """Programs compiled, which is the number of distinct signatures asked for."""
        return len(self._asked)

    def submit(self, packs: Sequence[Pack]) -> None:
        """Have these packs' programs compiled, in this order, before those that wait."""
        self._packs_left.update(pack.signature for pack in packs)
        self._waiting.extendleft(reversed(packs))
        self._look_ahead()

    def _look_ahead(self) -> None:
        while self._waiting and len(self._programs) <= self._ahead:
            if self._packs_left[self._waiting[0].signature] > 0:
                try:
                    self._start(self._waiting[0])
                except jax.errors.JaxRuntimeError:  # its data do not fit yet, or a device is lost: `program` will tell
                    return
            self._waiting.popleft()

    def _start(self, pack: Pack) -> None:
        if pack.signature not in self._programs:
            data = self._load(pack)
            self._programs[pack.signature] = self._pool.submit(compile_program, pack, data, self._devices)
            self._asked.add(pack.signature)
            self._count_flops()
            self._uncounted = pack.trials[0]

    def _count_flops(self) -> None:
        """Start what the rows of the last signature but one will ask for: training waits for programs first."""
        if self._uncounted is not None:
            self._pool.submit(step_flops, self._uncounted)
            self._uncounted = None

    def program(self, pack: Pack) -> tuple[Program, float]:
        """The compiled program, and the seconds it took if this is its first use (0 afterwards).

        Waits for the compilation, and raises what that raised.
        """
        self._start(pack)
        with suppress(ValueError):
            self._waiting.remove(pack)
        self._count_flops()
        program = self._programs[pack.signature].result()
        seconds = 0.0 if pack.signature in self._used else program.seconds
        self._used.add(pack.signature)
        return program, seconds

    def done(self, pack: Pack) -> None:
        """The pack needs its program no longer: forget it after the last of its signature, and compile another."""
        self._packs_left[pack.signature] -= 1
        if not self._packs_left[pack.signature]:
            self._programs.pop(pack.signature, None)
        self._look_ahead()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
