"""A trial split over all devices, in one process and in several, gives what one device gives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from harness.engine import devices
from harness.engine.distributed import Group, first_host, greatest, group_of, join, share_of_gpus
from harness.engine.runner import Runner, Settings
from harness.engine.signals import Interrupted
from harness.records.store import Store
from tests.trials import small_trial
from workloads.base import BadInput

ROOT = Path(__file__).resolve().parents[2]


def losses(store):
    """Training losses by step of the one trial of a store."""
    return np.array([row["train_loss"] for row in store.curves().to_pylist()])


def trained(root, layout, trial, observers=()):
    store = Store(root)
    Runner(store, devices.local_devices(layout), Settings(), observers).train([trial])
    return store


@pytest.mark.parametrize(("layout", "threads"), [("trials", "2"), ("model", "8")])
def test_a_command_has_xla_threads_for_its_layout(layout, threads):
    """Devices that wait for each other hold a thread each, and need others."""
    words = f"['engine.layout={layout}', 'engine.devices=2', 'workload=regression']"
    code = (
        "import os; from harness import config, session; "
        f"session.configure(config.compose_config('train', {words})); print(os.environ['NPROC'])"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == threads


class Stop:
    """Asks the run to stop after its first chunk, as a signal does."""

    def begin(self, packs, notes): ...

    def chunk(self, chunk):
        os.kill(os.getpid(), signal.SIGUSR1)

    def finished(self, pack, rows): ...

    def end(self): ...


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of a trial that one device trained."""
    return losses(trained(tmp_path_factory.mktemp("alone"), "trials", small_trial()))


def test_split_over_the_devices_it_gives_the_same_losses(alone, tmp_path):
    np.testing.assert_allclose(losses(trained(tmp_path, "model", small_trial())), alone, rtol=1e-5)


def test_arrays_are_split_where_their_lengths_divide():
    spread = devices.local_devices("model")
    assert spread.count == 2
    tree = {"matrix": np.zeros((1, 3, 8)), "vector": np.zeros((1, 6)), "odd": np.zeros((1, 5)), "step": np.zeros(1)}
    specs = {name: sharding.spec for name, sharding in spread.of_state(tree).items()}
    assert specs["matrix"] == jax.P(None, None, "model")
    assert specs["vector"] == jax.P(None, "model")
    assert specs["odd"] == specs["step"] == jax.P()
    put = spread.put(tree, spread.of_state(tree))
    assert put["matrix"].addressable_shards[0].data.shape == (1, 3, 4)
    np.testing.assert_array_equal(spread.fetch(put)["matrix"], tree["matrix"])


def test_it_stops_and_goes_on_bitwise(tmp_path):
    trial = replace(small_trial(), evaluations=4)
    whole = losses(trained(tmp_path / "whole", "model", trial))
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", "model", trial, [Stop()])
    assert list((tmp_path / "cut" / "checkpoints").glob("*.ckpt"))
    np.testing.assert_array_equal(losses(trained(tmp_path / "cut", "model", trial)), whole)


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def test_two_processes_of_two_devices_give_the_losses_of_one(tmp_path):
    words = ["workload=image_mlp", "workload.width=16", "workload.depth=1", "budget.steps=30", "evaluations=3"]
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}

    def start(study, *more):
        command = [
            sys.executable,
            "-m",
            "harness.train",
            *words,
            "engine.devices=2",
            *more,
            f"results={tmp_path}",
            f"study_name={study}",
        ]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    group = ("engine.layout=model", f"engine.coordinator=localhost:{free_port()}", "engine.processes=2")
    running = [start("alone"), *(start("both", *group, f"engine.process={k}") for k in range(2))]
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    stores = {name: Store(tmp_path / name) for name in ("alone", "both")}
    np.testing.assert_allclose(losses(stores["both"]), losses(stores["alone"]), rtol=1e-5)
    rows = {name: store.trials().to_pylist() for name, store in stores.items()}
    assert [len(found) for found in rows.values()] == [1, 1]  # only one process recorded
    assert rows["both"][0]["devices"] == 4
    assert rows["both"][0]["final_loss"] == pytest.approx(rows["alone"][0]["final_loss"], rel=1e-5)


def test_srun_says_who_trains_together():
    step = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "n[07-08,11]",
        "SLURM_JOB_ID": "5000",
        "SLURM_PROCID": "3",
    }
    assert group_of("", None, None, step) == Group("n07:62344", 4, 3)
    assert group_of("", None, None, step | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert group_of("", None, None, {}) is None
    assert group_of("a:1", 2, 1, step) == Group("a:1", 2, 1)
    assert [first_host(text) for text in ("gpu1", "a-1,b-2", "r[3,5-6]x", "c[009-010]")] == [
        "gpu1",
        "a-1",
        "r3",
        "c009",
    ]
    with pytest.raises(BadInput, match="go together"):
        group_of("a:1", None, 1, {})
    with pytest.raises(BadInput, match="must lie in"):
        group_of("a:1", 2, 2, {})


EIGHT = {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, None),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0"}, None),  # one task a node has all
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, (1,)),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, (4, 5, 6, 7)),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "3"}, (2, 3, 4)),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "1,4(x2)", "SLURM_NODEID": "0"}, None),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "1,4(x2)", "SLURM_NODEID": "2"}, (2, 3)),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, None),  # each sees its own
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_GPU_BIND": "none", "SLURM_GPUS_PER_TASK": "1"}, (1,)),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_TRES_PER_TASK": "cpu=4"}, (1,)),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_TRES_PER_TASK": "cpu=4,gres/gpu=1"}, None),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_GPU_BIND": "per_task:1"}, None),
        (
            {
                "SLURM_STEP_TASKS_PER_NODE": "2",
                "SLURM_LOCALID": "1",
                "SLURM_GPUS_PER_TASK": "2",
                "SLURM_GPUS_ON_NODE": "2",
                "CUDA_VISIBLE_DEVICES": "0,1",
            },
            None,
        ),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "3"}, None),  # no GPUs
    ],
)
def test_tasks_of_a_node_share_its_gpus(environment, gpus):
    assert share_of_gpus(environment) == gpus
    assert group_of("a:1", 2, 1, environment).gpus == gpus


def test_more_tasks_than_gpus_are_refused():
    few = {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "2"}
    with pytest.raises(BadInput, match=r"4 tasks share the 2 GPUs .* --ntasks-per-node=2"):
        share_of_gpus(few)


def test_jax_does_not_look_at_slurm_itself():
    """It would give a process that has a node of its own one of the node's GPUs."""
    code = (
        "import jax; from harness.engine.distributed import *; "
        f"join(group_of('localhost:{free_port()}', 1, 0, {{}})); "
        "print(jax.config.read('jax_cuda_visible_devices')); jax.distributed.shutdown()"
    )
    node = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}
    node |= {"SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | node, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["all"]


FETCHES = """
import sys
import jax, numpy as np
from harness.engine import devices, distributed
devices.configure(2, layout="model")
if len(sys.argv) > 1:
    distributed.join(distributed.Group(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2])))
spread, compiled = devices.local_devices("model"), []
tree = {name: np.arange(8.0 * size).reshape(1, size, 8) for name, size in (("a", 3), ("b", 5), ("c", 3))}
put = spread.put(tree, spread.of_state(tree))
assert all(leaf.addressable_shards[0].data.size == leaf.size // spread.count for leaf in put.values())
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
)
for _ in range(3):
    jax.tree.map(np.testing.assert_array_equal, spread.fetch(put), tree)
print(len(compiled))
"""


@pytest.mark.parametrize(("processes", "programs"), [(1, 0), (2, 2)])
def test_a_state_is_gathered_leaf_by_leaf(processes, programs):
    """By a program for each shape, compiled once; by none where this process has all parts."""
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "NPROC")}
    port = str(free_port())
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FETCHES, *([port, str(k)] if processes > 1 else [])],
            cwd=ROOT,
            env=clean,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(processes)
    ]
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        assert out.split()[-1] == str(programs)


def test_who_cannot_be_met_is_said_and_nobody_hangs():
    with pytest.raises(BadInput, match="does not resolve"):
        join(Group("no-such-host.invalid:29400", 2, 1), timeout=1)
    with pytest.raises(BadInput, match="nobody answers"):
        join(Group(f"localhost:{free_port()}", 2, 1), timeout=0.3)
    with pytest.raises(BadInput, match="must be HOST:PORT"):
        join(Group("node001", 2, 1), timeout=1)


def test_one_process_agrees_with_itself():
    assert greatest(3, 0) == (3, 0)


def test_unknown_layouts_name_the_fix():
    with pytest.raises(BadInput, match="Did you mean 'model'"):
        devices.local_devices("modle")
