"""Run a named study: plan, train what is missing, analyse, predict, check claims, report.

    python -m harness.study study=quickstart
    python -m harness.study study=quickstart dry_run=true            # packs, trials, FLOPs and estimated time, then stop
    python -m harness.study study=quickstart study.sweep.seed=[0,1,2] study.name=three_seeds

Results go to results/<study.name>: study.yaml, trials.parquet, curves, transfer.json, fit.json, prediction.json,
claims.json, report.html. Running it again trains only what is missing. Exit code 1: a claim is refuted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from harness import cli, plan, session
from harness.analysis import Cell, SeriesResult, analyse, label, settings_of
from harness.claims import check_claims, validate
from harness.config import StudyConfig, compose_config, options
from harness.engine.runner import Summary
from harness.laws import PredictionVerdict
from harness.prediction import FILE, fingerprint, judge, trial_points, write_down
from harness.records.files import atomic_write_text, write_json
from harness.records.store import Store
from harness.report import write_report
from harness.sweep import Point, points_of, trials_of, values_of
from harness.trial import Trial
from workloads.base import BadInput


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    if cli.wants_help(argv):
        print(f"{(__doc__ or '').strip()}\n\nstudies: {', '.join(options('study'))}")
        return 0
    config = compose_config("study", argv)
    study = OmegaConf.to_object(config.study)
    if not isinstance(study, StudyConfig):
        raise BadInput(f"study={config.study} is not a study; there are: {', '.join(options('study'))}")
    validate(study.claims)
    settings_of(study)
    session.configure(config)
    points = points_of(study.sweep)
    trials = trials_of(study, points)
    store = session.store_of(config, study.name)
    console = Console()
    plan.show(console, study, trials, store, session.settings_of(config))
    if config.dry_run:
        return 0
    _write_study(store, config, trials)
    summaries = [session.train(trials, config, store)]
    cells = _cells(store, points, trials)
    results = analyse(study, cells)
    verdicts, predicted = _predict(study, config, store, points, trials, results, summaries)
    claims = check_claims(study.claims, results, verdicts)
    _write(store, results, claims)
    store.compact()
    write_report(store.root)
    _show(console, store, results, claims, summaries)
    return int(any(claim["verdict"] == "refuted" for claim in claims))


def _cells(store: Store, points: Sequence[Point], trials: Sequence[Trial]) -> list[Cell]:
    """Every sweep point with its row."""
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    return [Cell(point, rows[trial.id]) for point, trial in zip(points, trials, strict=True)]


def _predict(
    study: StudyConfig,
    config: DictConfig,
    store: Store,
    points: Sequence[Point],
    trials: Sequence[Trial],
    results: Mapping[str, SeriesResult],
    summaries: list[Summary],
) -> tuple[dict[str, PredictionVerdict], list[Cell]]:
    """Write the prediction down, train the predicted trials, and judge."""
    axis, law, _ = settings_of(study)
    if not study.predict or law is None or axis is None:
        return {}, []
    scale = float(study.predict[axis])
    seeds = values_of("seed", study.predict.get("seed", study.sweep.get("seed", [0])))
    by_series = {label(p, axis): {k: v for k, v in p.items() if k in _kept(p, axis)} for p in points}
    at_scale = {
        name: trials_of(study, [{**next(p for p in points if label(p, axis) == name), axis: study.predict[axis]}])[0]
        for name in by_series
    }
    sizes = {name: float(parameters(trial)) for name, trial in at_scale.items()}
    written = write_down(store.root / FILE, results, scale, sizes, len(seeds), fingerprint(trials))
    new_points = trial_points(written, study.predict, by_series, seeds)
    new_trials = trials_of(study, new_points)
    summaries.append(session.train(new_trials, config, store))
    cells = _cells(store, new_points, new_trials)
    rows = {name: [cell.row for cell in cells if label(cell.point, axis) == name] for name in written["series"]}
    verdicts = {name: judge(entry, rows[name], written["written_at"]) for name, entry in written["series"].items()}
    return verdicts, cells


def _kept(point: Point, axis: str) -> list[str]:
    """The keys that name a point's series."""
    return [key for key in point if key not in (axis, "optimizer.learning_rate", "seed", "data_seed")]


def parameters(trial: Trial) -> int:
    """Number of parameters of the trial's model."""
    shapes = jax.eval_shape(trial.workload.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _write_study(store: Store, config: DictConfig, trials: Sequence[Trial]) -> None:
    """study.yaml: the resolved study, and what it trains on."""
    corpora = {trial.workload.data_key(): trial.workload for trial in trials}
    data = [dict(workload.load().info) for workload in corpora.values()]
    resolved = OmegaConf.to_yaml(OmegaConf.create({**OmegaConf.to_container(config, resolve=True), "data": data}))  # type: ignore[dict-item]
    atomic_write_text(store.root / "study.yaml", resolved)


def _write(store: Store, results: Mapping[str, SeriesResult], claims: list[dict[str, Any]]) -> None:
    write_json(store.root / "transfer.json", {name: result.transfer.to_json() for name, result in results.items()})
    fits = {
        name: result.fit.to_json() | {"x": result.x, "inputs": result.inputs.tolist(), "fitted": result.fit.losses.tolist()}
        for name, result in results.items()
        if result.fit
    }
    write_json(store.root / "fit.json", fits)
    write_json(store.root / "claims.json", claims)


def _show(
    console: Console,
    store: Store,
    results: Mapping[str, SeriesResult],
    claims: Sequence[Mapping[str, Any]],
    summaries: Sequence[Summary],
) -> None:
    table = Table("series", "drift exponent", "95% interval", "learning-rate transfer", title="Learning-rate transfer")
    for name, result in results.items():
        entry = result.transfer.to_json()
        drift, (low, high) = entry["drift_exponent"], entry["drift_ci95"] or (None, None)
        table.add_row(name, _number(drift), f"{_number(low)} to {_number(high)}", entry["verdict"])
    if results:
        console.print(table)
    table = Table("claim", "verdict", "why", title="Claims")
    for claim in claims:
        statement = ", ".join(f"{key} {value}" for key, value in claim["claim"].items() if key != "source")
        table.add_row(statement, claim["verdict"], str(claim["evidence"].get("reason", "")))
    if claims:
        console.print(table)
    spent = sum(summary.seconds["train"] for summary in summaries)
    console.print(f"{sum(s.trained for s in summaries)} trials trained in {spent:.0f} s; report: {store.root / 'report.html'}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
