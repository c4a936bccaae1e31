"""The command: what W&B then has is what the records have, through 429s, crashes of its client, and a server that is down."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import main as entry
from harness.records.files import write_json
from harness.tracking import dashboard
from harness.tracking.wandb_runs import RECORDED
from harness.wandb import main
from tests.tracking.offline import offline_runs
from tests.tracking.recorded import record, trial_id
from tests.tracking.standin import StandIn, standin
from tests.tracking.test_live import KEY, assert_history_is_recorded, assert_no_secret, assert_run_is_recorded
from workloads.base import BadInput

_HASTY = ["runs_per_minute=1e6", "longest_backoff_s=0.1", "client_retries=1", "timeout_s=2", "artifacts=false"]


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A client of W&B that knows no account but the stand-in's, and is gone afterwards."""
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with standin() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running


def sync(results: Path, *arguments: str) -> int:
    return main(["sync", "study=made", f"results={results}", *_HASTY, *arguments])


def test_online_runs_are_the_records_and_a_second_sync_asks_nothing(
    server: StandIn, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = record(results / "made", 3)
    assert sync(results) == 0
    assert set(server.runs) == {trial_id(i) for i in range(3)}
    for name, sent in server.runs.items():
        assert_history_is_recorded(sent.history, store, name)
        assert sent.summary["flops"] == 1e6
        assert sent.facts["groupName"] == "made"
        assert sent.facts["tags"] == ["34a7372abcde"]
    assert server.runs[trial_id(1)].facts["displayName"] == "regression w16 mup lr0.002 s1"
    asked = len(server.requests)
    assert sync(results) == 0
    assert len(server.requests) == asked
    record(results / "made", 1, finished_at="2026-02-02T00:00:00")  # trained again
    assert sync(results) == 0
    assert [server.runs[trial_id(i)].starts for i in range(3)] == [2, 1, 1]
    assert server.runs[trial_id(0)].summary[RECORDED] == "ok 2026-02-02T00:00:00"
    assert_history_is_recorded(server.runs[trial_id(0)].history, store, trial_id(0))
    assert_no_secret(results)
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err


def test_a_run_that_w_and_b_has_in_part_is_completed(server: StandIn, results: Path) -> None:
    """As a live mirror leaves it that was cut off: six steps there, nine in the records by now."""
    record(results / "made", 1)
    assert sync(results) == 0
    store = record(results / "made", 1, steps=9, finished_at="2026-02-02T00:00:00")
    assert sync(results) == 0
    assert len(server.runs[trial_id(0)].lines) == 9
    assert_history_is_recorded(server.runs[trial_id(0)].history, store, trial_id(0))


def test_errors_and_429s_double_nothing(server: StandIn, results: Path) -> None:
    store = record(results / "made", 3)
    refused: list[str] = []

    def fault(kind: str, variables: dict[str, Any]) -> int | None:
        """The first request of each run's history is refused, and everything of the third run until it was tried twice."""
        name = str(variables.get("name"))
        if kind != "file_stream" or refused.count(name) >= (4 if name == trial_id(2) else 1):
            return None
        refused.append(name)
        return 429

    server.fault = fault
    assert sync(results) == 0
    assert refused.count(trial_id(2)) == 4
    assert [server.runs[trial_id(i)].starts for i in range(3)] == [1, 1, 3]  # two tries of a client that tries twice
    for name, sent in server.runs.items():
        assert_history_is_recorded(sent.history, store, name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # W&B's own, when its process dies
def test_a_crash_of_the_client_is_survived(server: StandIn, results: Path) -> None:
    """An answer without the files that it asked for kills wandb-core 0.31."""
    record(results / "made", 1)
    answers = server._graphql
    crashes: list[str] = []

    def graphql(kind: str, variables: dict[str, Any]) -> dict[str, Any]:
        if kind == "CreateRunFiles" and not crashes:
            crashes.append(kind)
            return {}
        return answers(kind, variables)

    server._graphql = graphql  # type: ignore[method-assign]
    assert sync(results) == 0
    assert crashes
    assert server.runs[trial_id(0)].starts == 2


def test_a_server_that_is_down_is_exit_code_1(
    server: StandIn, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(results / "made", 1)
    server.fault = lambda kind, variables: 503
    assert sync(results, "attempts=1", "timeout_s=0.5") == 1
    shown = capsys.readouterr()
    assert "the same command sends the rest" in shown.out
    assert KEY not in shown.out + shown.err
    server.fault = lambda kind, variables: None
    assert sync(results) == 0
    assert RECORDED in server.runs[trial_id(0)].summary


def test_offline_folders_hold_runs_and_results(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = record(results / "made", 3)
    write_json(store.root / "claims.json", [{"verdict": "supported"}])
    write_json(store.root / "fit.json", {"mup": {"law": "power_law", "params": {"alpha": 0.5}}})
    write_json(store.root / "checks.json", {"sharpness": {"verdicts": {"sp": {"verdict": "independent"}}}})
    write_json(store.root / "judge.json", {"overall": {"verdict": "faster", "value": 1.3}})
    write_json(store.root / "scores.json", {"adamw": {"score": 0.7}})
    (store.root / "report.html").write_text("<p>report</p>")
    assert sync(results, "mode=offline", "artifacts=true") == 0
    made = offline_runs(store.root)
    found = made.pop("results-made")
    names = ["checks.json", "claims.json", "fit.json", "judge.json", "report.html", "scores.json"]
    assert {name: sorted(files) for name, files in found.artifacts.items()} == {"made": names}
    assert found.summary["check/sharpness/sp/verdict"] == "independent"
    assert found.summary["judge/verdict"] == "faster"
    assert found.summary["judge/value"] == 1.3
    assert found.summary["score/adamw"] == 0.7
    assert found.summary["claim/0/verdict"] == "supported"
    assert found.summary["law/mup/alpha"] == 0.5
    assert found.job_type == "analysis"
    assert len(made) == 3
    for one in made.values():
        assert_run_is_recorded(one, store)
    assert sync(results, "mode=offline", "artifacts=true") == 0
    assert len(offline_runs(store.root)) == 4
    record(results / "made", 1, finished_at="2026-02-02T00:00:00")
    assert sync(results, "mode=offline") == 0
    assert offline_runs(store.root)[trial_id(0)].summary[RECORDED] == "ok 2026-02-02T00:00:00"
    assert_no_secret(results)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["syn", "study=made"], "sync"),
        (["sync", "study=mad"], "made"),
        (["sync"], "made"),
        (["sync", "study=made", "mode=onlin"], "online"),
        (["sync", "study=made", "runs_per_minute=0"], "must be positive"),
        (["sync", "study=made", "speed=1"], "unknown argument"),
    ],
)
def test_bad_input_names_the_fix(arguments: list[str], hint: str, results: Path) -> None:
    record(results / "made", 1)
    with pytest.raises(BadInput, match=hint):
        main([*arguments, f"results={results}"])


def test_without_a_key_it_says_how_to_log_in(server: StandIn, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    record(results / "made", 1)
    with pytest.raises(BadInput, match="wandb login"):
        sync(results)


def test_the_command_is_one_of_windtunnels(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["wandb", "--help"]) == 0
    assert "runs_per_minute" in capsys.readouterr().out
    assert os.path.basename(entry.__file__) == "main.py"


class Blocks:
    """Stands in for wandb_workspaces.reports.v2: every name makes a namespace of its arguments."""

    def __getattr__(self, kind: str) -> Any:
        def make(*values: Any, **fields: Any) -> SimpleNamespace:
            return SimpleNamespace(kind=kind, values=values, **fields)

        return make


def test_the_dashboard_shows_widths_hyperparameters_and_laws(results: Path) -> None:
    store = record(results / "made", 4)
    write_json(store.root / "fit.json", {"law": "power_law", "params": {"alpha": 0.5}})
    made = dashboard.build(Blocks(), "project", "team", "made", store.root)
    grids = [block for block in made.blocks if block.kind == "PanelGrid"]
    assert [runs.name for runs in grids[0].runsets] == ["width 8", "width 16"]
    assert "Config('workload/width') == 16" in grids[0].runsets[1].filters
    assert grids[0].panels[0].x.values == ("optimizer/learning_rate",)
    axes = [axis.metric.values[0] for axis in grids[1].panels[0].columns]
    assert axes == ["workload/width", "optimizer/learning_rate", "seed", "final_loss"]
    assert next(block for block in made.blocks if block.kind == "UnorderedList").items == [
        "law/fit: power_law",
        "law/fit/alpha: 0.5",
    ]


@pytest.mark.skipif(not importlib.util.find_spec("wandb_workspaces"), reason="wandb-workspaces is an extra")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_real_library_takes_the_dashboard(results: Path) -> None:
    import wandb_workspaces.reports.v2 as reports
    from wandb_workspaces import expr

    store = record(results / "made", 4)
    for block in dashboard.build(reports, "project", "team", "made", store.root).blocks:
        for panel in getattr(block, "panels", ()):
            assert panel._to_model()
        for runs in getattr(block, "runsets", ()):
            assert expr.expr_to_filters(runs.filters).filters


@pytest.mark.skipif(bool(importlib.util.find_spec("wandb_workspaces")), reason="wandb-workspaces is installed")
def test_the_dashboard_without_its_extra_says_what_to_install(results: Path) -> None:
    record(results / "made", 1)
    with pytest.raises(BadInput, match=r"windtunnel\[dashboard\]"):
        main(["dashboard", "study=made", f"results={results}"])
