"""The Python files that a user's file is made of: itself, and what it imports from its own folder."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from workloads.base import BadInput

_OURS = ("harness", "workloads")


def own_files(path: Path) -> list[Path]:
    """The file first, then those that it imports of its folder, directly or through others, sorted. Runs none of them.

    Raises BadInput where one is no Python, or imports the workloads, through which it would see what it is judged on. This
    catches what a reader would; who hides an import must be caught by reading.
    """
    first = path.resolve()
    root = first.parent
    found: set[Path] = set()
    left = [first]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            left += _imported(file, root)
    return [first, *sorted(found - {first})]


def sha256_of(files: Sequence[Path]) -> str:
    """Of the contents, in this order; of one file it is that file's own."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@contextmanager
def importing_from(files: Sequence[Path]) -> Iterator[dict[str, ModuleType]]:
    """Imports find the first file's folder first. Gives a dict, filled at the end with the modules made of the files.

    These are in nobody else's way afterwards: they leave sys.modules.
    """
    folder = str(files[0].parent)
    made: dict[str, ModuleType] = {}
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield made
    finally:
        sys.path.remove(folder)
        own = [name for name in set(sys.modules) - before if _is_own(sys.modules[name], files)]
        made.update({name: sys.modules.pop(name) for name in own})


def _is_own(module: ModuleType, files: Sequence[Path]) -> bool:
    named = getattr(module, "__file__", None)
    if named:
        return Path(named) in files
    folders = {Path(folder).resolve() for folder in getattr(module, "__path__", ())}  # a package without __init__.py
    return any(folders & set(file.parents) for file in files)


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Files under `root` that one file imports, those of the packages on the way included."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"{file.name} cannot be imported: {type(error).__name__}: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = _package(file, node.level, root)
            module = ".".join(filter(None, [*package, node.module]))
            names = [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] not in _OURS:
                yield from _files(root, name.split("."))
            elif not f"{name}.".startswith("harness.optimizers."):
                raise BadInput(
                    f"{file.name} imports {name}: a submission may not see the data that it is judged on; of this package it "
                    "may import harness.optimizers only"
                )


def _package(file: Path, level: int, root: Path) -> tuple[str, ...]:
    """The package that a relative import starts from: none of level 0."""
    parts = file.parent.relative_to(root).parts
    return parts[: len(parts) - level + 1] if level else ()


def _files(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    folder = root
    for part in parts:
        if (folder / f"{part}.py").is_file():
            yield folder / f"{part}.py"
            return
        folder /= part
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
