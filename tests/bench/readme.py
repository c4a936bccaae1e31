"""README's tables: of measures, from the committed benchmark, and of claims, from the committed studies.

python -m tests.bench.readme        rewrites README.md between its bench and claims markers
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from harness.records.files import atomic_write_text, read_json
from tests.bench.setup import ROOT

README = ROOT / "README.md"
REFERENCE = ROOT / "results" / "reference"
FILES = ("bench.json", "bench_small.json", "bench_fit.json")
_CLAIMS = re.compile(r"(<!-- claims -->\n).*?(<!-- /claims -->)", re.S)
_MARKED = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- /bench -->)", re.S)


def table(content: dict[str, Any]) -> str:
    """A Markdown table of every measure that has a target, with machine and date above it."""
    machine = content["machine"]
    lines = [
        f"Medians of {content['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f} before, "
        f"code {content['versions']['code']}:",
        "",
        "| measure | reached | asked |",
        "|---|---|---|",
    ]
    for section in content["sections"]:
        for measure in section["measures"]:
            if measure["target"] is None:
                continue
            sense, bound = measure["target"]["sense"], measure["target"]["bound"]
            reached = f"{measure['median']:.3g} {measure['unit']}"
            shown = reached if measure["met"] else f"**{reached}**"
            lines.append(f"| {section['name']}: {measure['name']} | {shown} | {sense} {bound:g} |")
    return "\n".join(lines)


def claims(folder: Path) -> str:
    """A Markdown table of every claim of every committed study of checks or transfer."""
    lines = ["| study | claim | verdict | evidence |", "|---|---|---|---|"]
    for path in sorted(folder.glob("*/claims.json")):
        for claim in read_json(path):
            kind, series = next((key, value) for key, value in claim["claim"].items() if isinstance(value, dict))
            name = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in series.items())
            said = f"{kind} of {name or 'all'}: {claim['claim']['expect']}"
            cells = (f"`{path.parent.name}`", said, claim["verdict"], str(claim["evidence"]["reason"]).rstrip("."))
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def written(text: str, folder: Path = REFERENCE) -> str:
    """README's text with its tables made anew."""
    text = _CLAIMS.sub(lambda m: f"{m[1]}{claims(folder)}\n{m[2]}", text)
    return _MARKED.sub(lambda m: f"{m[1]}{table(read_json(folder / m[2]))}\n{m[3]}", text)


if __name__ == "__main__":
    atomic_write_text(README, written(README.read_text()))
    sys.exit(0)
