"""Noise of the points and sandwich standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.laws.base import Law
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import jacobian

FLAT = 1e-9  # singular values (of columns scaled to one) below this share of the largest are rounding


@dataclass(frozen=True)
class Noise:
    """How far a point lies from the true law, in the objective's space (log loss or loss).

    point: (n,) standard deviation of each fitted point. excess: the part of it that standard errors do not
    explain (lack of fit), which a new point has too. dof: effective degrees of freedom of the estimate.
    """

    point: np.ndarray
    excess: float
    dof: float
    known: bool

    def new_point(self, stderr: float | None) -> float:
        """Standard deviation of a new observed mean whose own standard error is `stderr` (None: like the fitted).

        Known standard errors: sqrt(stderr^2 + excess^2). Estimated from residuals: seed noise and lack of fit
        cannot be told apart, so the larger of the two.
        """
        if stderr is None:
            return float(np.sqrt(np.median(self.point**2)))
        if self.known:
            return float(np.hypot(stderr, self.excess))
        return max(stderr, float(np.sqrt(np.median(self.point**2))))

    def inflation(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """(draws,) factors sqrt(dof / chi2_dof): normal noise times these is Student's t with `dof`."""
        if np.isinf(self.dof):
            return np.ones(draws)
        return np.sqrt(self.dof / rng.chisquare(self.dof, draws))


def estimate_noise(
    residual: np.ndarray, weight: np.ndarray, n_parameters: int, stderr: np.ndarray | None, stderr_dof: float
) -> Noise:
    """Noise from residuals, from standard errors, or from both.  Own.

    No standard errors: var_i = sigma^2 / w_i, sigma^2 = sum w r^2 / (n - P), dof = n - P.
    Standard errors s_i: chi2 = sum (r_i / s_i)^2 / (n - P). If chi2 <= 1 they stand as they are, with their own dof.
    If chi2 > 1 a variance tau^2 = (chi2 - 1) * harmonic mean(s^2) is added to every point; with f its share of the
    sum, 1 / dof = f / (n - P) + (1 - f) / stderr_dof (Satterthwaite's squares of the shares undercover: seen 89%).
    """
    n = residual.size
    dof = n - n_parameters
    if stderr is None:
        sigma2 = float(np.sum(weight * residual**2)) / dof
        return Noise(np.sqrt(sigma2 / weight), 0.0, float(dof), known=False)
    chi2 = float(np.sum((residual / stderr) ** 2)) / dof if dof > 0 else 1.0
    typical = n / float(np.sum(stderr**-2.0))
    tau2 = max(0.0, chi2 - 1.0) * typical
    if tau2 == 0.0:
        return Noise(stderr, 0.0, stderr_dof, known=True)
    share = tau2 / (typical + tau2)
    effective = 1.0 / (share / dof + (1.0 - share) / stderr_dof)
    return Noise(np.sqrt(stderr**2 + tau2), float(np.sqrt(tau2)), effective, known=True)


def sandwich(jac: np.ndarray, residual: np.ndarray, weight: np.ndarray, objective: Objective) -> np.ndarray:
    """Covariance (P, P) of theta: H^-1 M H^-1 n/(n-P), H = J'W rho'' J, M = sum w^2 psi^2 J J' (White 1980, HC1).

    Where every residual is beyond Huber's delta H would vanish; the pseudo-inverse then uses rho'' = 1.
    """
    n, p = jac.shape
    curvature = weight * objective.curvature(residual)
    if np.count_nonzero(curvature) < p:
        curvature = weight
    bread = np.linalg.pinv(jac.T @ (curvature[:, None] * jac), rcond=1e-14, hermitian=True)
    score = (weight * objective.psi(residual))[:, None] * jac
    return bread @ (score.T @ score) @ bread * (n / max(n - p, 1))


def internal_stderr(
    law: Law, objective: Objective, inputs: Mapping[str, np.ndarray], theta: np.ndarray, noise: Noise
) -> tuple[np.ndarray, np.ndarray]:
    """Jacobian (n, P) and covariance (P, P) of theta under `noise`, for identifiability.

    A direction in which nothing changes has a huge variance, not the zero that a pseudo-inverse would give it.
    """
    jac = jacobian(law, objective, inputs, theta)
    scaled = jac / noise.point[:, None] if np.all(noise.point > 0) else jac * 1e12
    norms = np.linalg.norm(scaled, axis=0)
    norms = np.where(norms > 0, norms, max(float(norms.max()), 1e-300) * FLAT)
    _, singular, rows = np.linalg.svd(scaled / norms, full_matrices=False)
    axes = rows.T / np.maximum(singular, singular[0] * FLAT)
    return jac, axes @ axes.T / np.outer(norms, norms)
