"""Write a study's HTML report again from its records.

    python -m harness.report study=quickstart
    python -m harness.report study=quickstart results=/shared/results

The page is results/<study>/report.html: one file that opens without a network; its pictures are also written to
results/<study>/figures/*.png. Nothing is trained and no analysis is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import cli
from harness.records.store import studies
from harness.registry import nearest
from harness.report.page import write_report
from workloads.base import BadInput

__all__ = ["main", "write_report"]


@dataclass
class Arguments:
    """study: its name, a folder of `results`."""

    study: str = "quickstart"
    results: str = "results"


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput if there is no such study."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, Arguments))
        return 0
    arguments = cli.parse(argv, Arguments)
    results = Path(arguments.results)
    if not (results / arguments.study).is_dir():
        raise BadInput(
            f"there is no study '{arguments.study}' in {results}. {nearest(arguments.study, studies(results))}"
        )
    print(write_report(results / arguments.study))
    return 0
