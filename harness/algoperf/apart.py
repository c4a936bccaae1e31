"""A submission's own process-wide state: what it changes there holds while it runs, and for nobody else."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

import jax
import numpy as np

from harness.algoperf import random_utils, sharding, spec
from harness.optimizers.own_files import importing_from

PACKAGES = ("algoperf", "algorithmic_efficiency")  # AlgoPerf's name from version 0.6 on, and before
PARTS = {"spec": spec, "jax_sharding_utils": sharding, "random_utils": random_utils}
SUBMISSION = "windtunnel_submission"  # the package that a submission's file is in, whose other modules stand beside it
_CHEX = ("Array", "ArrayTree", "Dimensions", "Numeric", "PRNGKey", "Scalar", "Shape")  # annotations


class Apart:
    """Within `with apart:`, jax.config, the global generators of `random` and numpy, and the modules below are a submission's.

    They begin as ours and as the seed's, and go on where the last `with` left them; ours come back at its end, whatever was
    raised. Modules: stand-ins for AlgoPerf's packages (and for chex, whose annotations submissions use) that are not installed,
    the submission's file and those it imported from its folder.
    """

    def __init__(self, seed: int) -> None:
        self.modules = stand_ins()
        self._config: dict[str, Any] = {}
        self._generators: tuple[Any, Any] = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()
        self._ours: tuple[dict[str, ModuleType | None], dict[str, Any], tuple[Any, Any]]

    def __enter__(self) -> None:
        self._ours = (
            {name: sys.modules.get(name) for name in self.modules},
            dict(jax.config.values),
            (random.getstate(), np.random.get_state()),
        )
        sys.modules.update(self.modules)
        _update(self._config)
        _set_generators(self._generators)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        modules, config, generators = self._ours
        late = {name: module for name, module in sys.modules.items() if name.startswith(f"{SUBMISSION}.")}
        self.modules.update(late)  # imported by a function
        modules = {**dict.fromkeys(late), **modules}
        self._generators = random.getstate(), np.random.get_state()
        self._config = {name: value for name, value in jax.config.values.items() if value != config[name]}
        _set_generators(generators)
        _update({name: config[name] for name in self._config})
        for name, module in modules.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module

    def run_files(self, files: Sequence[Path], code: CodeType) -> ModuleType:
        """The module that the code of the first file makes; it may import the others, `from .other` included.

        Each call makes a new one.
        """
        package = ModuleType(SUBMISSION)
        package.__path__ = [str(files[0].parent)]
        module = ModuleType(f"{SUBMISSION}.{files[0].stem}")
        module.__file__ = str(files[0])
        module.__package__ = SUBMISSION
        self.modules |= {package.__name__: package, module.__name__: module}
        own: dict[str, ModuleType] = {}
        try:
            with self, importing_from(files) as own:
                exec(code, module.__dict__)
        finally:
            self.modules.update(own)
        return module


def stand_ins() -> dict[str, ModuleType]:
    """By name: for each of AlgoPerf's packages that is not installed, and chex."""
    found: dict[str, ModuleType] = {}
    for package in PACKAGES:
        if not _installed(package):
            found[package] = ModuleType(package)
            found[package].__path__ = []  # a package, whose other modules are then missing by their own names
            for name, part in PARTS.items():
                found[f"{package}.{name}"] = part
                setattr(found[package], name, part)
    if not _installed("chex"):
        found["chex"] = ModuleType("chex")
        vars(found["chex"]).update(dict.fromkeys(_CHEX, Any))
    return found


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def _update(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)


def _set_generators(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
