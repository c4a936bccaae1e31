"""Data and corpora as they are typed: the README's forms reach trials whole, alone and in sweeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness import cli, train
from harness.config import StudyConfig
from harness.launchers import packed
from harness.overrides import quoted
from harness.sweep import flatten, points_of, trials_of

FORMS = [
    ("translation", "data", "path:/tmp/a.en,/tmp/b.de"),
    ("translation", "data", "path:~/a b.en, ~/b.de"),
    ("image_resnet", "data", "shapes:turn=180,clutter=4"),
    ("ctr", "data", "path:/logs/day_[0-9]*.tsv"),
    ("ctr", "data", "path:/logs/day_{0,1}.tsv"),
    ("mri", "data", "path:/it's \\'here\\"),
    ("language_model", "corpus", "zipf_markov:exponent=1.2,seed=3"),
    ("language_model", "corpus", "path:a/*.txt,b(1).txt"),
    ("language_model", "corpus", "~/texts/é&#.txt"),
    ("language_model", "corpus", "stdlib"),
]


@pytest.mark.parametrize(("workload", "key", "value"), FORMS)
def test_one_value_is_one_value(workload: str, key: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    for written in (value, quoted(value)):
        assert cli.run(train.main, [f"workload={workload}", f"workload.{key}={written}", "--cfg"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["workload"][key] == value


SWEEPS = {
    "stdlib,zipf_markov": ["stdlib", "zipf_markov"],
    "zipf_markov:vocab_size=16,zipf_markov:vocab_size=32,seed=1": [
        "zipf_markov:vocab_size=16",
        "zipf_markov:vocab_size=32,seed=1",
    ],
    "stdlib,zipf_markov:vocab_size=16,seed=1,a.txt": ["stdlib", "zipf_markov:vocab_size=16,seed=1", "a.txt"],
    "path:a,b,path:c": ["path:a,b", "path:c"],
    "choice(a,b)": ["a", "b"],
    "'a,b',c": ["a,b", "c"],
}


@pytest.mark.parametrize("written", SWEEPS)
def test_several_values_are_a_sweep(
    written: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[str] = []
    monkeypatch.setattr(train, "_sweep", lambda overrides: given.extend(overrides) or 0)
    assert cli.run(train.main, ["-m", f"workload.corpus={written}"]) == 0
    (override,) = OverridesParser.create().parse_overrides(given)
    assert [getattr(value, "text", value) for value in override.value().list] == SWEEPS[written]
    assert cli.run(train.main, [f"workload.corpus={written}"]) == 2
    assert "multirun" in capsys.readouterr().err


def test_a_sweep_reaches_its_trials(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Hydra's sweeper, and as the base and axes of a study."""
    trained: list[str] = []
    monkeypatch.setattr(packed, "train", lambda trials, *_: trained.extend(t.workload.corpus for t in trials))
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    words = ["workload.corpus=zipf_markov:vocab_size=16,seed=1,zipf_markov:vocab_size=32", "dry_run=true"]
    assert cli.run(train.main, ["-m", *words, f"results={results}"]) == 0
    assert trained == ["zipf_markov:vocab_size=16,seed=1", "zipf_markov:vocab_size=32"]
    base = {"workload": "language_model", "workload.corpus": "zipf_markov:vocab_size=16,seed=1", "budget": {"steps": 2}}
    study = StudyConfig(base=flatten(base), sweep={"seed": [0]})
    (trial,) = trials_of(study, points_of(study.sweep))
    assert trial.workload.corpus == "zipf_markov:vocab_size=16,seed=1"
