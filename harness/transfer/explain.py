"""What a parametrization does to every parameter of a workload.

  python -m harness.transfer explain workload.width=128 workload.depth=8 parametrization=complete_p optimizer=adamw
  python -m harness.transfer explain workload=image_mlp optimizer=muon parametrization=mup

One row a parameter (of layers that are alike, the first), at the base width and depth, where every parametrization is SP,
and at the chosen ones: shape, role, standard deviation of the initial values, learning rate, decay coefficient, epsilon.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from harness.config import compose_config, trial_from
from harness.parametrizations import leaves, scales
from harness.parametrizations.base import kind
from harness.records.listing import show
from harness.trial import Trial


def main(argv: list[str]) -> int:
    """Print the table. Raises BadInput as `harness.train` does on the same arguments."""
    trial = trial_from(compose_config("train", argv))
    rows = table(trial)
    show(list(rows[0]), [tuple(row.values()) for row in rows], fixed=True)
    factors = _scales(trial)
    for name in ("attention_scale", "residual_scale", "output_scale"):
        print(f"{name}: {getattr(factors, name):.6g}")
    given, used = dataclasses.asdict(trial.optimizer), dataclasses.asdict(trial.rescaled_optimizer())
    for name in given:
        if given[name] != used[name]:
            print(f"optimizer.{name}: {given[name]:.6g} becomes {used[name]:.6g} at this batch size and duration")
    return 0


def table(trial: Trial) -> list[dict[str, Any]]:
    """One row a parameter; "base -> here" where the two differ."""
    rule, workload, optimizer = trial.parametrization, trial.workload, trial.rescaled_optimizer()
    base = workload.replace(width=rule.reference_width(workload))
    flat_depth: dict[str, Any] = {"base_depth": workload.depth} if hasattr(rule, "base_depth") else {}
    at_base = dataclasses.replace(trial, workload=base, parametrization=dataclasses.replace(rule, **flat_depth))
    there, here = _scales(at_base), _scales(trial)
    std_there, std_here = (_std(model, found.init) for model, found in ((base, there), (workload, here)))
    numbers = {"learning rate": ("learning_rate", "learning_rate"), "decay": ("weight_decay", "weight_decay")}
    numbers["epsilon"] = ("epsilon", "eps")
    rows = []
    kinds: set[str] = set()
    for leaf in leaves(workload, base.width):
        if leaf.repeated and kind(leaf.path) in kinds:
            continue
        kinds.add(kind(leaf.path))
        row: dict[str, Any] = {
            "parameter": leaf.path,
            "shape": " x ".join(map(str, leaf.shape)),
            "role": leaf.role + (", repeated" if leaf.repeated else ""),
            "init std": _pair(std_there[leaf.path], std_here[leaf.path]),
        }
        for title, (factor, field) in numbers.items():
            value = getattr(optimizer, field, None)
            if isinstance(value, float) and (title != "decay" or optimizer.decoupled_decay):
                at = (_flat(getattr(found, factor))[leaf.path] for found in (there, here))
                row[title] = _pair(*(value * factor for factor in at))
        rows.append(row)
    return rows


def _scales(trial: Trial) -> Any:
    return scales(trial.parametrization, trial.workload, trial.optimizer)


def _std(workload: Any, factors: Any) -> dict[str, float]:
    """Of the initial values of seed 0; for constant leaves their value's size."""
    params, scale = _flat(jax.jit(workload.init)(jax.random.key(0))), _flat(factors)
    return {path: float(scale[path] * np.sqrt(np.mean(np.square(leaf)))) for path, leaf in params.items()}


def _flat(tree: Any) -> dict[str, Any]:
    return {"/".join(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _pair(there: float, here: float) -> str:
    return f"{here:.4g}" if np.isclose(there, here, rtol=5e-3, atol=0) else f"{there:.4g} -> {here:.4g}"
