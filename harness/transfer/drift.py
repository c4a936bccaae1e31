"""The drift exponent: how the best learning rate moves with scale.  Own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.transfer.local_model import LocalModel

SHIFT = 0.5  # share of the Akima shift added to intervals: seen to cover 94-98%; all of it costs a third of the power


@dataclass(frozen=True)
class Drift:
    """m(z) = intercept + exponent z, with z = log2(scale / base scale) and m = log2(best learning rate).

    stderr of the exponent holds noise and lack of fit, with `dof`. shift: change of the exponent when the optima come
    from Akima splines. scatter: standard deviation of the optima about the line.
    """

    intercept: float
    exponent: float
    stderr: float
    dof: int
    shift: float
    scatter: float

    def interval(self, level: float) -> tuple[float, float]:
        half = float(stats.t.ppf(0.5 + level / 2, self.dof)) * self.stderr
        bias = SHIFT * self.shift
        return self.exponent - half + min(0.0, bias), self.exponent + half + max(0.0, bias)


def drift_line(z: np.ndarray, model: LocalModel) -> Drift | None:
    """Generalised least squares of the optima on z (G,); None for fewer than 3 scales.

    The joint model's covariance gives the relative weights, the scatter about the line the size of the error
    (Hartung & Knapp 2001): t with G - 2 degrees of freedom covers noise and lack of fit alike.
    """
    if z.size < 3:
        return None
    scale = 0.0 if model.covariance is None else float(np.trace(model.covariance)) / z.size
    precision = np.eye(z.size) if model.covariance is None or scale == 0 else np.linalg.inv(model.covariance / scale)
    design = np.column_stack([np.ones_like(z), z])
    inverse = np.linalg.inv(design.T @ precision @ design)
    project = inverse @ design.T @ precision
    coef = project @ model.best
    residual = model.best - design @ coef
    dof = z.size - 2
    q = float(residual @ precision @ residual) / dof
    return Drift(
        intercept=float(coef[0]),
        exponent=float(coef[1]),
        stderr=float(np.sqrt(inverse[1, 1] * q)),
        dof=dof,
        shift=float((project @ model.akima - coef)[1]),
        scatter=float(np.sqrt(residual @ residual / dof)),
    )
