"""A user's own table of exponents, from a YAML file."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.optimizers.base import Optimizer
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf, Parametrization
from harness.registry import nearest
from workloads.base import BadInput, Workload

_SCALARS = ("attention_scale", "residual_scale", "tied_output_scale")


@PARAMETRIZATIONS.register("table")
@dataclass(frozen=True)
class UserTable(Parametrization):
    """Exponents by regular expression of the parameter's path; the first that matches counts, and one must.

        # my_table.yaml: n is the leaf's width ratio, m the depth ratio (1 unless base_depth is set)
        leaves:
          - {match: "embedding|.*norm", init: 0, learning_rate: 0}
          - {match: "readout", init: -0.5, learning_rate: -1}
          - {match: "layer_.*", learning_rate: -1, weight_decay: 1, depth: {learning_rate: -0.5}}
        attention_scale: -0.5       # power of the head size's ratio
        residual_scale: -0.5        # power of the depth ratio
        tied_output_scale: -1       # power of the width ratio

    Factors that are not named are 1; gains and biases are not decayed. file: its path; a process reads it once, and trials are
    told apart by its content. base_depth: 0 for no depth rule.
    """

    file: str = ""
    base_depth: int = 0

    def validate(self) -> None:
        super().validate()
        _read(self.file)

    @property
    def sha256(self) -> str:
        """Of the file as it was read. Raises BadInput as `validate` does."""
        return str(_read(self.file)["sha256"])

    def depth_ratio(self, workload: Workload) -> float:
        return workload.depth / self.base_depth if self.base_depth else 1.0

    def factors(self, leaf: Leaf, optimizer: Optimizer, depth_ratio: float) -> Factors:
        for row in _read(self.file)["leaves"]:
            if re.fullmatch(row["match"], leaf.path):
                powers, depth = row, row.get("depth", {})
                found = {
                    name: leaf.width_ratio ** powers.get(name, 0.0) * depth_ratio ** depth.get(name, 0.0)
                    for name in Factors._fields
                }
                return Factors(**found)._replace(weight_decay=found["weight_decay"] if len(leaf.shape) > 1 else 0.0)
        raise BadInput(
            f"no row of {self.file} matches '{leaf.path}' (shape {leaf.shape}); every leaf needs one: add e.g. "
            "- {match: '.*'} as the last row"
        )

    def attention_scale(self, head_size_ratio: float) -> float:
        return head_size_ratio ** _read(self.file)["attention_scale"]

    def residual_scale(self, depth_ratio: float) -> float:
        return depth_ratio ** _read(self.file)["residual_scale"]

    def tied_output_scale(self, width_ratio: float) -> float:
        return width_ratio ** _read(self.file)["tied_output_scale"]


@functools.cache
def _read(file: str) -> dict[str, Any]:
    """The table, checked, and the SHA-256 of its file. Raises BadInput on anything that is none."""
    try:
        text = Path(file).read_bytes()
        content = yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"parametrization.file='{file}' cannot be read: {error.strerror}; give a YAML table") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"parametrization.file={file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("leaves"), list):
        raise BadInput(f"{file} must hold `leaves: [{{match: REGEX, init: POWER, ...}}, ...]`")
    _known(file, content, ("leaves", *_SCALARS))
    for row in content["leaves"]:
        if not isinstance(row, dict) or not isinstance(row.get("match"), str):
            raise BadInput(f"{file}: row {row} needs match: REGEX")
        _known(file, row, ("match", "depth", *Factors._fields))
        _known(file, row.get("depth", {}), Factors._fields)
        for powers in (row, row.get("depth", {})):
            _numbers(file, {k: v for k, v in powers.items() if k in Factors._fields})
        try:
            re.compile(row["match"])
        except re.error as error:
            raise BadInput(f"{file}: match '{row['match']}' is no regular expression: {error}") from None
    scalars = {name: content.get(name, 0.0) for name in _SCALARS}
    _numbers(file, scalars)
    return {"leaves": content["leaves"], **scalars, "sha256": hashlib.sha256(text).hexdigest()}


def _known(file: str, entry: dict[str, Any], valid: tuple[str, ...]) -> None:
    for key in entry:
        if key not in valid:
            raise BadInput(f"{file}: unknown key '{key}'. {nearest(str(key), valid)}")


def _numbers(file: str, powers: dict[str, Any]) -> None:
    for key, value in powers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"{file}: {key}: {value} must be a power, i.e. a number")
