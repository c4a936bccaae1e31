"""Loss of routed (mixture-of-experts) models from the size of the dense part and the number of experts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real, positive
from workloads.base import BadInput

LN10 = float(np.log(10.0))


def effective_experts(experts: Array, start: Array, most: Array) -> Array:
    """Saturating expert count (n,): `start` at one expert, `most` as the count goes to infinity (Clark et al. 2022)."""
    gap = jnp.maximum(1.0 / start - 1.0 / most, 0.0)
    return 1.0 / (gap / (1.0 + gap * (experts - 1.0)) + 1.0 / most)


@LAWS.register("routed")
@dataclass(frozen=True)
class Routed(Law):
    """L(N, experts) = 10^(a log N + b log S + c log N log S + d), log to base 10, with the saturating expert count

    1/S = 1/(experts - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max.
    Clark et al. 2022 (arXiv:2202.01169), eq. 1. N parameters of the dense model, experts per routed layer (1 is
    dense: S = E_start; many: S -> E_max), L nats per token. E_start < E_max. a, b < 0 are the gains of size and of experts;
    c > 0 says that experts help less in larger models, and not at all at N = 10^(-b/c). d is the level.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N", "experts")
    parameters: ClassVar[Mapping[str, Kind]] = {
        "a": Real,
        "b": Real,
        "c": Real,
        "d": Real,
        "E_start": Positive,
        "E_max": Positive,
    }
    simpler: ClassVar[tuple[str, ...]] = ("power_law",)
    first: ClassVar[tuple[float, ...]] = (1.3, 2.5, 5.0, 10.0)
    reach: ClassVar[tuple[float, ...]] = (0.3, 1.0, 3.0, 10.0)

    def features(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Raises BadInput on fewer than one expert."""
        found = {name: positive(name, columns[name]) for name in self.inputs}
        if np.min(found["experts"]) < 1:
            raise BadInput(f"experts has {np.min(found['experts']):g}: a dense model has 1 expert, not fewer")
        return found

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        size = jnp.log10(inputs["N"])
        count = jnp.log10(effective_experts(inputs["experts"], p.E_start, p.E_max))
        return LN10 * (p.a * size + p.b * count + p.c * size * count + p.d)

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """For E_start in `first` and E_max in `reach` times the most experts, the law is linear: least squares of a-d."""
        size, most = np.log10(inputs["N"]), float(np.max(inputs["experts"]))
        rows = []
        for start, reach in itertools.product(self.first, self.reach):
            ceiling = max(reach * most, 1.5 * start)
            gap = 1 / start - 1 / ceiling
            count = -np.log10(gap / (1 + gap * (inputs["experts"] - 1)) + 1 / ceiling)
            design = np.stack([size, count, size * count, np.ones_like(size)], axis=1)
            linear = np.linalg.lstsq(design, np.log10(loss), rcond=None)[0]
            rows.append([*linear, np.log(start), np.log(ceiling)])
        return np.array(rows)


def effective_size(params: Mapping[str, float], size: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """Effective parameter count (n,): the dense model (one expert) of equal predicted loss (Clark et al. 2022).

    params: of a fitted `routed` law. size, experts: (n,). Raises BadInput where the dense model does not gain from size.
    """
    a, b, c = (params[name] for name in "abc")
    start, most = params["E_start"], params["E_max"]
    dense = np.log10(start)
    slope = a + c * dense
    if not slope < 0:
        raise BadInput(
            f"the fitted dense slope a + c log E_start = {slope:.3g} is not negative: no equivalent dense size"
        )
    gap = 1 / start - 1 / most
    count = -np.log10(gap / (1 + gap * (np.asarray(experts, np.float64) - 1)) + 1 / most)
    shift = (b * (count - dense)) / slope
    return 10 ** ((a + c * count) / slope * np.log10(np.asarray(size, np.float64)) + shift)
