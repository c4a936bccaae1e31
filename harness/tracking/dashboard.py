"""A W&B report of one study: loss against learning rate for each width, all hyperparameters, the best runs, the laws.

Needs the package wandb-workspaces, which is an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records.store import Store
from harness.tracking.artifacts import results_id, summary_of_results
from harness.tracking.wandb_runs import key_of, reason_of
from workloads.base import BadInput

_RATE, _WIDTH, _LOSS = "optimizer.learning_rate", "workload.width", "final_loss"
_MOST_AXES = 8  # of the parallel coordinates


def save(project: str, entity: str | None, study: str, root: Path) -> str:
    """Save the report; returns its address. Raises BadInput without the extra, and where W&B refuses."""
    reports = _library()
    try:
        return str(build(reports, project, entity, study, root).save().url)
    except BadInput:
        raise
    except Exception as error:  # W&B raises many kinds
        raise BadInput(
            f"W&B does not take the report ({reason_of(error)}); log in with `wandb login`, name your team with "
            "entity=TEAM, and upload the runs first: python -m harness.wandb sync"
        ) from None


def _library() -> Any:
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise BadInput('the dashboard needs wandb-workspaces: pip install "windtunnel[dashboard]"') from None
    return reports


def build(reports: Any, project: str, entity: str | None, study: str, root: Path) -> Any:
    """The report, not yet saved. reports: the module wandb_workspaces.reports.v2."""
    columns = _varying(root)
    where = {"project": project} | ({"entity": entity} if entity else {})
    trials = f"Metric('Group') == '{study}' and Metric('JobType') == 'train'"
    widths = columns.get(_WIDTH, [])
    sets = [
        reports.Runset(**where, name=f"width {width}", filters=f"{trials} and Config('{key_of(_WIDTH)}') == {width}")
        for width in widths
    ] or [reports.Runset(**where, name="trials", filters=trials)]
    everything = reports.Runset(**where, name="trials", filters=trials, order=[reports.OrderBy(_LOSS, ascending=True)])
    rate = reports.ScatterPlot(
        title="final loss against learning rate, a colour a width",
        x=reports.Config(key_of(_RATE)),
        y=reports.SummaryMetric(_LOSS),
        log_x=True,
    )
    curves = reports.LinePlot(title="validation loss", x="tokens", y=["eval_loss"], max_runs_to_show=50)
    blocks = [
        reports.H1("Learning rate and width"),
        reports.PanelGrid(runsets=sets, panels=[rate, curves]),
        reports.H1("All hyperparameters, and the best runs"),
        reports.PanelGrid(runsets=[everything], panels=[_coordinates(reports, columns)]),
        reports.H1("Laws and verdicts"),
        *_findings(reports, study, root),
    ]
    return reports.Report(
        **where, title=f"{study}"[:128], description="made by windtunnel", blocks=blocks, width="fluid"
    )


def _varying(root: Path) -> dict[str, Sequence[Any]]:
    """Configuration columns with more than one value, the fewest values first."""
    store = Store(root)
    names = [name for name in store.read(lambda view: view.names) if "." in name or name in ("parametrization", "seed")]
    table = store.trials(names)
    values = {name: [v for v in table[name].unique().to_pylist() if v is not None] for name in names}
    found = {name: sorted(entries, key=str) for name, entries in values.items() if len(entries) > 1}
    if _WIDTH in found:
        found[_WIDTH] = sorted(found[_WIDTH])
    return dict(sorted(found.items(), key=lambda item: len(item[1])))


def _coordinates(reports: Any, columns: dict[str, Sequence[Any]]) -> Any:
    axes = [
        reports.ParallelCoordinatesPlotColumn(metric=reports.Config(key_of(name)), log=name == _RATE)
        for name in list(columns)[:_MOST_AXES]
    ]
    loss = reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric(_LOSS))
    return reports.ParallelCoordinatesPlot(title="hyperparameters and final loss", columns=[*axes, loss])


def _findings(reports: Any, study: str, root: Path) -> list[Any]:
    """What the study's own analyses say, in words; they are W&B's run `results-<study>`, too."""
    found = summary_of_results(root)
    if not found:
        return [reports.P("The study has no analyses yet.")]
    lines = [
        f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}" for name, value in found.items()
    ]
    note = reports.P(f"The files and the report are the artifact of the run {results_id(study)}.")
    return [reports.UnorderedList(items=lines), note]
