"""Curves by trial."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

Evaluations = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Trial id -> steps and values of its evaluations."""


def evaluations(curves: pa.Table, column: str) -> Evaluations:
    """What the evaluations measured. curves: a store's; column: eval_loss or eval_metric. NaN where the model gave none."""
    of = np.array(curves["trial"].to_pylist())
    step, value = (
        np.asarray(curves[name].cast(pa.float64()).combine_chunks().fill_null(np.nan)) for name in ("step", column)
    )
    measured = ~np.asarray(curves["eval_loss"].combine_chunks().is_null())
    return {trial: (step[rows], value[rows]) for trial in np.unique(of) if (rows := (of == trial) & measured).any()}
