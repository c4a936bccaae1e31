"""A trial's result does not depend on its company: pack size, position, chunk boundaries, devices, neighbours that diverge."""

from __future__ import annotations

import gc
import itertools
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
from jax.sharding import Mesh

from harness.engine import compiler
from harness.engine.compiler import SIDE_BY_SIDE
from harness.engine.devices import TRIAL_AXIS, Devices, local_devices
from harness.engine.pack import Pack, fitting, make_packs
from harness.engine.program import make_train
from harness.optimizers import OPTIMIZERS
from harness.records.store import Store
from harness.trial import Trial
from tests.trials import run, small_trial
from workloads.regression import Regression

RATES = (1e-3, 1e-2, 3e-2, 1e-1)


def curve(store: Store, trial: Trial) -> np.ndarray:
    """Training loss by step, and the evaluations."""
    table: pa.Table = store.curves([trial.id])
    return np.stack([np.asarray(table[name].to_numpy(zero_copy_only=False)) for name in ("train_loss", "eval_loss")])


def trained(root: Path, trials: list[Trial], name: str, devices: Devices | None = None, **settings: object) -> Store:
    store = Store(root / name)
    run(trials, store, devices, **settings)
    return store


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial], Store]:
    """Four learning rates and two parametrizations in one pack."""
    root = tmp_path_factory.mktemp("sweep")
    trials = [small_trial(optimizer__learning_rate=rate) for rate in RATES]
    return root, trials, trained(root, trials, "together")


def same(a: Store, b: Store, trials: list[Trial]) -> bool:
    return all(np.array_equal(curve(a, trial), curve(b, trial), equal_nan=True) for trial in trials)


def test_alone_is_bitwise_the_same_as_in_a_pack(sweep: tuple[Path, list[Trial], Store]) -> None:
    root, trials, together = sweep
    alone = trained(root, trials, "alone", pack_size=1)
    assert same(together, alone, trials)


def test_the_number_of_slots_does_not_matter(sweep: tuple[Path, list[Trial], Store]) -> None:
    """Less memory makes a shorter trial axis: another program, the same bits."""
    root, trials, together = sweep
    devices = local_devices()
    memory = next(m for m in range(2**16, 2**26, 2**14) if fitting(trials[0], devices, m) == 32 * devices.count)
    other = trained(root, trials, "fewer_slots", memory_gb=memory / 2**30)
    assert same(together, other, trials)


def test_position_in_the_pack_does_not_matter(sweep: tuple[Path, list[Trial], Store]) -> None:
    root, trials, together = sweep
    assert same(together, trained(root, trials[::-1], "reversed"), trials)


def test_the_number_of_cores_does_not_matter(sweep: tuple[Path, list[Trial], Store]) -> None:
    """Every core runs the program of one."""
    root, trials, together = sweep
    devices = local_devices()
    assert devices.lanes > 1
    other = trained(root, trials, "one_core", replace(devices, lanes=1))
    assert same(other, together, trials)
    assert {row["devices"] for row in other.trials().to_pylist()} == {1}
    assert {row["devices"] for row in together.trials().to_pylist()} == {devices.count}


def test_several_devices_agree_to_rounding(sweep: tuple[Path, list[Trial], Store]) -> None:
    """As GPUs do, they share one program, which XLA compiles differently from that of one."""
    root, trials, together = sweep
    other = trained(root, trials, "devices", Devices(Mesh(jax.local_devices(), (TRIAL_AXIS,))))
    for trial in trials:
        np.testing.assert_allclose(curve(other, trial), curve(together, trial), rtol=1e-5)


def test_a_pack_that_is_not_full_is_spread_over_the_cores() -> None:
    devices = local_devices()
    numbers = devices.place({"a": np.arange(8.0), "b": np.arange(16).reshape(8, 2)})
    assert [list(lane["a"]) for lane in numbers] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    whole = devices.fetch(numbers)
    assert np.array_equal(whole["a"], np.arange(8.0))
    assert np.array_equal(whole["b"], np.arange(16).reshape(8, 2))


def test_learning_rates_differ(sweep: tuple[Path, list[Trial], Store]) -> None:
    _, trials, together = sweep
    finals = {float(curve(together, trial)[0, -1]) for trial in trials}
    assert len(finals) == len(trials)


def test_chunk_boundaries_do_not_matter(sweep: tuple[Path, list[Trial], Store]) -> None:
    """Evaluating more often changes the trial's identity and its program, but not its losses."""
    root, trials, together = sweep
    often = [small_trial(optimizer__learning_rate=rate, evaluations=4) for rate in RATES]
    other = trained(root, often, "often")
    for a, b in zip(trials, often, strict=True):
        assert np.array_equal(curve(together, a)[0], curve(other, b)[0])


def test_each_is_evaluated_when_it_asked_to_be(sweep: tuple[Path, list[Trial], Store]) -> None:
    """In company whose chunks are as long when rounded up to what a program has room for."""
    root, _, _ = sweep
    pair = [small_trial(evaluations=3), small_trial(evaluations=4)]
    assert len({trial.static() for trial in pair}) == 1
    store = trained(root, pair, "evaluated")
    assert [int(np.isfinite(curve(store, trial)[1]).sum()) for trial in pair] == [3, 4]


def test_divergence_leaves_the_neighbours_bitwise_unchanged(sweep: tuple[Path, list[Trial], Store]) -> None:
    root, trials, together = sweep
    bad = small_trial(optimizer__learning_rate=1e9)
    store = trained(root, [bad, *trials], "with_diverged")
    row = next(row for row in store.trials().to_pylist() if row["trial"] == bad.id)
    assert row["status"] == "diverged"
    assert row["diverged_step"] < 12
    assert row["steps"] == row["diverged_step"] + 1
    assert np.isnan(row["final_loss"])
    assert same(together, store, trials)


def test_a_diverged_trial_ends_where_it_ends_alone(sweep: tuple[Path, list[Trial], Store]) -> None:
    """Trials that train side by side share a loop; one that diverged takes no further steps in it."""
    root, trials, _ = sweep
    bad = small_trial(optimizer__learning_rate=1e9)
    stores = [trained(root, company, f"ends_{len(company)}") for company in ([bad], [*trials, bad])]
    rows = [next(row for row in store.trials().to_pylist() if row["trial"] == bad.id) for store in stores]
    assert rows[0]["diverged_step"] == rows[1]["diverged_step"] < 11
    assert rows[0]["steps"] == rows[1]["steps"] == rows[0]["diverged_step"] + 1
    assert len(stores[1].curves([bad.id])) == rows[0]["steps"]


class Below(Regression):
    """Losses may be negative: likelihoods of densities are."""

    def loss(self, params: Any, batch: Any, key: Any) -> Any:
        loss, scalars = super().loss(params, batch, key)
        return loss - 1e3, scalars


@pytest.mark.parametrize(("rate", "diverges"), [(1e-3, False), (1e9, True)])
def test_a_loss_below_zero_is_no_divergence(rate: float, diverges: bool) -> None:
    trial = replace(small_trial(), workload=Below(width=4), optimizer=OPTIMIZERS["sgd"](learning_rate=rate))
    train, hparams = make_train(trial.static()), trial.hparams()
    data = {name: jax.numpy.asarray(array) for name, array in trial.workload.load().arrays.items()}
    state, _ = jax.jit(lambda h: train.chunk(train.init(h), h, np.int32(4), data))(hparams)
    assert (int(state.diverged_step) >= 0) == diverges


def test_vmapped_agrees_to_rounding(sweep: tuple[Path, list[Trial], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program for accelerators maps trials with vmap; forced here on CPU."""
    root, trials, together = sweep
    monkeypatch.setattr(Devices, "platform", property(lambda self: "gpu"))
    monkeypatch.setattr(Devices, "memory", lambda self, limit: 2**30)
    other = trained(root, trials, "vmapped")
    for trial in trials:
        np.testing.assert_allclose(curve(other, trial), curve(together, trial), rtol=1e-5)


def test_what_is_not_asked_for_is_not_evaluated_either_where_trials_are_mapped() -> None:
    """The test split counts once, at the horizon; mapped over trials, a branch that depends on one of them is no branch."""
    trial = small_trial()
    train = make_train(trial.static(), SIDE_BY_SIDE)
    hparams = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), trial.hparams())
    state = jax.eval_shape(jax.vmap(train.init), hparams)
    data = dict(trial.workload.load().arrays)
    mapped = jax.vmap(train.evaluate, in_axes=(0, 0, None), axis_name=SIDE_BY_SIDE)
    assert jax.jit(mapped).lower(state, hparams, data).as_text().count("stablehlo.case") >= 2


def test_compiled_programs_are_the_distinct_signatures(tmp_path: Path) -> None:
    trials = [
        small_trial(optimizer__learning_rate=rate, seed=seed, workload__width=width)
        for rate in RATES
        for seed in (0, 1)
        for width in (8, 16)
    ]
    summary = run(trials, Store(tmp_path / "count"))
    assert summary.compiled == 2
    assert summary.trained == 16


@pytest.fixture
def fake_programs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Weak references to the programs that were compiled, which are none."""

    class Program:
        seconds = 0.0

    compiled: list[Any] = []

    def compile_program(*_: object) -> Program:
        program = Program()
        compiled.append(weakref.ref(program))
        return program

    monkeypatch.setattr(compiler, "compile_program", compile_program)
    monkeypatch.setattr(compiler, "step_flops", lambda trial: 0.0)
    return compiled


def test_programs_are_forgotten_after_their_last_pack(fake_programs: list[Any]) -> None:
    """Each takes hundreds of memory maps of the process on CPU; a hundred of them would be too many."""
    trials = [
        small_trial(workload__width=8 * width, seed=seed, budget__steps=steps, evaluations=steps // 4)
        for steps in (12, 24, 120)
        for width in range(1, 8)
        for seed in range(3)
    ]
    packs, _ = make_packs(trials, local_devices(), 1e9, pack_size=2)
    signatures = [pack.signature for pack in packs]
    assert [one for one, _ in itertools.groupby(signatures)] == list(dict.fromkeys(signatures))
    programs = compiler.Compiler(local_devices(), lambda pack: None, ahead=2, threads=1)
    programs.submit(packs)
    most = 0
    for pack in packs:
        programs.program(pack)
        most = max(most, sum(program() is not None for program in fake_programs))
        programs.done(pack)
    programs.close()
    gc.collect()
    assert len(fake_programs) == programs.count == len(set(signatures)) == 7
    assert most <= 3
    assert all(program() is None for program in fake_programs)


def test_halved_packs_are_compiled_once_and_forgotten(fake_programs: list[Any]) -> None:
    """Out of memory, they come back in parts while others are compiled ahead."""
    trials = [small_trial(workload__width=8 * width, seed=seed) for width in range(1, 6) for seed in range(4)]
    packs, _ = make_packs(trials, local_devices(), 1e9, pack_size=4)
    programs = compiler.Compiler(local_devices(), lambda pack: None, ahead=2, threads=1)
    programs.submit(packs)
    queue = list(packs)
    while queue:
        pack = queue.pop(0)
        programs.program(pack)
        if len(pack.trials) == 4 and pack is packs[0]:
            queue[:0] = halves = [replace(pack, trials=pack.trials[i : i + 2], width=pack.width // 2) for i in (0, 2)]
            programs.submit(halves)
        programs.done(pack)
    programs.close()
    gc.collect()
    assert len(fake_programs) == programs.count == 6
    assert all(program() is None for program in fake_programs)


def test_data_that_do_not_fit_yet_are_loaded_when_they_are_needed(fake_programs: list[Any]) -> None:
    trials = [small_trial(workload__width=8 * width) for width in range(1, 4)]
    packs, _ = make_packs(trials, local_devices(), 1e9)
    full = [True]

    def load(pack: Pack) -> None:
        if full[0] and pack is packs[1]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")

    programs = compiler.Compiler(local_devices(), load, ahead=2, threads=1)
    programs.submit(packs)
    programs.program(packs[0])
    programs.done(packs[0])
    with pytest.raises(jax.errors.JaxRuntimeError, match="no room"):
        programs.program(packs[1])
    full[0] = False
    for pack in packs[1:]:
        programs.program(pack)
        programs.done(pack)
    programs.close()


def test_small_packs_have_few_slots_where_idle_ones_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every slot is computed; on CPU an idle one costs nothing, and all sweeps share a program."""
    trials = [small_trial(seed=seed) for seed in range(40)]
    assert {pack.width for pack in make_packs(trials, local_devices(), 2**30, pack_size=4)[0]} != {4}
    monkeypatch.setattr(Devices, "platform", property(lambda self: "gpu"))
    packs, notes = make_packs(trials, local_devices(), 2**30, pack_size=4)
    assert [(pack.width, len(pack.trials)) for pack in packs] == [(4, 4)] * 10
    assert not notes  # it was asked for


def test_a_pack_that_does_not_fit_is_split_with_a_line(tmp_path: Path) -> None:
    trials = [small_trial(seed=seed) for seed in range(16)]
    packs, notes = make_packs(trials, local_devices(), memory=2**17)
    assert len(packs) > 1
    assert len({pack.signature for pack in packs}) == 1
    assert "split into" in notes[0]
    assert not make_packs(trials, local_devices(), memory=2**30)[1]
    assert sorted(t.id for pack in packs for t in pack.trials) == sorted(t.id for t in trials)
