"""windtunnel: small proxy models, thousands of trials at a time.

commands:
  train     train one trial, or with -m a sweep of them
  study     plan, train, analyse and report a named study: study=quickstart
  fit       fit laws to any table of runs, with error bars
  transfer  whether the best learning rate moves with scale, from any table of runs
  judge     is my optimizer faster than equally tuned baselines, and does the gain survive scale?
  targets   set a workload's targets as AlgoPerf does
  compete   train submissions under AlgoPerf's rules, and score them
  score     score submissions as AlgoPerf does, from a table of trials or its logs
  runs      list, filter and export what is recorded
  report    write a study's HTML report again from its records
  wandb     mirror recorded trials to W&B (sync), or build a dashboard there

`windtunnel COMMAND --help` explains a command; `python -m harness.COMMAND` is the same.
"""

from __future__ import annotations

import importlib
import sys

from harness import cli
from harness.registry import nearest
from workloads.base import BadInput

COMMANDS = ("train", "study", "fit", "transfer", "judge", "targets", "compete", "score", "runs", "report", "wandb")


def main(argv: list[str]) -> int:
    """Dispatch to a command; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS:
        raise BadInput(f"unknown command '{name}'. {nearest(name, COMMANDS)}")
    code: int = importlib.import_module(f"harness.{name}").main(arguments)
    return code


def entry() -> None:
    sys.exit(cli.run(main))


if __name__ == "__main__":
    entry()
