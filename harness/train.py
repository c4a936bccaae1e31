r"""Train one trial, or with -m a sweep of them.

    python -m harness.train workload=language_model workload.width=64 optimizer=adamw \
        optimizer.learning_rate=3e-3 budget.tokens=1e6
    python -m harness.train -m workload.width=32,64 optimizer.learning_rate=1e-3,3e-3,1e-2 'seed=range(4)'
    python -m harness.train optimizer=my_optimizer.py:make optimizer.b1=0.95

A sweep's jobs are grouped into packs and trained in this process, each with its own row, curve and resolved configuration
under results/<study_name>. A trial that is already recorded is not trained again. --cfg prints the composed configuration.
With hydra/launcher=slurm cluster=NAME the trials become a SLURM job array, see SLURM/README.md; dry_run=true shows it.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from harness import cli, session
from harness.config import COMPONENTS, CONFIG_DIR, compose_config, explain, options, readable, trial_from
from harness.engine.runner import Summary
from harness.records.files import atomic_write_text, own_folder
from harness.records.store import Store
from harness.trial import Trial

_SHOWN = (
    "trial",
    "status",
    "workload.width",
    "optimizer.learning_rate",
    "parametrization",
    "seed",
    "final_loss",
)


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    if cli.wants_help(argv):
        print(_help([word for word in argv if "=" in word]))
        return 0
    multirun = [word for word in argv if word in ("-m", "--multirun")]
    overrides = [word for word in argv if word not in ("-m", "--multirun", "--cfg")]
    if multirun:
        return _sweep(readable(overrides))
    config = compose_config("train", overrides)
    if "--cfg" in argv:
        print(OmegaConf.to_yaml(config, resolve=True))
        return 0
    session.configure(config)
    trial = trial_from(config)
    store = session.store_of(config, config.study_name)
    if not config.dry_run:
        record_config(store, trial, config)
    if config.launcher == "slurm":
        from harness.launchers.slurm import launcher  # the launchers import this module

        return launcher.train([trial], config, store)
    from harness.launchers import packed

    packed.train([trial], config, store)
    return 0


def _sweep(overrides: Sequence[str]) -> int:
    """Hand the sweep to Hydra's sweeper and to the launcher that hydra/launcher names."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back as exceptions, and are explained below
    run = hydra.main(config_path=str(CONFIG_DIR), config_name="train", version_base="1.3")(_unused)
    sys.argv = [sys.argv[0], "-m", *overrides]
    try:
        run()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain("train", overrides, error) from None
    return 0


def _unused(config: DictConfig) -> None:
    raise AssertionError("the launchers train jobs themselves")


def record_config(store: Store, trial: Trial, config: DictConfig) -> None:
    """Write the job's resolved configuration beside its row."""
    folder = own_folder(store.root / "configs")
    atomic_write_text(folder / f"{trial.id}.yaml", OmegaConf.to_yaml(config, resolve=True))


def report(store: Store, trials: Sequence[Trial], summary: Summary) -> None:
    """Print the trials' rows as a table, and what the run did."""
    metrics = {trial.id: trial.workload.metric.name for trial in trials}
    wanted = set(metrics)
    errors = {name: f"test.{name}_stderr" for name in dict.fromkeys(metrics.values())}
    columns = [*_SHOWN, "test_metric", *errors.values()]
    found = store.read(lambda view: view.read([name for name in columns if name in view.names]))
    rows = [row for row in found.to_pylist() if row["trial"] in wanted]
    table = Table(*(name.rpartition(".")[2] for name in _SHOWN), "test " + ", ".join(errors))
    for row in rows:
        shown = [f"{v:.5g}" if isinstance(v, float) else str(v) for v in (row[name] for name in _SHOWN)]
        table.add_row(*shown, _with_error(row["test_metric"], row.get(errors[metrics[row["trial"]]])))
    console = Console()
    console.print(table)
    known = len(wanted) - summary.trained
    console.print(
        f"{summary.trained} trained ({summary.diverged} diverged), {known} already recorded; {summary.compiled} programs "
        f"compiled; records in {store.root}",
        highlight=False,
    )


def _with_error(metric: float | None, error: float | None) -> str:
    """A metric, and its standard error over the examples of the test split where the workload says it."""
    shown = "None" if metric is None else f"{metric:.5g}"
    return shown if error is None else f"{shown} ± {error:.2g}"


def _help(overrides: Sequence[str]) -> str:
    """What can be chosen, and what the chosen components' own keys mean."""
    config = compose_config("train", overrides)
    groups = "\n".join(f"  {group}={' | '.join(options(group))}" for group in COMPONENTS)
    chosen = [(group, COMPONENTS[group][config[group].name]) for group in ("workload", "schedule", "parametrization")]
    about = "\n\n".join(f"{group}={cls.name}: {inspect.cleandoc(cls.__doc__ or '')}" for group, cls in chosen)
    return (
        f"{(__doc__ or '').strip()}\n\ngroups:\n{groups}\n\n{about}\n\nwith these choices (override any key; train "
        f"workload=ctr --help explains ctr):\n{OmegaConf.to_yaml(config)}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
