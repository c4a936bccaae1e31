"""SLURM's commands as small scripts on PATH that say what a test tells them to and write down what they were asked."""

from __future__ import annotations

from pathlib import Path

# What was said of the jobs that are asked for.
_SQUEUE = """
ids=$(printf '%s\\n' "$@" | sed -n 's/^--jobs=//p')
awk -F'|' -v ids=",$ids," '!/[|]/ || index(ids, "," $1 ",")' "$0.said" 2>/dev/null || true
"""


class FakeSlurm:
    """The folder of the scripts. `said` of a command is its standard output; `calls` are the arguments of its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script("sbatch", 'echo "$(($(wc -l <"$0.calls") + 100))"')
        self.script("squeue", _SQUEUE)
        self.script("sacct", 'cat "$0.said" 2>/dev/null || true')
        self.script("scontrol", "")

    def script(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>"$0.calls"\nenv >"$0.env"\n{body}\n')
        path.chmod(0o755)

    def say(self, name: str, text: str) -> None:
        (self.folder / f"{name}.said").write_text(text)

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def environment(self, name: str) -> str:
        return (self.folder / f"{name}.env").read_text()
