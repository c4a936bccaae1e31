"""Measure the engine against what users would write by hand, and print a table.

    python -m tests.bench out=results/bench                 # about 10 minutes on 2 CPU cores, when nothing else runs
    python -m tests.bench only=steps,small rounds=1 seconds=0.1    # a quick look

sections: steps, sweep, small, overhead, tracker, scale, families, fit, published (on CPU), gpu (on a GPU). Exit code 1: a
target is missed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from harness import cli
from harness.engine import devices
from harness.registry import nearest
from tests.bench import families, fits, gpu, overhead, published, report, scale, small, steps, sweep, tracker
from tests.bench.measure import Section
from tests.bench.setup import Setup
from workloads.base import BadInput

_COLUMNS = 120  # of a table that goes to a file
_QUIET = 0.5  # load above which timings are not to be trusted

SECTIONS: dict[str, Callable[[Setup], Section]] = {
    "steps": steps.measure,
    "sweep": sweep.measure,
    "small": small.measure,
    "overhead": overhead.measure,
    "tracker": tracker.measure,
    "scale": scale.measure,
    "families": families.measure,
    "fit": fits.measure,
    "published": published.measure,
    "gpu": gpu.measure,
}


@dataclass
class Options:
    """out: folder for bench.json. only: sections, with commas. rounds: repeats of every comparison. sweep_rounds: the
    same for the sweep, which takes minutes a round. seconds: of one timing. full: run all separate processes.
    """

    out: str | None = None
    only: str | None = None
    rounds: int = 5
    sweep_rounds: int = 2
    seconds: float = 1.0
    full: bool = False


def chosen(only: str | None, platform: str) -> list[str]:
    """Names of the sections to run. Raises BadInput for unknown ones and those of another platform."""
    names = only.split(",") if only else [name for name in SECTIONS if (name == "gpu") == (platform == "gpu")]
    for name in names:
        if name not in SECTIONS:
            raise BadInput(f"unknown section '{name}'. {nearest(name, SECTIONS)}")
        if (name == "gpu") != (platform == "gpu"):
            fix = "leave it out" if name == "gpu" else "set JAX_PLATFORMS=cpu to measure it"
            raise BadInput(f"section '{name}' does not apply to the platform '{platform}'; {fix}")
    return names


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    if cli.wants_help(argv):
        print(cli.help_text(__doc__, Options))
        return 0
    options = cli.parse(argv, Options)
    if options.rounds < 1 or options.sweep_rounds < 1 or not options.seconds > 0:
        raise BadInput("rounds and sweep_rounds must be at least 1, and seconds must be positive")
    environment = dict(os.environ)
    devices.configure()
    local = devices.local_devices()
    names = chosen(options.only, local.platform)
    console = Console() if sys.stdout.isatty() else Console(width=_COLUMNS)
    facts = report.machine(local)
    console.print(
        f"{facts['device']} x {facts['devices']}, {facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f}",
        highlight=False,
    )
    if facts["load"] > _QUIET:
        console.print("other programs are running: the numbers, also the ratios, are not to be trusted", style="yellow")
    with tempfile.TemporaryDirectory(prefix="windtunnel-bench-") as folder:
        sections = []
        for name in names:
            rounds = options.sweep_rounds if name == "sweep" else options.rounds
            setup = Setup(local, environment, Path(folder), rounds, options.seconds, options.full)
            started = time.perf_counter()
            section = SECTIONS[name](setup)
            section.seconds = time.perf_counter() - started
            report.show(console, section)
            sections.append(section)
            if options.out:
                asked = {key: value for key, value in asdict(options).items() if key != "out"}
                report.write(Path(options.out), sections, facts, asked)
    missed = [measure for section in sections for measure in section.measures if measure.met is False]
    for measure in missed:
        console.print(f"missed: {measure.name}: {measure.median:.4g} {measure.unit}", highlight=False)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(cli.run(main))
