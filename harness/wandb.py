"""Mirror recorded trials to Weights & Biases, and build a dashboard of a study there.

  python -m harness.wandb sync study=quickstart                     upload what W&B lacks, at runs_per_minute
  python -m harness.wandb sync study=quickstart mode=offline        write offline folders to results/quickstart/wandb instead,
                                                                    for `wandb sync` on a machine that has a network
  python -m harness.wandb dashboard study=quickstart entity=TEAM    a W&B report (needs: pip install "windtunnel[dashboard]")

sync reads the records only, so training never waits for it. Start it as often as you like, during a study too: it goes on
where it stopped, uploads a trial again only if its row changed (force=true: always), and waits ever longer, at most
longest_backoff_s, after errors and 429s; after `attempts` failures in a row it stops with exit code 1. A run's id is
its trial's, and a run that W&B has is continued after its last step; the results (fit.json, report.html, ...) follow as an
artifact. Upload an offline folder once: `wandb sync` does not know what W&B has.
Log in with `wandb login` or the environment's WANDB_API_KEY; WANDB_BASE_URL names another server.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli import help_text, parse, run, wants_help
from harness.records.store import Store, studies
from harness.records.text import printable
from harness.registry import nearest
from harness.tracking.artifacts import digest_of, results_id, write_results
from harness.tracking.journal import Journal
from harness.tracking.sync import Offline, Online, Outcome, Pace, Sync
from harness.tracking.wandb_runs import Destination, reason_of
from workloads.base import BadInput

# How patient W&B's own client is within one attempt, in whole seconds; `Pace` is patient beyond it.
_CLIENT = {
    "init_timeout": 60.0,
    "x_graphql_retry_max": 3,
    "x_graphql_retry_wait_min_seconds": 1,
    "x_graphql_retry_wait_max_seconds": 15,
    "x_file_stream_retry_max": 3,
    "x_file_stream_retry_wait_min_seconds": 1,
    "x_file_stream_retry_wait_max_seconds": 15,
    "x_file_transfer_retry_max": 3,
    "x_file_transfer_retry_wait_min_seconds": 1,
    "x_file_transfer_retry_wait_max_seconds": 15,
}
_MODES = ("online", "offline")


@dataclass
class WandbConfig:
    """tags: more tags, with commas. client_retries: of W&B's own client within one attempt. timeout_s: of a question
    to the server. artifacts: the results, too."""

    study: str | None = None
    results: str = "results"
    project: str = "windtunnel"
    entity: str | None = None
    mode: str = "online"
    tags: str = ""
    runs_per_minute: float = 60.0
    longest_backoff_s: float = 300.0
    attempts: int = 8
    client_retries: int = 3
    timeout_s: float = 30.0
    force: bool = False
    artifacts: bool = True


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    if not argv or wants_help(argv):
        print(help_text(__doc__, WandbConfig))
        return 0
    if argv[0] not in _ACTIONS:
        raise BadInput(f"unknown action '{argv[0]}'. {nearest(argv[0], _ACTIONS)}")
    config = parse(argv[1:], WandbConfig)
    _check(config)
    return int(_ACTIONS[argv[0]](config))


def _check(config: WandbConfig) -> None:
    names = studies(Path(config.results))
    if config.study not in names:
        raise BadInput(
            f"no study '{printable(config.study or '')}' under results={config.results}. "
            f"{nearest(config.study or '', map(printable, names))}"
        )
    folder = Path(config.results) / str(config.study) / "wandb"
    if link := next((path for path in (folder, Journal(folder).path) if path.is_symlink()), None):
        raise BadInput(f"{link} is a symbolic link; link the whole results folder instead")
    if config.mode not in _MODES:
        raise BadInput(f"unknown mode={config.mode}. {nearest(config.mode, _MODES)}")
    for name in ("runs_per_minute", "longest_backoff_s", "attempts", "client_retries", "timeout_s"):
        if not getattr(config, name) > 0:
            raise BadInput(f"{name}={getattr(config, name)} must be positive")


def _sync(config: WandbConfig) -> int:
    root = Path(config.results) / str(config.study)
    os.environ["WANDB_SILENT"] = "true"
    if config.mode == "offline":  # so that the folders hold everything that `wandb sync` needs
        os.environ.setdefault("WANDB_DATA_DIR", str((root / "wandb" / "data").resolve()))
    import wandb

    to = _destination(config, root)
    target: Online | Offline = Offline(wandb, to) if config.mode == "offline" else Online(wandb, to, config.timeout_s)
    rate = math.inf if config.mode == "offline" else config.runs_per_minute
    pace = Pace(rate, longest=config.longest_backoff_s, attempts=config.attempts)
    found = Sync(root, target, to.name, pace, say=lambda text: print(text, file=sys.stderr)).run(config.force)
    print(_told(found, config))
    if found.left:
        return 1
    return _sync_results(wandb, config, to, root, target) if config.artifacts else 0


def _destination(config: WandbConfig, root: Path) -> Destination:
    retries = {name: config.client_retries for name in _CLIENT if name.endswith("_retry_max")}
    return Destination(
        project=config.project,
        entity=config.entity,
        mode=config.mode,
        group=str(config.study),
        folder=str(root.resolve()),
        tags=tuple(word for word in config.tags.split(",") if word),
        settings=_CLIENT | retries if config.mode == "online" else {},
    )


def _told(found: Outcome, config: WandbConfig) -> str:
    done = f"{found.uploaded} trials mirrored to W&B ({config.mode}), {found.known} were"
    if not found.left:
        return f"{done} already"
    return (
        f"{done} already, {len(found.left)} are not ({found.reason}). Nothing is lost: the same command sends the rest"
    )


def _sync_results(wandb: Any, config: WandbConfig, to: Destination, root: Path, target: Online | Offline) -> int:
    """The study's results, if they changed; returns the exit code."""
    digest, journal, name = digest_of(root), Journal(root / "wandb"), results_id(to.group)
    if not digest or (journal.known(to.name).get(name) == digest and not config.force):
        return 0
    versions = [row["code_version"] for row in Store(root).trials(("code_version",)).to_pylist()]
    try:
        write_results(wandb, to, root, digest, next((v for v in versions if v), ""))
        arrived = config.mode == "offline" or target.versions([name]).get(name) == digest
        reason = "the server does not show it"
    except BadInput:
        raise
    except Exception as error:  # W&B raises many kinds
        arrived, reason = False, reason_of(error)
    if not arrived:
        print(f"the results are not mirrored ({reason}); the same command tries again")
        return 1
    journal.add(to.name, {name: digest})
    print(f"results mirrored: run {name}")
    return 0


def _dashboard(config: WandbConfig) -> int:
    from harness.tracking.dashboard import save

    root = Path(config.results) / str(config.study)
    print(save(config.project, config.entity, str(config.study), root))
    return 0


_ACTIONS = {"sync": _sync, "dashboard": _dashboard}


if __name__ == "__main__":
    sys.exit(run(main))
