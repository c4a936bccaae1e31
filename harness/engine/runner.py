"""Running packs: compile in the background, train chunk by chunk, record, checkpoint, and leave cleanly when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from harness.engine import checkpoint, distributed, environment
from harness.engine.clocks import Clocks
from harness.engine.compiler import Compiler, Program
from harness.engine.devices import CacheCounter, Devices
from harness.engine.history import Ending, Evaluation, History, Rows
from harness.engine.pack import Pack, make_packs
from harness.engine.program import State
from harness.engine.side_by_side import Lanes
from harness.engine.signals import Interrupted, StopFlag
from harness.engine.watchdog import limited
from harness.records.files import own_folder
from harness.records.store import CHECKPOINTS, Store
from harness.trial import Hparams, Trial
from workloads.base import BadInput, Data


@dataclass(frozen=True)
class Settings:
    """How trials are trained, never what they compute.

    pack_size: most trials in a pack (None: what fits). memory_gb: memory a pack may take per device (None: a share of the
    device's). checkpoint_overhead: checkpoints may take this fraction of the time. curve_points: points kept of a curve.
    chunk_limit_s: seconds from one evaluation to the next after which the process counts as hung and ends (None: never).
    """

    pack_size: int | None = None
    memory_gb: float | None = None
    checkpoint_overhead: float = 0.03
    curve_points: int = 256
    chunk_limit_s: float | None = 7200.0

    def __post_init__(self) -> None:
        if self.chunk_limit_s is not None and not self.chunk_limit_s > 0:
            raise BadInput(f"engine.chunk_limit_s={self.chunk_limit_s} must be positive, or null for no limit")


@dataclass(frozen=True)
class Chunk:
    """What observers hear after every chunk. losses: (trials, steps) training losses; NaN after a divergence.

    evaluation: split -> name -> (trials,) values. start and stop: the steps of the chunk.
    """

    pack: Pack
    start: int
    stop: int
    losses: np.ndarray
    learning_rates: np.ndarray
    evaluation: Evaluation
    train_seconds: float


class Observer(Protocol):
    """Who watches a run: progress displays and trackers."""

    def begin(self, packs: Sequence[Pack], notes: Sequence[str]) -> None: ...
    def chunk(self, chunk: Chunk) -> None: ...
    def finished(self, pack: Pack, rows: Rows) -> None: ...
    def end(self) -> None: ...


@dataclass
class Summary:
    """What a run did. compiled: programs compiled. seconds: the clocks; host: Python between the clocks."""

    trained: int = 0
    diverged: int = 0
    compiled: int = 0
    cache: CacheCounter = field(default_factory=CacheCounter)
    seconds: dict[str, float] = field(default_factory=dict)
    host: float = 0.0

    def add(self, rows: Rows) -> None:
        self.trained += len(rows)
        self.diverged += sum(row["status"] == "diverged" for row in rows)


class Runner:
    """Trains trials and records them in a store."""

    def __init__(
        self, store: Store, devices: Devices, settings: Settings | None = None, observers: Sequence[Observer] = ()
    ) -> None:
        self._store = store
        self._devices = devices
        self._settings = settings or Settings()
        self._observers = observers
        self._data: dict[Any, tuple[Data, Any]] = {}

    def train(self, trials: Sequence[Trial], stop: StopFlag | None = None) -> Summary:
        """Train what the store lacks of `trials`. Raises Interrupted after a signal; then nothing finished is lost. Raises
        BadInput, after all others are trained, on trials of which not even one fits the memory of a device.

        stop: the caller's flag, which catches signals already; it is the caller's to check after the last pack.
        """
        self._store.check_writable()
        self._forget_recorded()
        missing = self._store.missing(trials)
        memory = self._devices.memory(self._settings.memory_gb)
        packs, notes = make_packs(missing, self._devices, memory, self._settings.pack_size)
        too_large: list[Pack] = []
        summary = Summary()
        clocks = Clocks()
        compiler = self._compiler()
        jax.monitoring.register_event_listener(summary.cache)
        for observer in self._observers:
            observer.begin(packs, notes)
        try:
            with StopFlag() if stop is None else nullcontext(stop) as flag:
                with clocks("data"):
                    compiler.submit(packs)
                queue = list(packs)
                while queue:
                    self._heed(flag)
                    pack = queue.pop(0)
                    over, again = [pack], []
                    try:
                        summary.add(self._train_pack(pack, compiler, clocks, flag))
                    except jax.errors.JaxRuntimeError as error:
                        if "RESOURCE_EXHAUSTED" in str(error):
                            over = [pack, *(other for other in queue if other.signature == pack.signature)]
                            again = self._smaller(over)
                            too_large += () if again else over
                            queue = [other for other in queue if other.signature != pack.signature]
                        else:
                            again, queue = self._without_lost([pack, *queue], error), []
                            summary.compiled += compiler.count
                            compiler.close()
                            compiler = self._compiler()
                        compiler.submit(again)
                        queue[:0] = again
                    with clocks("data"):
                        self._forget_data(pack, queue)
                        for other in over:
                            compiler.done(other)
                if stop is None:
                    self._heed(flag)  # or what the caller does next would not know of a signal in the last chunk
                _refuse(too_large)
        finally:
            compiler.close()
            jax.monitoring.unregister_event_listener(summary.cache)
            summary.compiled += compiler.count
            summary.seconds, summary.host = {str(k): v for k, v in clocks.seconds.items()}, clocks.host
            for observer in self._observers:
                observer.end()
        return summary

    def _forget_recorded(self) -> None:
        """Remove checkpoints of packs that are recorded: who trained them was killed before doing so."""
        folder = own_folder(self._store.root / CHECKPOINTS)
        left = {path.stem for path in folder.glob("*") if path.suffix in checkpoint.SUFFIXES}
        if left and self._devices.primary:
            recorded = set(self._store.trials(("pack",))["pack"].to_pylist())
            for pack in left & recorded:
                checkpoint.remove(folder / f"{pack}.ckpt")

    def _heed(self, stop: StopFlag) -> None:
        """Raise Interrupted if a signal came, to any of the processes that train together."""
        number = distributed.greatest(stop.number)[0] if self._devices.spread else stop.number
        if number:
            raise Interrupted(number)

    def _compiler(self) -> Compiler:
        return Compiler(self._devices, lambda pack: self._load(pack)[1])

    def _without_lost(self, packs: Sequence[Pack], error: Exception) -> list[Pack]:
        """Leave the devices that no longer compute; the packs for those that do. Re-raises the error if that is not why.

        Trials whose arrays are spread over all devices cannot go on without one.
        """
        before, left = self._devices.count, self._devices.surviving()
        if left.count == before or left.spread:
            raise error

        def moved(pack: Pack) -> Pack:
            slots = max(pack.width // before, -(-len(pack.trials) // left.count))
            return replace(pack, width=slots * left.count)

        print(f"lost {before - left.count} of {before} devices ({str(error).splitlines()[0]}); going on with the rest")
        self._devices = left
        self._data.clear()
        return [moved(pack) for pack in packs]

    def _smaller(self, packs: Sequence[Pack]) -> list[Pack]:
        """Packs of one signature in halves, after one ran out of memory, as the others would. [] if they can't be halved."""
        width, devices = packs[0].width, self._devices.count
        if width <= devices:
            return []
        slots = devices * -(-width // (2 * devices))
        largest = len(packs[0].trials)
        print(f"a pack of {largest} trials of width {packs[0].static.workload.width} ran out of memory: split in two")
        parts = [(pack, part) for pack in packs for part in (pack.trials[:slots], pack.trials[slots:])]
        return [replace(pack, trials=part, width=slots) for pack, part in parts if part]

    def _forget_data(self, pack: Pack, queue: Sequence[Pack]) -> None:
        """Of what no pack will train on any more."""
        key = pack.static.workload.data_key()
        if all(other.static.workload.data_key() != key for other in queue):
            self._data.pop(key, None)

    def _load(self, pack: Pack) -> tuple[Data, Any]:
        """The pack's data set, on the host and replicated on the devices."""
        workload = pack.static.workload
        key = workload.data_key()
        if key not in self._data:
            loaded = workload.load()
            self._data[key] = loaded, self._devices.put(dict(loaded.arrays), self._devices.replicated)
        return self._data[key]

    def _train_pack(self, pack: Pack, compiler: Compiler, clocks: Clocks, stop: StopFlag) -> Rows:
        """Train, record and forget one pack."""
        started = datetime.now(UTC)
        before = dict(clocks.seconds)
        with clocks("compile"):
            program, compile_seconds = compiler.program(pack)
        hparams = self._devices.place(pack.hparams())
        path = own_folder(self._store.root / CHECKPOINTS) / f"{pack.id}.ckpt"
        history = History(pack, program.measures)
        with clocks("checkpoint"):
            state, taken = _resume(path, program, hparams, history, self._devices)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) * len(pack.trials) // pack.width
        saver = _Saver(path, clocks, self._settings.checkpoint_overhead, size, self._devices)
        for boundary in history.boundaries:
            signal = 0
            with limited(self._settings.chunk_limit_s, f"training pack {pack.id} from step {taken} to {boundary}"):
                if boundary > taken:
                    state = self._train_chunk(pack, program, state, hparams, (taken, boundary), history, clocks)
                    taken = boundary
                if taken == boundary < pack.horizon:
                    signal = saver.save(state, history, taken, stop)
            if signal:
                raise Interrupted(signal)
        with clocks("records"):
            spent = {str(name): clocks.seconds[name] - before[name] for name in before} | {"compile": compile_seconds}
            end, parameters = self._devices.fetch(_ending(state)), _parameters(state) // pack.width
            rows = self._rows(pack, history.rows(end, parameters), spent, started)
            curves = history.curves(end, self._settings.curve_points)
            if self._devices.primary:
                self._store.append(rows, curves)
                checkpoint.remove(path)
        for observer in self._observers:
            observer.finished(pack, rows)
        return rows

    def _train_chunk(
        self,
        pack: Pack,
        program: Program,
        state: State,
        hparams: Hparams,
        steps: tuple[int, int],
        history: History,
        clocks: Clocks,
    ) -> State:
        """Train from one boundary to the next, evaluate, and tell the observers."""
        start, stop = steps
        trials = len(pack.trials)
        data = self._load(pack)[1]
        before = clocks.seconds["train"]
        with clocks("train"):
            stops = self._devices.place(pack.stops(stop))
            state, taken = program.chunk(state, hparams, stops, data)
            taken = self._devices.fetch(taken)[:trials, :, : stop - start]
        with clocks("eval"):
            scores = self._devices.fetch(program.evaluate(state, hparams, data))
            evaluation = jax.tree.map(lambda x: x[:trials], scores)
        history.add(start, stop, taken, evaluation)
        chunk = Chunk(pack, start, stop, taken[:, 0], taken[:, 1], evaluation, clocks.seconds["train"] - before)
        for observer in self._observers:
            observer.chunk(chunk)
        return state

    def _rows(self, pack: Pack, results: Rows, spent: Mapping[str, float], started: datetime) -> Rows:
        """One row a trial: its configuration and results, its share of the pack's clocks, its environment."""
        common = environment.facts(self._devices) | {
            "study": self._store.root.name,
            "pack": pack.id,
            "pack_size": len(pack.trials),
            "started_at": started.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(),
        }
        shares = {f"{clock}_s": seconds / len(pack.trials) for clock, seconds in spent.items()}
        return [row | common | shares for row in results]


def _ending(state: Any) -> Any:
    """An Ending, or Lanes of them."""
    if isinstance(state, Lanes):
        return Lanes(map(_ending, state))
    return Ending(state.step, state.initial_loss, state.diverged_step)


def _parameters(state: Any) -> int:
    """Of all trials' models."""
    states = state if isinstance(state, Lanes) else (state,)
    return sum(leaf.size for one in states for leaf in jax.tree.leaves(one.params))


_FIRST_SAVE, _SAVED_BYTES = 0.02, 1.5e8  # seconds, and bytes a second: a guess, until a save was timed


class _Saver:
    """Writes checkpoints of `size` bytes so often that they take at most a given fraction of the time."""

    def __init__(self, path: Path, clocks: Clocks, overhead: float, size: int, devices: Devices) -> None:
        self._path, self._clocks, self._overhead, self._devices = path, clocks, overhead, devices
        self._last = clocks.elapsed
        self._cost = _FIRST_SAVE + size / _SAVED_BYTES
        self._failed = False

    def save(self, state: State, history: History, taken: int, stop: StopFlag) -> int:
        """Save if it is affordable, or a signal came; returns the signal's number, or 0.

        Where saving fails, the checkpoint before stays, and training goes on. Processes that train together save together,
        and heed the signal that any of them got.
        """
        number = stop.number
        affordable = int(self._cost <= self._overhead * (self._clocks.elapsed - self._last))
        if self._devices.spread:
            number, affordable = distributed.greatest(number, affordable)
        if not (number or affordable):
            return 0
        started = self._clocks.elapsed
        with self._clocks("checkpoint"):
            try:
                used = jax.tree.map(lambda leaf: leaf[: len(history.pack.trials)], self._devices.fetch(state))
                if self._devices.primary:
                    meta = {"step": taken, "code": environment.code_version()}
                    checkpoint.save(self._path, (used, *history.leaves()), meta)
            except OSError as error:
                if not self._failed:
                    print(f"no checkpoint can be written to {self._path} ({error.strerror}); training goes on without")
                self._failed = True
        self._last = self._clocks.elapsed
        self._cost = self._last - started
        return number


def _resume(path: Path, program: Program, hparams: Hparams, history: History, devices: Devices) -> tuple[State, int]:
    """The state to start from and its steps: from the pack's checkpoint if there is an intact one.

    A checkpoint holds the pack's trials without unused slots, whose number may be another next time.
    """
    state, trials = program.init(hparams), len(history.pack.trials)
    part = state[0] if isinstance(state, Lanes) else state
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((trials, *leaf.shape[1:]), leaf.dtype), part)
    found = checkpoint.load(path, (like, *history.leaves()))
    if found is None:
        return state, 0
    (saved, *leaves), meta = found
    if meta.get("code") != environment.code_version():
        print(f"checkpoint {path} is of another version of the code ({meta.get('code')}); starting over")
        return state, 0
    if meta.get("step") not in history.boundaries:
        print(f"checkpoint {path} is of step {meta.get('step')}, which is none of this pack's; starting over")
        return state, 0
    history.restore((leaves[0], leaves[1]))
    whole = saved
    if trials < history.pack.width:  # slots without a trial
        whole = jax.tree.map(lambda used, begun: np.concatenate([used, begun[trials:]]), saved, devices.fetch(state))
    return devices.place_state(whole, state), int(meta["step"])


def _refuse(too_large: Sequence[Pack]) -> None:
    """Raise BadInput if there are any."""
    if too_large:
        count, workload = sum(len(pack.trials) for pack in too_large), too_large[0].static.workload
        raise BadInput(
            f"{count} trials did not fit the device's memory one at a time, e.g. {workload.name} of width {workload.width} and "
            f"batch size {workload.batch_size}: lower workload.batch_size or width, or split each trial over all devices with "
            "engine.layout=model; all others are recorded"
        )
