"""AIC and BIC, which mean something only under a stated likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import erf

from harness.laws.fitting.objective import Objective


def information(objective: Objective, residual: np.ndarray, weight: np.ndarray, parameters: int) -> dict[str, Any]:
    """{"likelihood", "scale", "log_likelihood", "aic", "aicc", "bic"} of n residuals under the objective's own density.

    mse: normal errors, variance sigma^2 / w_i. huber: the density proportional to exp(-w_i rho(r) / s) (Huber 1964's least
    favourable density for a fixed delta), its scale s fitted. Both count the scale as a parameter. Empty where the objective
    is asymmetric: then it is no likelihood. AICc: Hurvich & Tsai 1989.
    """
    if objective.asymmetry != 0.5:
        return {}
    if np.max(np.abs(residual)) < 1e-12:
        return {}
    rho, n, k = np.asarray(objective.rho(residual)), residual.size, parameters + 1
    total = float(np.sum(weight * rho))

    def negative(log_scale: float) -> float:
        return total / np.exp(log_scale) + float(np.sum(np.log(_mass(objective, np.exp(log_scale) / weight))))

    guess = float(np.log(2 * total / n))
    best = minimize_scalar(negative, bounds=(guess - 15, guess + 15), method="bounded", options={"xatol": 1e-10})
    value = -float(best.fun)
    name = "normal" if objective.kind == "mse" else "huber"
    return {
        "likelihood": f"{name} errors in {objective.space} {'loss' if objective.space == 'log' else 'units of loss'}",
        "scale": float(np.exp(best.x)),
        "log_likelihood": value,
        "aic": 2 * k - 2 * value,
        "aicc": 2 * k - 2 * value + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else None,
        "bic": k * float(np.log(n)) - 2 * value,
    }


def _mass(objective: Objective, scale: np.ndarray) -> np.ndarray:
    """Integral of exp(-rho(r) / s) over r, for each s (n,)."""
    normal = np.sqrt(2 * np.pi * scale)
    if objective.kind == "mse":
        return normal
    inside = normal * erf(objective.delta / np.sqrt(2 * scale))
    return inside + 2 * scale / objective.delta * np.exp(-(objective.delta**2) / (2 * scale))
