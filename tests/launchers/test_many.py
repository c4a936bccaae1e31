"""Ten thousand queued trials, and secrets in the environment of what submits them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness import cli, train
from harness.launchers.slurm import submit
from harness.launchers.slurm.manifest import Manifest, read
from harness.records.store import Store
from tests.engine.storm import some_trials
from tests.launchers.fake_slurm import FakeSlurm
from tests.launchers.test_slurm_submit import config, row, squeue_says
from tests.trials import with_seed

SECRETS = {"WANDB_API_KEY": "c0ffee" * 7, "HF_TOKEN": "hf_canary", "SLURM_JWT": "jwt_canary"}


def queued(manifest: Manifest) -> Counter[str]:
    """How often each trial is in a submission."""
    return Counter(trial for pack in manifest.packs for trial in pack.trial_ids)


def test_ten_thousand_queued_trials(slurm: FakeSlurm, results: Path) -> None:
    """Each is queued once; asked for again, none is; once half of them are recorded and the queue is lost, the others are."""
    trials, store = [with_seed(one, seed) for one in some_trials(1) for seed in range(10_000)], Store(results / "s")
    given = config(results, "engine.pack_size=50", "cluster.max_tasks=400")
    ids = {trial.id for trial in trials}
    (first,) = submit.submit(trials, given, store)
    manifest = read(first / "manifest.json")
    assert queued(manifest) == dict.fromkeys(ids, 1)
    tasks = manifest.tasks
    assert len(tasks) <= 400
    slurm.say("squeue", squeue_says("101", ["RUNNING"] * 4 + ["PENDING"] * (len(tasks) - 4)))
    assert submit.submit(trials, given, store) == [first]
    assert len(slurm.calls("sbatch")) == 1
    done = [trial for pack in manifest.packs[::2] for trial in pack.trial_ids]
    by_id = {trial.id: trial for trial in trials}
    for start in range(0, len(done), 500):
        store.append([row(by_id[trial]) for trial in done[start : start + 500]])
    slurm.say("squeue", "")
    (second,) = submit.submit(trials, given, store)
    assert queued(read(second / "manifest.json")) == dict.fromkeys(ids - set(done), 1)
    store.append([row(by_id[trial]) for trial in ids - set(done)])
    assert submit.submit(trials, given, store) == []
    assert store.finished() == ids
    assert len(store.trials(["trial"])) == len(ids)


def test_secrets_are_in_no_record_log_or_snapshot(
    slurm: FakeSlurm, results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a study that is trained here with a mirror, and submitted there."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    small = ["workload=regression", "workload.width=4", "workload.batch_size=4", "budget.steps=12", "evaluations=2"]
    mirror = ["tracker=wandb", "tracker.mode=offline", f"results={results}", "study_name=s"]
    assert cli.run(train.main, [*small, *mirror]) == 0
    store = Store(results / "s")
    (folder,) = submit.submit(some_trials(4), config(results, "tracker=wandb"), store, ["study=x"], [{"seed": 1}])
    store.compact()
    files = [path for path in results.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".parquet", ".json", ".sh", ".yaml", ".py", ".wandb"} <= kinds
    assert any(path.is_relative_to(folder) for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], path
    said = capfd.readouterr()
    assert not [name for name, value in SECRETS.items() if value in said.out + said.err]
