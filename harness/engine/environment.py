"""What a result depends on besides its configuration: code, packages, device, flags. Recorded with every trial."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from harness import __version__
from harness.engine.devices import Devices

VERSION_FILE = "code_version.txt"  # in a copy of the package that was made to be run elsewhere
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


@functools.cache
def code_version() -> str:
    """The package version with the git commit, and "-dirty" if tracked files were changed."""
    here = Path(__file__).resolve().parent
    copied = here.parent / VERSION_FILE
    if copied.is_file():
        return copied.read_text()
    commands = (["git", "rev-parse", "--short=12", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{commit}{'-dirty' if changes else ''}"


@functools.cache
def package_versions() -> str:
    """JSON: package -> version."""
    return json.dumps({name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()})


def facts(devices: Devices) -> dict[str, str | int]:
    """Columns of a trial's row."""
    return {
        "device": devices.kind,
        "devices": devices.count,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "code_version": code_version(),
        "packages": package_versions(),
    }
