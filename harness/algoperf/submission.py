"""Reading a file that is written for AlgoPerf's API: which functions it has, and whether it is one at all."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.algoperf.apart import Apart
from harness.optimizers.own_files import own_files, sha256_of
from workloads.base import BadInput

REQUIRED = ("init_optimizer_state", "update_params", "get_batch_size", "data_selection")
_TELLING = frozenset({"init_optimizer_state", "update_params"})  # no other kind of file has these


@dataclass(frozen=True)
class Functions:
    """A submission's functions, from one import of its file. prepare_for_eval: None where it has none (version 0.5)."""

    init_optimizer_state: Callable[..., Any]
    update_params: Callable[..., Any]
    get_batch_size: Callable[..., Any]
    data_selection: Callable[..., Any]
    prepare_for_eval: Callable[..., Any] | None


@dataclass(frozen=True)
class AlgoPerfSubmission:
    """A file as it was when it was loaded.

    files: that file, and those it imports from its folder. sha256: of them all. replicated: it uses jax.pmap, so its parameters
    and optimizer state have a leading axis of devices.
    """

    files: tuple[Path, ...]
    source: str
    sha256: str
    replicated: bool

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def name(self) -> str:
        return self.path.stem

    def functions(self, apart: Apart) -> Functions:
        """From an import of their own: nothing that another run left in the module is seen. Raises BadInput."""
        with self.blamed("the file"):
            module = apart.run_files(self.files, compile(self.source, str(self.path), "exec"))
        missing = [name for name in REQUIRED if not callable(getattr(module, name, None))]
        if missing:
            raise BadInput(
                f"{self.path.name} has no function {' and no '.join(missing)}; an AlgoPerf submission has "
                f"{', '.join(REQUIRED)} and, if it likes, prepare_for_eval"
            )
        found = {name: getattr(module, name) for name in REQUIRED}
        return Functions(**found, prepare_for_eval=getattr(module, "prepare_for_eval", None))

    @contextmanager
    def blamed(self, what: str, may_end: bool = False) -> Iterator[None]:
        """What the submission raises, as BadInput with its words. may_end: early completion passes."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, BadInput) or (may_end and ends_training(error)):
                raise
            hint = ""
            if isinstance(error, ModuleNotFoundError) and str(error.name).startswith(("torch", "algoperf.pytorch")):
                hint = "; submissions in PyTorch cannot run here, only JAX ones"
            elif isinstance(error, ModuleNotFoundError):
                hint = f"; install {str(error.name).partition('.')[0]}, or do without"
            raise BadInput(f"{self.path.name}: {what} raised {type(error).__name__}: {error}{hint}") from error


def ends_training(error: BaseException) -> bool:
    """Whether this is AlgoPerf's TrainingCompleteError: ours, or that of an installed package."""
    return type(error).__name__ == "TrainingCompleteError"


def load(path: str | Path) -> AlgoPerfSubmission:
    """Read a submission, and import it once to see that it can be. Raises BadInput naming what it lacks."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise BadInput(f"there is no file {path}; give the Python file of an AlgoPerf submission")
    content = file.read_bytes()
    source, tree = _parsed(file, content)
    files = own_files(file)
    submission = AlgoPerfSubmission(tuple(files), source, sha256_of(files), _uses_pmap(tree))
    submission.functions(Apart(0))
    return submission


def is_algoperf_style(path: str | Path) -> bool:
    """Whether a Python file has init_optimizer_state or update_params, its own or imported. Does not run it."""
    file = Path(path).expanduser()
    if not file.is_file():
        return False
    try:
        _, tree = _parsed(file, file.read_bytes())
    except BadInput:
        return False
    return bool(_TELLING & set(_bound(tree)))


def _parsed(file: Path, content: bytes) -> tuple[str, ast.Module]:
    try:
        source = content.decode()
        return source, ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"{file.name} is no Python file: {type(error).__name__}: {error}") from None


def _bound(tree: ast.Module) -> Iterator[str]:
    """Names that the module's own statements bind."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _uses_pmap(tree: ast.Module) -> bool:
    names = (getattr(node, "attr", None) or getattr(node, "id", None) for node in ast.walk(tree))
    return "pmap" in names
