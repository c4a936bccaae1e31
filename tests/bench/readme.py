"""README's tables of measures, from the committed benchmark: what was asked, what was reached, missed ones in bold.

python -m tests.bench.readme        rewrites README.md between its bench markers
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


def written(text: str, folder: Path = REFERENCE) -> str:
    """README's text with its tables made anew."""
    return _MARKED.sub(lambda m: f"{m[1]}{table(read_json(folder / m[2]))}\n{m[3]}", text)


if __name__ == "__main__":
    atomic_write_text(README, written(README.read_text()))
    sys.exit(0)
