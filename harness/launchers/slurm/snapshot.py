"""The code that a study was submitted with, beside its results: what is queued does not see later edits."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import harness
import workloads
from harness.config import CONFIG_DIR
from harness.engine.environment import VERSION_FILE, code_version

_KINDS = {".py", ".yaml", ".yml", ".html", ".css", ".js", ".json", ".txt"}
_PACKAGE = Path(harness.__file__).resolve().parent


def take(folder: Path) -> Path:
    """Copy the running code and its configuration to folder/code-<hash>; returns that path. The same code is copied once."""
    files = dict(sorted(_files()))
    digest = hashlib.sha256(code_version().encode())
    for name, source in files.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    target = folder / f"code-{digest.hexdigest()[:12]}"
    if not target.exists():
        partial = folder / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}"
        for name, source in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial / name)
        (partial / "harness" / VERSION_FILE).write_text(code_version())
        _publish(partial, target)
    return target


def _publish(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:  # another submission was first
        shutil.rmtree(partial)
        if not target.exists():
            raise


def _files() -> Iterator[tuple[str, Path]]:
    """(path in the snapshot, file) of the packages and of conf/, wherever they are installed; nothing hidden."""
    plugins = _PACKAGE.parent / "hydra_plugins"
    for root in (_PACKAGE, Path(workloads.__file__).resolve().parent, plugins, CONFIG_DIR):
        for folder, names, files in os.walk(root):
            names[:] = [name for name in names if not name.startswith((".", "__")) and Path(folder, name) != CONFIG_DIR]
            for name in files:
                path = Path(folder, name)
                if path.suffix in _KINDS and not name.startswith(".") and name != VERSION_FILE:
                    yield f"{root.name}/{path.relative_to(root)}", path
