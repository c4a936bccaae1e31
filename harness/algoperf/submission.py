"""Reading a file that is written for AlgoPerf's API: which functions it has, and whether it is one at all."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.algoperf.apart import PACKAGES, PARTS, SUBMISSION, Apart
from harness.optimizers.own_files import own_files, sha256_of
from workloads.base import BadInput

REQUIRED = ("init_optimizer_state", "update_params", "get_batch_size", "data_selection")
_CALLED = (*REQUIRED, "prepare_for_eval")
_TELLING = frozenset({"init_optimizer_state", "update_params"})  # no other kind of file has these
_OVERRIDE = "REPLICATED"
_HIDDEN = {  # ways to what functions, generators and JAX hold, and to what a submission's time is taken by
    "__closure__", "cell_contents", "__globals__", "gi_frame", "f_locals", "f_globals", "live_arrays", "gc.get_objects",
    "gc.get_referrers", "gc.get_referents", "jax.monitoring", "jax._src.monitoring",
}  # fmt: skip
_NOT_TOLD = {  # keys that AlgoPerf's dicts have and ours have not
    "per_example": "our workloads tell no losses of single examples; use summed / n_valid_examples",
    "validation_goal_reached": "submissions are not told whether targets are reached",
    "test_goal_reached": "submissions are not told whether targets are reached",
}


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

    files: that file, and those it imports from its folder. sha256: of them all. replicated: its parameters and optimizer state
    have a leading axis of devices, as its REPLICATED says, or because it uses jax.pmap.
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
        """The file's, or its folder's where it is called submission.py, as AlgoPerf's all are."""
        return self.path.parent.name if self.path.stem == "submission" else self.path.stem

    @property
    def replication(self) -> str:
        """What to do if `replicated` was taken wrongly."""
        run = f"run {'with' if self.replicated else 'without'} a leading axis of devices"
        return f" ({run}; if that is wrong, write {_OVERRIDE} = {not self.replicated} in it)"

    def functions(self, apart: Apart) -> Functions:
        """From an import of their own: nothing that another run left in the module is seen. Raises BadInput."""
        with self.blamed("the file"):
            module = apart.run_files(self.files, compile(self.source, str(self.path), "exec", dont_inherit=True))
        missing = [name for name in REQUIRED if not callable(getattr(module, name, None))]
        if missing:
            raise BadInput(
                f"{self.path.name} has no function {' and no '.join(missing)}; an AlgoPerf submission has "
                f"{', '.join(REQUIRED)} and, if it likes, prepare_for_eval"
            )
        found = {name: getattr(module, name) for name in REQUIRED}
        return Functions(**found, prepare_for_eval=getattr(module, "prepare_for_eval", None))

    @contextmanager
    def blamed(self, what: str, may_end: bool = False, hint: str = "") -> Iterator[None]:
        """What the submission raises, as BadInput with its words. may_end: early completion passes. hint: ends the message."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, BadInput) or (may_end and ends_training(error)):
                raise
            words = f"{self.path.name}: {what} raised {type(error).__name__}: {error}{_remedy(error)}{hint}"
            raise BadInput(words) from error


def _remedy(error: BaseException) -> str:
    """What else there is to say about an error, if anything."""
    name = str(getattr(error, "name", ""))
    package = name.partition(".")[0]
    if isinstance(error, KeyError):
        told = _NOT_TOLD.get(str(error.args[0]) if error.args else "")
        return f"; {told}" if told else ""
    if isinstance(error, ImportError) and name.startswith(("torch", *(f"{one}.pytorch" for one in PACKAGES))):
        return "; submissions in PyTorch cannot run here, only JAX ones"
    if isinstance(error, ImportError) and package in PACKAGES:
        return f"; of {package} there are {', '.join(PARTS)} here"
    if isinstance(error, ModuleNotFoundError) and package == SUBMISSION:
        return f"; nothing beside it is called {name.partition('.')[2]}"
    if isinstance(error, ModuleNotFoundError):
        return f"; install {package}, or do without"
    return ""


def ends_training(error: BaseException) -> bool:
    """Whether this is AlgoPerf's TrainingCompleteError: ours, or that of an installed package."""
    return type(error).__name__ == "TrainingCompleteError"


def load(path: str | Path) -> AlgoPerfSubmission:
    """Read a submission, and import it once to see that it can be. Raises BadInput naming what it lacks."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise BadInput(f"there is no file {path}; give the Python file of an AlgoPerf submission")
    source, _ = _parsed(file, file.read_bytes())
    files = own_files(file)
    trees = [_parsed(one, one.read_bytes())[1] for one in files]
    for one, tree in zip(files, trees, strict=True):
        _refuse_prying(one, tree)
    submission = AlgoPerfSubmission(tuple(files), source, sha256_of(files), _replicated(trees))
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
            yield from _targets(node)


def _refuse_prying(file: Path, tree: ast.Module) -> None:
    """Raise BadInput on the attributes by which a submission would get at the data that it is judged on, or at its time.

    This catches what a reader would; who hides it (getattr) must be caught by reading.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                names = {name, ast.unparse(node)}
            case ast.Import(names=aliases):
                names = {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases):
                names = {str(module), *(f"{module}.{alias.name}" for alias in aliases)}
            case _:
                continue
        for name in names & _HIDDEN:
            raise BadInput(
                f"{file.name}, line {node.lineno}: {name} leads to what submissions may not see; use what their arguments offer"
            )


def _replicated(trees: Sequence[ast.Module]) -> bool:
    """What the first file's REPLICATED says; else whether what is called, or anything that it mentions, mentions pmap."""
    for node in trees[0].body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and _OVERRIDE in _targets(node):
            return bool(node.value.value)
    mentioned: defaultdict[str, set[str]] = defaultdict(set)  # by what a name stands for, in any of the files
    left = list(_CALLED)
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            mentioned[node.name] |= _mentions(node)
        elif isinstance(node, ast.Assign) and _targets(node):
            for name in _targets(node):
                mentioned[name] |= _mentions(node.value)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                mentioned[alias.asname or alias.name].add(alias.name)
        else:
            left += _mentions(node)
    used: set[str] = set()
    while left:
        name = left.pop()
        if name not in used:
            used.add(name)
            left += mentioned.get(name, ())
    return "pmap" in used


def _targets(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def _mentions(tree: ast.AST) -> set[str]:
    names = {getattr(node, "attr", None) or getattr(node, "id", None) for node in ast.walk(tree)}
    aliases = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return {name for name in names if name} | aliases
