"""Coordinate check of a parametrization on a workload: do activations move alike at every width?

  python -m harness.transfer coordinates widths=32,64,128,256 parametrization=mup optimizer=adamw optimizer.learning_rate=0.01
  python -m harness.transfer coordinates workload=image_mlp widths=128,256,512,1024 parametrization=sp steps=4 seeds=8 out=DIR

Other arguments are those of harness.train; the schedule is constant unless given. Exit code 1: the check fails.
out=DIR writes coordinates.json, report.html and figures/*.png.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from harness.cli import wants_help
from harness.config import compose_config, trial_from
from harness.laws.procedures import Table
from harness.points import numbers
from harness.records.files import write_json
from harness.report.document import Section, write_document
from harness.report.terminal import print_section
from harness.session import configure
from harness.transfer.coordinate_check import FLAT, CoordinateCheck, coordinate_check

_OWN = {"widths": "32,64,128,256", "seeds": "8", "steps": "4", "out": ""}
_DEFAULTS = ("schedule=constant", "schedule.warmup=0 steps", "parametrization.base_width=8", "budget.steps=100")


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput as harness.train does on the same arguments."""
    if wants_help(argv):
        print((__doc__ or "").strip())
        return 0
    words = dict(word.partition("=")[::2] for word in argv)
    own = {key: words.get(key, value) for key, value in _OWN.items()}
    rest = [word for word in argv if word.partition("=")[0] not in _OWN]
    named = {word.partition("=")[0] for word in rest}
    defaults = [word for word in _DEFAULTS if word.partition("=")[0] not in named and not _replaced(word, named)]
    config = compose_config("train", [*defaults, *rest])
    configure(config)
    widths = [int(width) for width in numbers("widths", own["widths"])]
    seeds, steps = (int(numbers(key, own[key])[0]) for key in ("seeds", "steps"))
    found = coordinate_check(trial_from(config), widths, seeds, steps)
    section = _section(found)
    print_section(section)
    if own["out"]:
        _write(Path(own["out"]), argv, found, section)
    return int(found.verdict == "fail")


def _replaced(word: str, named: set[str]) -> bool:
    """Whether the default belongs to a part that the user chose another of (schedule.warmup with schedule=wsd)."""
    part, dot, _ = word.partition("=")[0].partition(".")
    return bool(dot) and part in ("schedule", "budget") and any(name.split(".")[0] == part for name in named)


def _section(found: CoordinateCheck) -> Section:
    rows = tuple(
        (name, slope.value, *slope.ci95, slope.verdict, *found.movement[name].mean(axis=1).tolist())
        for name, slope in found.slopes.items()
    )
    header = ("activation", "slope", "95% low", "95% high", "verdict", *(f"width {width}" for width in found.widths))
    text = (
        f"Slope of log RMS change against log width after {found.steps} steps; flat means within +-{FLAT:g}. "
        "A slope above says that this activation moves further the wider the model."
    )
    tables = (Table("Activations", header, rows),)
    return Section(f"Coordinate check: {found.verdict}", text=text, tables=tables, plots=(found.plot("coordinates"),))


def _write(folder: Path, argv: list[str], found: CoordinateCheck, section: Section) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = "python -m harness.transfer coordinates " + shlex.join(argv)
    write_json(folder / "coordinates.json", {**found.to_json(), "command": command})
    print(write_document(folder, "Coordinate check", found.verdict, [section], command), file=sys.stderr)
