"""From trials to what SLURM is asked for, with SLURM's commands replaced by scripts."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig

from harness import cli, study
from harness.budget import Budget
from harness.config import COMPONENTS, CONFIG_DIR, compose_config, trial_from
from harness.engine.devices import Devices, local_devices
from harness.engine.pack import make_packs
from harness.engine.signals import StopFlag
from harness.launchers.slurm import queue, snapshot, status, submit, tasks
from harness.launchers.slurm.attempts import Attempts, GivenUp
from harness.launchers.slurm.files import Kept
from harness.launchers.slurm.manifest import (
    Manifest,
    PlannedPack,
    check_files,
    digests,
    factored,
    planned,
    read,
    same_points,
    submissions,
    trial_of,
)
from harness.launchers.slurm.training import train_task
from harness.optimizers.user import load_optimizer
from harness.records.files import read_json, write_json
from harness.records.store import Store
from harness.trial import Trial
from tests.launchers.fake_slurm import FakeSlurm
from tests.trials import LM, small_trial
from workloads.base import BadInput

COMPONENT_NAMES = [(group, name) for group, registry in COMPONENTS.items() for name in registry if name != "table"]


def config(results: Path, *words: str) -> DictConfig:
    fixed = ("hydra/launcher=slurm", "cluster=local", "engine.devices=2", f"results='{results}'")
    return compose_config("train", [*fixed, *words])


def some_trials(count: int = 6) -> list[Trial]:
    return [small_trial(seed=seed, parametrization__base_width=8, budget__steps=12) for seed in range(count)]


def row(trial: Trial, **values: Any) -> dict[str, Any]:
    return {"trial": trial.id, "status": "ok", "study": "s", "seed": trial.seed, **values}


def squeue_says(job: str, states: Sequence[str], restarts: int = 0) -> str:
    return "".join(f"{job}|{i}|{state}|{restarts}|None|n{i}\n" for i, state in enumerate(states))


@functools.cache
def base_trial() -> Trial:
    return trial_from(
        compose_config("train", [f"workload.corpus='{LM.corpus}'", "budget.steps=5", "divergence_factor=7.3"])
    )


def test_a_whole_number_is_the_trial_of_the_float(slurm: FakeSlurm) -> None:
    trial = replace(base_trial(), budget=Budget(steps=5), optimizer=COMPONENTS["optimizer"]["adam"](learning_rate=1))
    assert trial_of(json.loads(json.dumps(planned(trial)))).id == trial.id
    assert trial.id == replace(trial, budget=Budget(steps=5.0)).id


@pytest.mark.parametrize(("group", "name"), COMPONENT_NAMES)
def test_a_trial_goes_through_the_manifest_unchanged(group: str, name: str) -> None:
    trial = replace(base_trial(), **{group: COMPONENTS[group][name]()})
    entry = json.loads(json.dumps(planned(trial)))
    assert trial_of(entry) == trial
    with pytest.raises(BadInput, match="has changed"):
        trial_of(entry | {"id": "0" * 16})
    entry["config"][group]["no_such_key"] = 1
    with pytest.raises(BadInput, match="does not fit"):
        trial_of(entry)


@pytest.mark.parametrize("pack_size", ["2", "4", "null"])
def test_packs_are_those_of_one_process(results: Path, pack_size: str) -> None:
    """On the login node as planned, and in the task, which sees one pack's trials."""
    trials = [replace(t, workload=t.workload.replace(width=width)) for width in (8, 16) for t in some_trials(5)]
    given = config(results, f"engine.pack_size={pack_size}", "cluster.mem_gb=4")
    engine, local = tasks.engine_of(given), local_devices()
    memory = local.memory(engine.memory_gb)
    whole, _ = make_packs(trials, local, memory, engine.pack_size)
    planned_tasks, _, _ = tasks.plan_tasks(trials, given, Store(results / "s"))
    assert [pack.id for task in planned_tasks for pack in task] == [pack.id for pack in whole]
    for entries, pack in zip((pack.trials for task in planned_tasks for pack in task), whole, strict=True):
        (alone,), _ = make_packs([trial_of(entry) for entry in entries], local, memory, engine.pack_size)
        assert (alone.id, alone.width) == (pack.id, pack.width)


def test_a_manifest_says_once_what_trials_share(results: Path) -> None:
    trials = [*some_trials(2), small_trial(seed=7, optimizer__weight_decay=0.0, evaluations=1, budget__steps=12)]
    trials += [replace(trials[0], parametrization=COMPONENTS["parametrization"]["mup"](), seed=9)]
    entries = [PlannedPack(trial.id, 1.0, [planned(trial)]) for trial in trials]
    shared, tasks_ = factored([entries[:2], entries[2:]])
    path = Manifest("s", "now", {}, {}, 2, tasks_, points=[{"seed": float("nan")}], shared=shared).write(results)
    again = read(path)
    assert [again.trial(entry) for pack in again.packs for entry in pack.trials] == trials
    assert again.shared["workload"] == planned(trials[0])["config"]["workload"]
    rest = again.packs[1].trials[0]["config"]
    assert rest["seed"] == 1
    assert rest.keys().isdisjoint({"workload", "schedule", "budget", "data_seed"})
    assert "name" not in again.shared["parametrization"]
    assert again.points == [{"seed": None}]
    assert factored([]) == ({group: {} for group in (*COMPONENTS, "budget")}, [])


def test_two_files_of_one_name_are_not_mixed_up(results: Path, tmp_path: Path) -> None:
    """Each trial is rebuilt with its own, of copies that stay as they were."""
    found = []
    for folder, momentum in (("a", 0.0), ("b", 0.9)):
        (tmp_path / folder).mkdir()
        text = f"import optax\n\ndef make(learning_rate):\n    return optax.sgd(learning_rate, {momentum})\n"
        (tmp_path / folder / "mine.py").write_text(text)
        own = load_optimizer(f"{tmp_path / folder / 'mine.py'}:make")
        found.append(replace(small_trial(), optimizer=own(learning_rate=0.1)))
    kept = Kept(results, write=True).optimizers(found)
    entries = [planned(trial) for trial in found]
    tasks_ = [[PlannedPack(entry["id"], 1.0, [entry])] for entry in entries]
    manifest = Manifest("s", "now", {}, {}, 2, tasks_, optimizers=kept)
    for _ in range(2):
        for entry, trial in zip(entries, found, strict=True):
            again = manifest.trial(entry)
            assert again.id == trial.id
            assert Path(again.optimizer.file).read_text() == Path(trial.optimizer.file).read_text()
    (tmp_path / "a" / "mine.py").write_text("# edited")
    with pytest.raises(BadInput, match="has changed since this command read it"):
        Kept(results, write=True).optimizers(found)


def test_packs_share_a_task_while_it_is_short(results: Path) -> None:
    trials, store = some_trials(8), Store(results / "s")
    words = ("engine.pack_size=2", "cluster.work_rate=1e4")  # so slow that each pack takes minutes

    def sizes(*more: str) -> list[int]:
        return [len(task) for task in tasks.plan_tasks(trials, config(results, *words, *more), store)[0]]

    estimate = tasks.plan_tasks(trials, config(results, *words), store)[1]
    minutes = estimate.longest_s / 60
    assert sizes() == [1, 1, 1, 1]
    assert sizes(f"cluster.task_min={2.1 * minutes}", f"cluster.time_min={int(9 * minutes) + 9}") == [2, 2]
    assert sizes("cluster.max_tasks=1") == [4]
    assert max(sizes(f"cluster.task_min={9 * minutes}", f"cluster.time_min={int(2.1 * minutes) + 2}")) < 4  # the limit
    assert estimate.device_hours == pytest.approx((4 * estimate.longest_s + 4 * 4.0) * 2 / 3600)
    assert estimate.guessed


def test_what_depends_on_the_machine_is_refused(results: Path) -> None:
    trials, store = [replace(some_trials(1)[0], budget=Budget(seconds=1.0))], Store(results / "s")
    with pytest.raises(BadInput, match=r"budget\.seconds"):
        tasks.plan_tasks(trials, config(results), store)
    with pytest.raises(BadInput, match="gpu_memory_gb"):
        tasks.task_devices(config(results, "cluster.gpus=1"))
    gpus = tasks.task_devices(config(results, "cluster.gpus=4", "cluster.gpu_memory_gb=80"))
    assert (gpus.count, gpus.platform, gpus.memory(None)) == (4, "gpu", pytest.approx(0.6 * 0.75 * 80 * 2**30))


def test_a_submission(slurm: FakeSlurm, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One array and what follows it; nothing of the submitting job's own SLURM_* reaches sbatch."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    store, trials = Store(results / "s"), some_trials()
    store.append([row(trials[0])])
    words = ["study=quickstart", "wait=true", "dry_run=false"]
    (folder,) = submit.submit(trials, config(results, "engine.pack_size=2"), store, words, [{"seed": 1}])
    array, follow = slurm.calls("sbatch")
    assert array == f"--parsable {folder / 'array.sh'}"
    assert follow == f"--parsable --dependency=afterok:101 --kill-on-invalid-dep=yes {folder / 'next.sh'}"
    assert "SLURM_JOB_ID" not in slurm.environment("sbatch")
    assert "SLURM_CONF=/etc/slurm.conf" in slurm.environment("sbatch")
    assert read_json(folder / "jobs.json") == {"array": "101", "next": "102"}
    manifest = read(folder / "manifest.json")
    assert [trial for pack in manifest.packs for trial in pack.trial_ids] == [trial.id for trial in trials[1:]]
    assert manifest.arguments == ["study=quickstart"]
    assert manifest.config().engine.devices == 2
    assert "--array=0-2\n" in (folder / "array.sh").read_text()


def test_what_is_queued_is_not_submitted_again(slurm: FakeSlurm, results: Path) -> None:
    store, trials = Store(results / "s"), some_trials()
    given = config(results, "engine.pack_size=2")
    (first,) = submit.submit(trials, given, store)
    slurm.say("squeue", squeue_says("101", ["PENDING", "RUNNING", "COMPLETED"]))
    more = [*trials, small_trial(seed=99)]
    folders = submit.submit(more, given, store, ["study=x"])
    assert folders[0] == first
    again = read(folders[1] / "manifest.json")
    assert {t for pack in again.packs for t in pack.trial_ids} == {more[4].id, more[5].id, more[6].id}
    assert "--dependency=afterok:102:101 " in slurm.calls("sbatch")[-1]
    queued = squeue_says("101", ["PENDING"] * 3) + squeue_says("102", ["PENDING"] * 2)
    slurm.say("squeue", queued + "103|N/A|PENDING|0|Dependency|\n")
    assert len(submit.submit(more, given, store, ["study=x"])) == 2
    assert len(slurm.calls("sbatch")) == 3
    store.append([row(trial) for trial in more])
    assert submit.submit(more, given, store) == []


def test_refusals_name_the_fix(slurm: FakeSlurm, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.script("sbatch", "echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    with pytest.raises(BadInput, match=r"invalid partition specified: nope. Correct cluster"):
        submit.submit(some_trials(1), config(results, "cluster.partition=nope"), Store(results / "s"))
    assert submissions(results / "s") == []
    monkeypatch.setenv("PATH", str(results))
    with pytest.raises(BadInput, match="not on this machine's PATH"):
        submit.submit(some_trials(1), config(results), Store(results / "t"))


def test_states_come_from_the_records_and_then_from_slurm(slurm: FakeSlurm, results: Path) -> None:
    store, trials = Store(results / "s"), some_trials(14)
    (folder,) = submit.submit(trials, config(results, "engine.pack_size=2"), store)
    store.append([row(trial) for trial in trials[:3]])
    queued = squeue_says("101", ["RUNNING", "RUNNING", "PENDING"]) + "101|3|PENDING|2|BeginTime|\n"
    slurm.say("squeue", queued)
    slurm.say(
        "sacct", "101_2|RUNNING|0:0|n9\n101_4|FAILED|3:0|n1\n101_5|CANCELLED by 0|0:0|n1\n101_[6-9]|PENDING|0:0|\n"
    )
    states = status.pack_states(store)
    assert [entry.state for entry in states] == [
        "done",
        "running",
        "pending",
        "preempted",
        "failed",
        "failed",
        "unknown",
    ]
    assert [entry.recorded for entry in states] == [2, 1, 0, 0, 0, 0, 0]
    assert states[4].task is not None
    assert states[4].task.detail == "exit code 3:0"
    slurm.script("sacct", "exit 1")  # accounting is off
    assert [entry.state for entry in status.pack_states(store)][:5] == [
        "done",
        "running",
        "pending",
        "preempted",
        "unknown",
    ]
    slurm.script("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert status.pack_states(store)[0].state == "done"
    slurm.script("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(BadInput, match="Unable to contact"):
        status.pack_states(store)
    assert folder.name


def test_a_held_task_is_said_with_what_to_do(slurm: FakeSlurm, results: Path) -> None:
    store = Store(results / "s")
    submit.submit(some_trials(4), config(results, "engine.pack_size=2"), store)
    slurm.say("squeue", "101|0|PENDING|2|launch failed requeued held|\n101|1|PENDING|1|BeginTime|\n")
    assert [entry.state for entry in status.pack_states(store)] == ["held", "preempted"]
    console = status.Console(record=True, width=200)
    status.show(console, store)
    text = console.export_text()
    assert "1 preempted, 1 held" in text
    assert "101_0 is held (launch failed requeued held): scontrol release 101_0" in text


def test_two_commands_at_once_submit_once(slurm: FakeSlurm, results: Path) -> None:
    """The second waits for the first, and then finds its trials queued."""
    queued = squeue_says("101", ["PENDING", "PENDING"]).replace("\n", "\\n")
    slurm.script("sbatch", f"sleep 0.3; printf '{queued}' >{slurm.folder}/squeue.said; echo 101")
    trials, words = some_trials(4), config(results, "engine.pack_size=2")
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(submit.submit, trials, words, Store(results / "s")) for _ in range(4)]
    assert len({tuple(one.result()) for one in found}) == 1
    assert len(slurm.calls("sbatch")) == 1


def test_a_study_that_lost_what_follows_gets_it_again(slurm: FakeSlurm, results: Path) -> None:
    """sbatch took the array and refused the job after it; the same command submits only that."""
    store, trials = Store(results / "s"), some_trials(4)
    slurm.script("sbatch", '[[ "$*" == *dependency* ]] && exit 1; echo 101')
    words = config(results, "engine.pack_size=2")
    with pytest.raises(BadInput, match="sbatch refused"):
        submit.submit(trials, words, store, ["study=x"])
    slurm.say("squeue", squeue_says("101", ["RUNNING", "PENDING"]))
    slurm.script("sbatch", "echo 102")
    first, second = submit.submit(trials, words, store, ["study=x"])
    assert read_json(first / "jobs.json") == {"array": "101", "next": None}
    assert read_json(second / "jobs.json") == {"array": None, "next": "102"}
    assert slurm.calls("sbatch")[-1].startswith("--parsable --dependency=afterok:101 --kill-on-invalid-dep=yes")
    assert [entry.state for entry in status.pack_states(store)] == ["running", "pending"]
    slurm.say("squeue", squeue_says("101", ["RUNNING", "PENDING"]) + "102|N/A|PENDING|0|Dependency|\n")
    assert submit.submit(trials, words, store, ["study=x"]) == [first]
    store.append([row(trial) for trial in trials])
    assert submit.submit(trials, words, store, ["study=x"]) == []


def test_following_ends_with_the_study(slurm: FakeSlurm, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_FIRST_POLL", 0.01)
    store, trials = Store(results / "s"), some_trials(2)
    folders = submit.submit(trials, config(results), store, ["study=x"])
    console = status.Console(quiet=True)
    assert status.follow(store, folders, console) == 1  # not in the queue, not recorded
    store.append([row(trial) for trial in trials])
    assert status.follow(store, folders, console) == 1  # recorded, but nothing went on
    write_json(folders[0] / "outcome.json", {"code": 0, "next": []})
    assert status.follow(store, folders, console) == 0
    write_json(folders[0] / "outcome.json", {"code": 1, "next": []})  # a claim is refuted
    assert status.follow(store, folders, console) == 1


def test_following_outlives_the_controller(
    slurm: FakeSlurm, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(status, "_LAST_POLL", 0.01)
    store, trials = Store(results / "s"), some_trials(1)
    folders = submit.submit(trials, config(results), store)
    store.append([row(trial) for trial in trials])
    away = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    slurm.script("squeue", f'[ "$(wc -l <"$0.calls")" -gt 3 ] || {{ {away}; }}')
    assert status.follow(store, folders, status.Console()) == 0
    assert capsys.readouterr().out.count("Unable to contact") == 3
    monkeypatch.setattr(status, "_PATIENCE", 0.0)
    slurm.script("squeue", away)
    with pytest.raises(queue.Unreachable, match="what is queued stays queued"):
        status.follow(store, folders, status.Console())


def test_a_trial_on_several_devices_is_refused(slurm: FakeSlurm, results: Path) -> None:
    with pytest.raises(BadInput, match="array tasks train whole trials"):
        submit.submit(some_trials(2), config(results, "engine.layout=model"), Store(results / "s"))


def test_jobs_do_not_inherit_this_machines_cores(
    slurm: FakeSlurm, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPROC", "64")
    submit.submit(some_trials(2), config(results), Store(results / "s"))
    assert "NPROC=" not in slurm.environment("sbatch")


def test_dry_run_shows_the_scripts_and_submits_nothing(
    slurm: FakeSlurm, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "study=regression",
        "study.sweep.workload.width=[4,8]",
        "study.predict={}",
        "study.analyses=[]",
        "study.claims=[]",
    ]
    on_cluster = ["hydra/launcher=slurm", "cluster=local", "engine.devices=2", f"results='{results}'"]
    assert cli.run(study.main, [*words, *on_cluster, "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert "#SBATCH --array=0-" in out
    assert "core-hours" in out
    assert slurm.calls("sbatch") == []
    assert not (results / "regression" / "slurm").exists()
    assert cli.run(study.main, [*words, *on_cluster]) == 0
    assert "submitted job array 101" in capsys.readouterr().out
    slurm.say("squeue", squeue_says("101", ["RUNNING"] * 9))
    assert cli.run(study.main, ["status", *words, *on_cluster]) == 0
    assert "running" in capsys.readouterr().out
    assert cli.run(study.main, ["status", *words, *on_cluster, "study.name=other"]) == 2


def test_rounding_does_not_make_new_trials(slurm: FakeSlurm, results: Path) -> None:
    store = Store(results / "s")
    points = [{"optimizer.learning_rate": 0.1, "seed": 1, "parametrization": "mup"}]
    submit.submit(some_trials(1), config(results), store, ["study=x"], points)
    rounded = [points[0] | {"optimizer.learning_rate": 0.1 * (1 + 1e-12)}]
    assert submit.settled(store, rounded) == points
    other = [points[0] | {"optimizer.learning_rate": 0.11}]
    assert submit.settled(store, other) == other
    assert not same_points(points, [points[0] | {"parametrization": "sp"}])
    assert not same_points(points, [])


def test_attempts_without_progress_are_counted(tmp_path: Path) -> None:
    path, folder = tmp_path / "attempts" / "0", tmp_path / "checkpoints"
    folder.mkdir()

    def attempt() -> Attempts:
        one = Attempts(path, folder)
        one.start(["a", "b"], retries=1)
        return one

    attempt()
    attempt()
    with pytest.raises(GivenUp, match="2 attempts made no progress"):
        attempt()
    path.unlink()
    for _ in range(5):  # preemptions do not count
        attempt().stopped(preempted=True)
    for _ in range(5):  # nor do attempts that leave a checkpoint
        one = attempt()
        (folder / "b.ckpt").write_text("x")
        (folder / "b.ckpt").touch()
        one.chunk(trained("b"))
    attempt().stopped(preempted=False)  # a warning that came before the first chunk does
    with pytest.raises(GivenUp):
        [attempt() for _ in range(3)]


def trained(pack: str) -> Any:
    """What Attempts looks at in a chunk."""
    return SimpleNamespace(pack=SimpleNamespace(id=pack))


def test_the_halves_of_a_pack_count_as_progress(tmp_path: Path) -> None:
    """A pack that runs out of memory goes on as two, with checkpoints of their own; an old one of those is no progress."""
    path, folder = tmp_path / "attempts" / "0", tmp_path / "checkpoints"
    folder.mkdir()
    half = folder / "half.ckpt"
    for count in range(1, 4):
        one = Attempts(path, folder)
        one.start(["whole"], retries=5)
        one.chunk(trained("half"))
        assert path.read_text() == "1\n"
        half.write_text("x")
        os.utime(half, ns=(count, count))
        one.chunk(trained("half"))
        assert path.read_text() == "0\n"


def test_files_that_trials_name_must_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.yaml").write_text("leaves: [{match: '.*'}]\n")
    words = ["parametrization=table", "parametrization.file=table.yaml", f"workload.corpus='{LM.corpus}'"]
    found = digests([trial_from(compose_config("train", words))])
    assert list(found) == ["table.yaml"]
    check_files(found)
    Path("table.yaml").write_text("leaves: []\n")
    with pytest.raises(BadInput, match=r"table\.yaml has changed"):
        check_files(found)


def test_a_copy_of_a_table_makes_the_same_trials(tmp_path: Path, results: Path) -> None:
    """What follows an array names copies of the user's files, and what follows that copies of these."""
    path = tmp_path / "table.yaml"
    path.write_text("leaves: [{match: '.*'}]\n")
    words = [
        "parametrization=table",
        f"parametrization.file={path}",
        f"workload.corpus='{LM.corpus}'",
        "budget.steps=5",
    ]
    trials = []
    for stage in range(3):
        trials.append(trial_from(compose_config("train", words)))
        words = Kept(results / str(stage), write=True).words(words)
    assert len({trial.config()["parametrization.file"] for trial in trials}) == 3
    assert len({trial.id for trial in trials}) == 1


@pytest.mark.parametrize("gigabytes", [80.0, 24.0])
def test_a_pack_has_the_memory_on_slurm_that_it_has_here(
    results: Path, gigabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a GPU JAX takes three quarters, and a pack may take a share of these."""
    words = ("cluster.gpus=1", f"cluster.gpu_memory_gb={gigabytes}", "engine.devices=null")
    there = tasks.task_devices(config(results, *words)).memory(None)
    gpu = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": int(0.75 * gigabytes * 2**30)})
    seen = SimpleNamespace(devices=SimpleNamespace(flat=[gpu]), size=1)
    assert there == pytest.approx(Devices(seen).memory(None))  # type: ignore[arg-type]


def test_the_snapshot_is_all_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = snapshot.take(tmp_path)
    assert snapshot.take(tmp_path) == code
    names = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    for name in ("harness/study.py", "workloads/base.py", "conf/study/quickstart.yaml", "hydra_plugins/windtunnel.py"):
        assert name in names
    here = CONFIG_DIR.parent
    for package in ("harness", "workloads", "hydra_plugins", "conf"):
        for path in (here / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(here)) in names, f"snapshot.py leaves out {path}: add its suffix"
    assert (code / "harness" / "code_version.txt").read_text()


def test_a_worker_trains_its_task_and_only_what_is_missing(slurm: FakeSlurm, results: Path) -> None:
    store, trials = Store(results / "s"), some_trials(4)
    (folder,) = submit.submit(trials, config(results, "engine.devices=1", "engine.pack_size=2"), store)
    store.append([row(trials[2])])
    path = folder / "manifest.json"
    with pytest.raises(BadInput, match=r"index=2 must lie in \[0, 2\)"):
        train_task(path, 2, Attempts(folder / "attempts" / "2", results / "s" / "checkpoints"), StopFlag())
    code = next((results / "s" / "slurm").glob("code-*"))
    command = [sys.executable, "-P", "-m", "harness.launchers.slurm.worker", f"manifest={path}", "index=1"]
    environment = os.environ | {"PYTHONPATH": str(code)}
    done = subprocess.run(command, cwd=results, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 trials to train" in done.stdout
    assert store.finished() == {trials[2].id, trials[3].id}
    (recorded,) = [r for r in store.trials().to_pylist() if r["trial"] == trials[3].id]
    assert recorded["code_version"] == (code / "harness" / "code_version.txt").read_text()
    assert (folder / "attempts" / "1").read_text() == "0\n"
