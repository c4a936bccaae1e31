"""What one law promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """truth: parameters in natural units. columns: input columns (n,), a design that determines all parameters.

    units: parameters that scale with the unit of the response, for laws whose starts must not depend on it; None where the
    response has no unit (an accuracy) or the law is not closed under scaling. options: fields of the law. rtol: of the
    parameters recovered from noise-free points. noise: relative standard deviation at which intervals are checked.
    """

    truth: Mapping[str, float]
    columns: Mapping[str, np.ndarray]
    units: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    rtol: float = 1e-4
    noise: float = 1e-3


def grid(**axes: Any) -> dict[str, np.ndarray]:
    """Columns of the product of the axes."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: np.asarray(m, np.float64).ravel() for name, m in zip(axes, mesh, strict=True)}
