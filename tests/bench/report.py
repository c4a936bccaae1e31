"""The benchmark's table and JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.engine.devices import Devices
from harness.engine.environment import code_version
from harness.records.files import write_json
from tests.bench.measure import Section

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def show(console: Console, section: Section) -> None:
    """One section's measures and notes."""
    table = Table("measure", "median", "worst", "unit", "target", "", title=f"{section.name}: {section.title}")
    for measure in section.measures:
        target = "" if measure.target is None else f"{measure.target.sense} {measure.target.bound:g}"
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[measure.met]
        table.add_row(measure.name, f"{measure.median:.4g}", f"{measure.worst:.4g}", measure.unit, target, verdict)
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", highlight=False)
    console.print(f"  {len(section.measures)} measures in {section.seconds:.0f} s\n", highlight=False)


def write(folder: Path, sections: Sequence[Section], facts: dict[str, Any], options: dict[str, Any]) -> Path:
    """bench.json: when, on what (`machine`'s facts), with which versions, and every repeat of every measure."""
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": facts,
        "versions": versions(),
        "options": options,
        "met": all(section.met for section in sections),
        "sections": [section.to_json() for section in sections],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    write_json(path, content)
    return path


def machine(devices: Devices) -> dict[str, Any]:
    """load: the machine's load average over the minute before."""
    return {
        "device": devices.kind,
        "devices": devices.count,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version(), "code": code_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
