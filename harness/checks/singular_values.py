"""Do the top singular values keep their size over widths, and do they follow the law of AdamW's steady state?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from harness import components
from harness.checks.base import CHECKS, Check, Finding, Member
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.parametrizations.base import scales
from harness.transfer.spectra import singular_value_scaling
from workloads.base import BadInput

_PREFIX = "probe.sigma_max:"
_WORDS = {"supported": "invariant", "refuted": "varies"}
_LAW = {"supported": "holds", "refuted": "fails"}


@CHECKS.register("singular_values")
@dataclass(frozen=True)
class SingularValues(Check):
    """Top singular values at the end of training against width, for every decayed matrix (see spectra).

    A series has two verdicts: its own, on the sublayer gains (invariant or varies), and SERIES/law, on sigma_max ~
    sqrt(eta / lambda) d^0.75 (holds or fails).
    matrices: a word that a matrix' path must hold; by default those of the residual blocks, "layer".
    """

    title = "Do the top singular values keep their size over widths?"
    words = ("invariant", "varies", "holds", "fails")
    probes = ("singular_values",)

    matrices: str = "layer"

    def run(self, members: Sequence[Member]) -> Finding:
        columns: dict[str, list[float | str]] = {
            key: [] for key in ("width", "parameter", "sigma_max", "learning_rate", "weight_decay", "rule")
        }
        for name, mine in self.series(members):
            for member in mine:
                if not member.diverged:
                    _add(columns, name, member, self.matrices, self.axis)
        if not columns["width"]:
            raise BadInput(f"no decayed matrix has '{self.matrices}' in its path; set weight_decay, or matrices=WORD")
        found = singular_value_scaling(**columns)
        verdicts: dict[str, tuple[str, str]] = {}
        tables, plots = [], []
        for name, one in found.items():
            verdicts[name] = (_WORDS.get(one.gain_verdict, "undecided"), one.gain_reason)
            verdicts[f"{name}/law"] = (_LAW.get(one.law_verdict, "undecided"), one.law_reason)
            rows = tuple(
                (
                    path,
                    spectrum.gain and spectrum.gain.value,
                    spectrum.gain and spectrum.gain.interval(0.95),
                    spectrum.ratio and spectrum.ratio.value,
                    spectrum.ratio and spectrum.ratio.interval(0.95),
                )
                for path, spectrum in one.parameters.items()
            )
            header = (
                "matrix",
                "exponent of sigma_max",
                "95% interval",
                "exponent of sigma_max over its law",
                "95% interval",
            )
            tables.append(Table(f"{name}: top singular values against width", header, rows))
            plots.append(_plot(name, columns))
        return Finding(verdicts, {name: one.to_json() for name, one in found.items()}, tuple(tables), tuple(plots))


def _add(columns: dict[str, list[float | str]], name: str, member: Member, word: str, axis: str) -> None:
    """One entry for every decayed matrix of the trial."""
    trial = member.trial
    optimizer = trial.rescaled_optimizer()
    factors = scales(trial.parametrization, trial.workload, components.erase(trial.optimizer))
    rate, decay = ({_path(path): value for path, value in jax.tree_util.tree_leaves_with_path(tree)}
                   for tree in (factors.learning_rate, factors.weight_decay))  # fmt: skip
    for column, value in member.row.items():
        path = column.removeprefix(_PREFIX)
        if not column.startswith(_PREFIX) or value is None or word not in path:
            continue
        shrink = float(getattr(optimizer, "weight_decay", 0.0)) * decay[path]
        if shrink > 0:
            entry = (float(member.row[axis]), path, value, optimizer.learning_rate * rate[path], shrink, name)
            for key, part in zip(columns, entry, strict=True):
                columns[key].append(part)


def _path(path: tuple[object, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _plot(name: str, columns: dict[str, list[float | str]]) -> Plot:
    table = {key: np.array(values) for key, values in columns.items()}
    layers = []
    for path in np.unique(table["parameter"]):
        rows = (table["parameter"] == path) & (table["rule"] == name)
        width, sigma = table["width"][rows].astype(float), table["sigma_max"][rows].astype(float)
        each = np.unique(width)
        if each.size:
            mean = np.array([np.exp(np.log(sigma[width == w]).mean()) for w in each])
            layers.append(Layer(str(path), each, mean, kind="line"))
    caption = "Top singular value of every matrix at the end of training, geometric mean over seeds."
    return Plot(
        f"singular_values_{name}",
        f"{name}: top singular values",
        "width",
        "sigma max",
        tuple(layers),
        caption=caption,
        alt=caption,
    )
