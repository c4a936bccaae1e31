"""Run a named study: plan, train what is missing, analyse, predict, check claims, report.

    python -m harness.study study=quickstart
    python -m harness.study study=quickstart dry_run=true            # packs, trials, FLOPs and estimated time, then stop
    python -m harness.study study=quickstart study.sweep.seed=[0,1,2] study.name=three_seeds
    python -m harness.study study=quickstart hydra/launcher=slurm cluster=cpu          # as SLURM jobs; wait=true follows them
    python -m harness.study status study=quickstart                                    # how its jobs stand
    python -m harness.study simulate trials=1000000 gpus=1000   # how a study would run there, and what would break first
    python -m harness.study study=lr_width extend=true    # and train what undecided transfers ask for, in up to 3 rounds
    python -m harness.study study=lr_width scale=gpu      # the larger setting that the study names for a GPU

Results go to results/<study.name>: study.yaml, trials.parquet, curves, transfer.json, fit.json, prediction.json,
checks.json, claims.json, report.html. Running it again trains only what is missing. Exit code 1: a claim is refuted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from harness import cli, plan, session
from harness.analysis import (
    NOT_SERIES,
    Cell,
    LawResult,
    by_series,
    label,
    laws,
    predict_layout,
    rerun_layout,
    rerun_points,
    settings_of,
    transfers,
)
from harness.checks import Finding
from harness.checks.run import checks_of, run_checks
from harness.claims import Findings, check_claims, validate
from harness.config import StudyConfig, compose_study, options
from harness.engine import devices
from harness.extension import ROUNDS, extension
from harness.launchers.slurm import launcher, simulate
from harness.launchers.slurm.submit import Submitted, preview, require, settled
from harness.launchers.slurm.tasks import task_devices
from harness.laws import PredictionVerdict
from harness.prediction import FILE, Target, fingerprint, judge, trial_points, write_down
from harness.records.files import atomic_write_text, write_json
from harness.records.store import Store
from harness.sweep import Point, PointKey, by_point, flatten, points_of, trials_of, values_of
from harness.transfer import Transfer
from harness.trial import Trial
from workloads.base import BadInput


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    if cli.wants_help(argv) and argv[:1] != ["simulate"]:
        print(f"{(__doc__ or '').strip()}\n\nstudies: {', '.join(options('study'))}")
        return 0
    if argv[:1] == ["status"]:
        return launcher.show_status(compose_study(argv[1:]))
    if argv[:1] == ["simulate"]:
        return simulate.main(argv[1:])
    config = compose_study(argv)
    on_slurm = config.launcher == "slurm"
    study = OmegaConf.to_object(config.study)
    if not isinstance(study, StudyConfig):
        raise BadInput(f"study={config.study} is not a study; there are: {', '.join(options('study'))}")
    study.base, study.sweep = flatten(study.base), flatten(study.sweep)
    study.rerun, study.predict = flatten(study.rerun), flatten(study.predict)
    settings_of(study)
    session.configure(config)
    points = points_of(study.sweep, study.also)
    trials = trials_of(study, points)
    validate(study.claims, list(checks_of(study, trials)))
    store = session.store_of(config, study.name)
    console = Console()
    later = trials_of(study, [*rerun_layout(study, points), *predict_layout(study, points)])
    local = task_devices(config) if on_slurm else devices.local_devices(config.engine.layout)
    if local.spread and jax.process_count() > 1:
        raise BadInput(
            "a study analyses in one process; train its large trials with srun python -m harness.train engine.layout=model "
            f"study_name={config.name} …, and run the study alone afterwards: it trains only what is missing"
        )
    title = f"{study.name}: {study.question}"
    plan.show(console, title, trials, later, store, session.settings_of(config), local)
    if config.dry_run:
        if on_slurm:
            preview(console, trials, config, store, argv)
        return 0
    _write_study(store, config, trials)
    train = functools.partial(_submit if on_slurm else _train, study, config, store, argv, by_point(points, trials))
    try:
        outcome = investigate(study, points, train, store.root, ROUNDS if config.extend else 0)
    except Submitted as submitted:
        return launcher.finish(submitted.folders, config, store)
    write_outcome(store.root, outcome)
    store.compact()
    from harness.report import write_report  # matplotlib is slow to import

    write_report(store.root)
    _show(console, store, outcome)
    return int(any(claim["verdict"] == "refuted" for claim in outcome.claims))


@dataclass(frozen=True)
class Outcome:
    """What a study found: series -> transfer, law and prediction verdict; check -> finding; the claims."""

    transfers: Mapping[str, Transfer]
    laws: Mapping[str, LawResult]
    checks: Mapping[str, Finding]
    claims: list[dict[str, Any]]


def investigate(
    study: StudyConfig,
    points: Sequence[Point],
    train: Callable[[Sequence[Point]], list[Cell]],
    root: Path,
    rounds: int = 0,
) -> Outcome:
    """Sweep, choose, rerun on fresh seeds, fit, predict, train what was predicted, judge.

    train: points -> each with its row. The prediction is written under `root` before `train` sees its points.
    rounds: how often the sweep may be extended by what undecided transfers ask for.
    """
    swept = train(points)
    found = transfers(study, swept)
    axis = settings_of(study)[0]
    for _ in range(rounds if axis else 0):
        more = extension(points, found, str(axis))
        if not more:
            break
        points = [*points, *more]
        swept = [*swept, *train(more)]
        found = transfers(study, swept)
    rerun = train(rerun_points(study, points, found))
    predicted: list[Cell] = []
    fitted, reasons = laws(study, found, swept, rerun)
    verdicts = {name: PredictionVerdict("undecided", f"No law was fitted: {why}", {}) for name, why in reasons.items()}
    if study.predict and fitted:
        behind = fingerprint([cell.row["trial"] for cell in (*swept, *rerun)])
        target, series = _target(study, points, fitted)

        def recorded(content: Mapping[str, Any]) -> list[str]:
            finished = Store(root).finished()
            return [t.id for t in trials_of(study, trial_points(content, study.predict, series)) if t.id in finished]

        written = write_down(root / FILE, found, fitted, target, behind, recorded)
        predicted = train(trial_points(written, study.predict, series))
        cells = by_series(predicted, str(settings_of(study)[0]))
        verdicts |= {name: judge(name, [cell.row for cell in cells[name]], written) for name in written["series"]}
    stages = {"sweep": swept, "rerun": rerun, "predict": predicted}
    write_json(root / "stages.json", {k: [cell.row["trial"] for cell in cells] for k, cells in stages.items()})
    checks = run_checks(study, swept, root)
    claims = check_claims(study.claims, Findings(found, verdicts, checks))
    return Outcome(found, fitted, checks, claims)


def _train(
    study: StudyConfig,
    config: DictConfig,
    store: Store,
    argv: Sequence[str],
    known: Mapping[PointKey, Trial],
    points: Sequence[Point],
) -> list[Cell]:
    """Train what is missing of these points; every point with its row."""
    if not points:
        return []
    trials = trials_of(study, points, known)
    session.train(trials, config, store)
    return _cells(points, trials, store)


def _submit(
    study: StudyConfig,
    config: DictConfig,
    store: Store,
    argv: Sequence[str],
    known: Mapping[PointKey, Trial],
    points: Sequence[Point],
) -> list[Cell]:
    """Every point with its row; raises Submitted if some have none yet, after having their trials trained by SLURM."""
    if not points:
        return []
    points = settled(store, points)
    trials = trials_of(study, points, known)
    require(trials, config, store, argv, points)
    return _cells(points, trials, store)


def _cells(points: Sequence[Point], trials: Sequence[Trial], store: Store) -> list[Cell]:
    rows = {row["trial"]: row for row in store.trials().to_pylist()}
    return [Cell(point, rows[trial.id]) for point, trial in zip(points, trials, strict=True)]


def _target(
    study: StudyConfig, points: Sequence[Point], fitted: Mapping[str, LawResult]
) -> tuple[Target, dict[str, Point]]:
    """What to predict, and the keys that name each fitted series."""
    axis, _, column = settings_of(study)
    assert axis is not None
    examples = {name: next(p for p in points if label(p, axis) == name) for name in fitted}
    series = {name: {key: p[key] for key in p if key not in (axis, *NOT_SERIES)} for name, p in examples.items()}
    at_scale = trials_of(study, [{**p, axis: study.predict[axis]} for p in examples.values()])
    sizes = {name: _input(trial, str(column)) for name, trial in zip(fitted, at_scale, strict=True)}
    own_seeds = next(iter(fitted.values())).losses.seeds
    seeds = values_of("seed", study.predict.get("seed", list(own_seeds)))
    return Target(float(study.predict[axis]), sizes, tuple(seeds)), series


def _input(trial: Trial, column: str) -> float:
    """A law's input for a trial that is not trained yet: its number of parameters, or a number of its configuration."""
    return float(parameters(trial) if column == "params" else trial.config()[column])


def parameters(trial: Trial) -> int:
    """Number of parameters of the trial's model."""
    shapes = jax.eval_shape(trial.workload.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _write_study(store: Store, config: DictConfig, trials: Sequence[Trial]) -> None:
    """study.yaml: the resolved study and the facts of what it trains on. data.json: these with the lists of files."""
    corpora = {trial.workload.data_key(): trial.workload for trial in trials}
    infos = [dict(workload.load().info) for workload in corpora.values()]
    write_json(store.root / "data.json", infos)
    data = [{key: value for key, value in info.items() if key != "file_list"} for info in infos]
    resolved = OmegaConf.to_yaml(OmegaConf.create({**OmegaConf.to_container(config, resolve=True), "data": data}))  # type: ignore[dict-item]
    atomic_write_text(store.root / "study.yaml", resolved)


def write_outcome(root: Path, outcome: Outcome) -> None:
    """transfer.json, fit.json and claims.json."""
    write_json(root / "transfer.json", {name: t.to_json() for name, t in outcome.transfers.items()})
    write_json(root / "fit.json", {name: law.to_json() for name, law in outcome.laws.items()})
    write_json(root / "claims.json", outcome.claims)


def _show(console: Console, store: Store, outcome: Outcome) -> None:
    if outcome.transfers:
        table = Table("series", "drift exponent", "95% interval", "verdict", title="Learning-rate transfer")
        for name, transfer in outcome.transfers.items():
            entry = transfer.to_json()
            low, high = entry["drift_ci95"]
            table.add_row(
                name, _number(entry["drift_exponent"]), f"{_number(low)} to {_number(high)}", entry["verdict"]
            )
        console.print(table)
    for name, finding in outcome.checks.items():
        table = Table("series", "verdict", "why", title=name)
        for series, (word, reason) in finding.verdicts.items():
            table.add_row(series, word, reason)
        console.print(table)
    if outcome.claims:
        table = Table("claim", "verdict", "why", title="Claims")
        for claim in outcome.claims:
            statement = ", ".join(f"{key} {value}" for key, value in claim["claim"].items() if key != "source")
            table.add_row(statement, claim["verdict"], str(claim["evidence"].get("reason", "")))
        console.print(table)
    console.print(f"report: {store.root / 'report.html'}", highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
