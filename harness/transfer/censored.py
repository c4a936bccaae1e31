"""Linear regression on responses that are known only to lie in intervals.

y = X beta + sigma N(0, 1), with low <= y <= high: equal ends are a measurement, an infinite end is censoring.  Maximum
likelihood (Tobin 1958; interval-censored responses: Stewart 1983), with profile-likelihood intervals whose quantile is
that of the t distribution, exact where every response is measured.  Intervals and quantiles: own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

_REACH = 1e3  # a profile is followed this many times its first step before an end of the interval is called infinite
_LOG_ROOT_2PI = 0.5 * float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Censored:
    """The fit: coef (P,), its covariance (P, P), sigma, dof; covariance and sigma with the small-sample factor n / dof.

    covariance is the inverse of the observed information, meaningful where most responses are measured; `interval` asks
    the likelihood itself. dof: what is left of `informative` responses (those with a finite end) after the coefficients.
    """

    design: np.ndarray
    low: np.ndarray
    high: np.ndarray
    floor: float
    coef: np.ndarray
    covariance: np.ndarray
    sigma: float
    likelihood: float
    dof: int

    def interval(self, k: int, level: float) -> tuple[float, float]:
        """Profile-likelihood interval of coefficient k; an end is infinite where the responses do not bound it."""
        n = self.dof + self.coef.size
        allowed = 0.5 * n * float(np.log1p(stats.t.ppf(0.5 + level / 2, self.dof) ** 2 / self.dof))

        def excess(value: float) -> float:
            return self.likelihood - self._profile(k, value) - allowed

        wide = np.where(np.isfinite(self.high - self.low), self.high - self.low, 0.0).max()
        step = max(self.sigma, float(wide)) * float(np.sqrt(np.linalg.inv(self.design.T @ self.design)[k, k]))
        return self._end(k, -step, excess), self._end(k, step, excess)

    def _end(self, k: int, step: float, excess: Callable[[float], float]) -> float:
        inside = float(self.coef[k])
        outside = inside + step
        while excess(outside) < 0:
            inside, outside = outside, outside + 2 * (outside - float(self.coef[k]))
            if abs(outside - self.coef[k]) > _REACH * abs(step):
                return float(np.copysign(np.inf, step))
        return float(optimize.brentq(excess, inside, outside, xtol=1e-3 * abs(step)))

    def _profile(self, k: int, value: float) -> float:
        others = np.delete(self.design, k, axis=1)
        shift = self.design[:, k] * value
        start = np.append(np.linalg.lstsq(others, _middle(self.low, self.high) - shift, rcond=None)[0], 0.0)
        return _maximise(others, self.low - shift, self.high - shift, self.floor, start)[1]


def fit_censored(design: np.ndarray, low: np.ndarray, high: np.ndarray, floor: float) -> Censored | None:
    """Fit responses in [low, high], (n,) each, on design (n, P); sigma is at least `floor`.

    None where fewer than P + 1 responses have a finite end, or the design of those is rank-deficient.
    """
    informative = np.isfinite(low) | np.isfinite(high)
    design, low, high = design[informative], low[informative], high[informative]
    n, p = design.shape
    if n <= p or np.linalg.matrix_rank(design) < p:
        return None
    start = np.append(np.linalg.lstsq(design, _middle(low, high), rcond=None)[0], 0.0)
    theta, likelihood = _maximise(design, low, high, floor, start)
    factor = n / (n - p)
    sigma = float(np.exp(theta[-1]))
    covariance = np.linalg.pinv(_information(theta, design, low, high))[:p, :p] * factor
    return Censored(design, low, high, floor, theta[:p], covariance, sigma * factor**0.5, likelihood, n - p)


def _middle(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Centre of each interval, its finite end where the other is infinite."""
    return np.where(np.isfinite(low) & np.isfinite(high), (low + high) / 2, np.where(np.isfinite(low), low, high))


def _maximise(
    design: np.ndarray, low: np.ndarray, high: np.ndarray, floor: float, start: np.ndarray
) -> tuple[np.ndarray, float]:
    """(beta and log sigma, log-likelihood at the maximum); tries a wide and a narrow sigma."""
    residual = _middle(low, high) - design @ start[:-1]
    spread = max(float(np.sqrt(np.mean(residual**2))), floor)
    bounds = [(None, None)] * design.shape[1] + [(np.log(floor), None)]
    best: tuple[np.ndarray, float] | None = None
    for log_sigma in (np.log(spread), max(np.log(floor), np.log(spread) - 2)):
        first = np.append(start[:-1], log_sigma)
        found = optimize.minimize(_objective, first, (design, low, high), method="L-BFGS-B", jac=True, bounds=bounds)
        if best is None or -found.fun > best[1]:
            best = found.x, -float(found.fun)
    assert best is not None
    return best


def _objective(theta: np.ndarray, design: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log-likelihood and its gradient by (beta, log sigma)."""
    sigma = np.exp(theta[-1])
    mean = design @ theta[:-1]
    a, b = (low - mean) / sigma, (high - mean) / sigma
    exact = low == high
    log_mass = np.where(exact, -0.5 * _finite(a) ** 2 - _LOG_ROOT_2PI - theta[-1], _log_mass(a, b))
    at_a, at_b = (np.exp(np.where(exact, -np.inf, -0.5 * z**2 - _LOG_ROOT_2PI - log_mass)) for z in (a, b))
    by_mean = np.where(exact, _finite(a), at_a - at_b) / sigma
    by_log_sigma = np.where(exact, _finite(a) ** 2 - 1, at_a * _finite(a) - at_b * _finite(b))
    return -float(log_mass.sum()), -np.append(design.T @ by_mean, by_log_sigma.sum())


def _finite(z: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(z), z, 0.0)


def _log_mass(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(Phi(b) - Phi(a)) without cancellation: intervals above the mean are mirrored."""
    upper = a > 0
    a, b = np.where(upper, -b, a), np.where(upper, -a, b)
    log_a, log_b = special.log_ndtr(a), special.log_ndtr(b)
    gap = np.minimum(log_a - log_b, -1e-15)
    return log_b + np.log(-np.expm1(gap))


def _information(theta: np.ndarray, design: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Observed information by central differences of the gradient."""
    step = 1e-4 * np.maximum(np.abs(theta), 1e-2)
    rows = [
        (_objective(theta + e, design, low, high)[1] - _objective(theta - e, design, low, high)[1]) / (2 * s)
        for e, s in zip(np.diag(step), step, strict=True)
    ]
    return (np.array(rows) + np.array(rows).T) / 2
