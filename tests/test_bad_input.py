"""Bad input: exit code 2, one paragraph that names the fix, nothing trained and nothing lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli, main, study, train

SMALL = [
    "workload.corpus='zipf_markov:vocab_size=16'",
    "workload.width=8",
    "workload.depth=1",
    "workload.heads=2",
    "workload.context=8",
    "workload.batch_size=4",
    "workload.evaluation_sequences=8",
    "budget.steps=2",
    "evaluations=1",
]

CASES = {
    "unknown workload": (["workload=language_modle"], "Did you mean 'language_model'"),
    "unknown optimizer": (["optimizer=adamx"], "Did you mean 'adam"),
    "unknown schedule": (["schedule=cosin"], "Did you mean 'cosine'"),
    "unknown parametrization": (["parametrization=mupp"], "Did you mean 'mup'"),
    "unknown tracker": (["tracker.name=wandbb"], "Did you mean 'wandb'"),
    "unknown key": (["workload.widht=8"], "Did you mean 'workload.width'"),
    "unknown hyperparameter": (["optimizer.learning_rat=1"], "Did you mean 'optimizer.learning_rate'"),
    "wrong type": (["workload.width=wide"], "could not be converted to Integer"),
    "not an override": (["workload.width"], "workload.width"),
    "negative budget": (["budget.steps=null", "budget.tokens=-5"], "must be a positive number"),
    "two budgets": (["budget.tokens=1e5"], "keep one"),
    "budget below a step": (["budget.steps=0.5"], "less than one step"),
    "width and heads": (["workload.heads=3"], "not divisible by workload.heads=3"),
    "odd head size": (["workload.heads=8"], "must be even"),
    "zero width": (["workload.width=0"], "must be at least 1"),
    "missing corpus": (["workload.corpus=no/such/file"], "no/such/file"),
    "context longer than the corpus": (["workload.context=10000000"], "shorter context"),
    "warmup longer than the horizon": (["schedule.warmup=300%"], "must lie between 0 and the horizon"),
    "warmup without a unit": (["schedule.warmup='17'"], "write an amount and a unit"),
    "negative learning rate": (["optimizer.learning_rate=-1"], "non-negative"),
    "learning rate not finite": (["optimizer.learning_rate=.nan"], "optimizer.learning_rate"),
    "negative seed": (["seed=-1"], "must lie in"),
    "no evaluations": (["evaluations=0"], "at least 1"),
    "divergence factor": (["divergence_factor=0.5"], "above 1"),
    "unknown precision": (["precision=float23"], "Did you mean 'float32'"),
    "memory": (["engine.memory_gb=-1"], "must be positive"),
    "warmup and cooldown": (["schedule=wsd", "schedule.warmup=60%", "schedule.cooldown=60%"], "shorten one"),
    "base width": (["parametrization=mup", "parametrization.base_width=5"], "is no width of this workload"),
    "mup for adafactor": (["optimizer=adafactor", "parametrization=mup"], "use parametrization=sp"),
}


@pytest.mark.parametrize("case", CASES)
def test_train_refuses(case: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides, fix = CASES[case]
    code = cli.run(train.main, [*SMALL, *overrides, f"results={results}"])
    message = " ".join(capsys.readouterr().err.split())
    assert code == 2, message
    assert message.startswith("error: ")
    assert fix in message
    assert not list(results.rglob("*.parquet"))


@pytest.mark.parametrize("content", [b"", b"tiny", b"\x00\x01" * 5000], ids=["empty", "too short", "binary"])
def test_train_refuses_a_corpus(
    content: bytes, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(content)
    assert cli.run(train.main, [*SMALL, f"workload.corpus={corpus}", f"results={results}"]) == 2
    assert "corpus" in capsys.readouterr().err


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A results folder in which nothing can be created, even by root: a file stands in its place."""
    folder = tmp_path / "occupied"
    folder.write_text("not a folder")
    return folder


def test_results_that_cannot_be_written(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(train.main, [*SMALL, f"results={read_only}"]) == 2
    assert "results=" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_results(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert cli.run(train.main, [*SMALL, f"results={results}"]) == 2
    assert "results=" in capsys.readouterr().err


STUDY_CASES = {
    "unknown study": (["study=quikstart"], "Did you mean 'quickstart'"),
    "bad axis": (["study.sweep.seed={rang:[0,1]}"], "is not an axis"),
    "unknown swept key": (["study.sweep.workload.widht=[8]"], "Did you mean 'width'"),
    "unknown law": (["study.analyses=[{transfer: workload.width}, {law: powerlaw, x: params}]"], "power_law"),
    "unknown claim": (["study.claims=[{drift: {parametrization: sp}, expect: maybe}]"], "is not known"),
    "transfer over nothing swept": (["study.analyses=[{transfer: workload.depth}]"], "in the sweep"),
}


@pytest.mark.parametrize("case", STUDY_CASES)
def test_study_refuses(case: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides, fix = STUDY_CASES[case]
    code = cli.run(study.main, ["dry_run=true", *overrides, f"results={results}"])
    message = " ".join(capsys.readouterr().err.split())
    assert code == 2, message
    assert fix in message


def test_windtunnel_dispatches_and_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main.main, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in main.COMMANDS)
    assert cli.run(main.main, ["trian"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err
    assert cli.run(main.main, ["train", "workload=ctr", "--help"]) == 0
    assert "Criteo" in capsys.readouterr().out
    assert cli.run(main.main, ["train", "--help"]) == 0
    assert "image_vit | language_model | mri" in capsys.readouterr().out
