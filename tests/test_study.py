"""Studies: every shipped one runs through at 2 steps; running again trains nothing; a prediction precedes its trials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from harness import cli, study
from harness.config import CONFIG_DIR, compose_study
from harness.records.files import read_json
from harness.records.store import Store
from harness.sweep import by_point, flatten, points_of, trials_of, values_of
from workloads.base import BadInput

STUDIES = sorted(path.stem for path in (CONFIG_DIR / "study").glob("*.yaml"))


def shrunk(name: str) -> list[str]:
    """Overrides that leave the first two values of every axis, one seed and two steps, of the smallest models."""
    study = yaml.safe_load((CONFIG_DIR / "study" / f"{name}.yaml").read_text())
    sweep = {key: values_of(key, axis)[:2] for key, axis in flatten(study["sweep"]).items()}
    sweep |= {"seed": [0]} if "seed" in sweep else {}
    sweep |= {key: small for key, small in (("workload.width", [16, 32]), ("budget.steps", [2, 4])) if key in sweep}
    base = {key: value for key, value in flatten(study["base"]).items() if not key.startswith("budget.")}
    base |= {"evaluations": 1} | ({} if "budget.steps" in sweep else {"budget.steps": 2})
    base |= {} if "workload.depth" in sweep else {"workload.depth": 1}
    return [f"study.base={json.dumps(base)}", f"study.sweep={json.dumps(sweep)}", "study.also=[]"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_through(name: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps decide nothing: the claims must come out undecided, with a reason, and a report is still written."""
    code = cli.run(study.main, [f"study={name}", *shrunk(name), f"results={results}"])
    assert code == 0, capsys.readouterr().err
    claims = read_json(results / name / "claims.json")
    assert claims
    assert {claim["verdict"] for claim in claims} == {"undecided"}
    assert all(claim["evidence"]["reason"] for claim in claims)
    assert (results / name / "report.html").stat().st_size > 1000
    assert (results / name / "trials.parquet").exists()


def test_axes() -> None:
    assert values_of("x", [3, 1]) == [3, 1]
    assert values_of("x", {"log2": [-2, 0]}) == [0.25, 0.5, 1.0]
    assert values_of("x", {"log2": [0, 1, 0.5]}) == [1.0, 2**0.5, 2.0]
    assert values_of("x", {"range": [2, 4]}) == [2, 3, 4]
    assert values_of("x", "sp") == ["sp"]
    for wrong in ([], {"log2": [1]}, {"range": [3, 1]}, {"log2": [0, 1], "range": [0, 1]}, {"step": 1}, None):
        with pytest.raises(BadInput, match="axis"):
            values_of("x", wrong)


def test_points_are_the_product_and_nested_keys_replace_dotted_ones() -> None:
    sweep = {"workload.width": [8], "seed": [0, 1], "workload": {"width": [16, 32]}}
    assert flatten(sweep) == {"workload.width": [16, 32], "seed": [0, 1]}
    assert points_of(sweep) == [{"workload.width": width, "seed": seed} for width in (16, 32) for seed in (0, 1)]


def test_also_adds_points_once() -> None:
    sweep = {"parametrization": ["sp", "mup"], "seed": [0, 1]}
    points = points_of(sweep, [{"parametrization": "mup", "seed": [1, 2]}])
    assert len(points) == 5
    assert points[-1] == {"parametrization": "mup", "seed": 2}
    with pytest.raises(BadInput, match="not an axis"):
        points_of(sweep, [{"workload.width": [8]}])


def test_trials_that_differ_in_seeds_share_the_rest_and_are_all_checked() -> None:
    config = OmegaConf.to_object(compose_study(["study=regression"]).study)
    points = points_of({"workload.width": [4, 8], "seed": [0, 1], "data_seed": [None, 3]})
    trials = trials_of(config, points)
    assert len({trial.id for trial in trials}) == 8
    assert [trial.config()["workload.width"] for trial in trials] == [4] * 4 + [8] * 4
    assert [(trial.seed, trial.data_seed) for trial in trials[:4]] == [(0, None), (0, 3), (1, None), (1, 3)]
    again = trials_of(config, points[::-1], by_point(points[:3], trials[:3]))
    assert again == trials[::-1]
    assert again[-1] is trials[0]
    for wrong, message in (("seed", "must lie in"), ("workload.width", "workload")):
        with pytest.raises(BadInput, match=message):
            trials_of(config, [*points, points[-1] | {wrong: -1}])


def test_regression_study_predicts_then_trains_and_hits(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole path on a workload whose law is known exactly: L = sigma^2 + width^-b."""
    arguments = ["study=regression", "study.sweep.seed=[0,1]", f"results={results}"]
    assert cli.run(study.main, arguments) == 0, capsys.readouterr().err
    root = results / "regression"
    prediction = read_json(root / "prediction.json")
    rows = Store(root).trials().to_pylist()
    predicted = [row for row in rows if row["workload.width"] == prediction["scale"]]
    assert predicted
    assert min(row["started_at"] for row in predicted) > prediction["written_at"]
    fit = read_json(root / "fit.json")["all"]
    low, high = fit["ci95"]["alpha"]
    assert low <= 0.5 <= high
    trained = len(rows)
    capsys.readouterr()
    assert cli.run(study.main, arguments) == 0
    assert len(Store(root).trials()) == trained
    assert read_json(root / "prediction.json") == prediction
    assert "0 trials to train" in capsys.readouterr().out
