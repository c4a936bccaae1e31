"""Fit one law to one table of points: parameters, error bars, what is not identifiable, and predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.laws.backtest import backtest, fit_subsets, folds
from harness.laws.base import Law
from harness.laws.diagnostics import Identifiable, identify
from harness.laws.power_law import PowerLaw
from harness.laws.solver import Objective, Solution, predict
from harness.laws.uncertainty import Noise, Refits, estimate_noise, internal_stderr, refit, sandwich
from workloads.base import BadInput


class Prediction(NamedTuple):
    """Losses (m,) at new inputs with a prediction interval for a newly observed mean."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted law. `params`, `stderr` (sandwich) and `ci95` are in natural units, keyed by parameter name.

    ci95 are percentiles of refits to simulated data, with the uncertainty of the noise level included.
    objective: the minimised sum. losses: the (n,) fitted losses. warnings: what a reader must know first.
    """

    law: Law
    loss: Objective
    n: int
    objective: float
    params: dict[str, float]
    stderr: dict[str, float]
    ci95: dict[str, tuple[float, float]]
    identifiable: Identifiable
    backtest: dict[str, Any]
    seconds: float
    losses: np.ndarray
    noise: Noise
    theta: np.ndarray
    refits: Refits

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.identifiable.warnings

    def predict(
        self, inputs: Mapping[str, Any], level: float = 0.95, noise: float | None = None, seed: int = 0
    ) -> Prediction:
        """Losses at new `inputs` ((m,) each) with the interval in which a new observed mean falls with `level`.

        noise: standard error of that new mean in units of loss (per-seed sd / sqrt(seeds)); None takes a new point
        to be like the fitted ones; 0 with known standard errors leaves the law's own uncertainty plus lack of fit.
        The interval is a prediction bootstrap (Stine 1985): the fitted value plus quantiles of (new noise - error
        of a refit). Refits see noise with Student-t tails of the estimate's dof, so it is exact for linear laws,
        and directions in which parameters trade off without moving the prediction do not widen it.
        Raises BadInput on missing or non-positive inputs.
        """
        points = _columns(self.law, inputs)
        if not 0 < level < 1:
            raise BadInput(f"level={level} must lie between 0 and 1, e.g. 0.95")
        if noise is not None and not (np.isfinite(noise) and noise >= 0):
            raise BadInput(f"noise={noise} must be a finite standard error in units of loss, or None")
        center = predict(self.law, self.loss, points, self.theta[None])[0]
        deviation = predict(self.law, self.loss, points, self.refits.theta) - center
        mean = self.loss.invert(center)
        scale = mean if self.loss.space == "log" else np.ones_like(mean)
        new = np.array([self.noise.new_point(None if noise is None else noise / s) for s in scale])
        draw = np.random.default_rng([seed, 1]).normal(size=deviation.shape) * self.refits.inflation[:, None]
        tail = (1 - level) / 2
        low, high = center + np.nanquantile(draw * new - deviation, [tail, 1 - tail], axis=0)
        return Prediction(mean, self.loss.invert(low), self.loss.invert(high))

    def to_json(self) -> dict[str, Any]:
        """DESIGN.md's fit.json entry; every value is a plain JSON type."""
        return {
            "law": self.law.name,
            "n": self.n,
            "objective": self.objective,
            "loss": self.loss.to_json(),
            "params": dict(self.params),
            "stderr": dict(self.stderr),
            "ci95": {name: list(pair) for name, pair in self.ci95.items()},
            "identifiable": self.identifiable.to_json(),
            "backtest": self.backtest,
            "seconds": self.seconds,
        }


def fit(
    law: Law,
    inputs: Mapping[str, Any],
    loss: Any,
    *,
    stderr: Any = None,
    stderr_dof: float = np.inf,
    weights: Any = None,
    objective: Objective | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Fit:
    """Fit `law` to n points.

    inputs: column name -> (n,), positive; loss: (n,), positive and finite (drop diverged runs first).
    stderr: (n,) standard errors of the losses in units of loss (e.g. sd over seeds / sqrt(seeds)), estimated with
    `stderr_dof` degrees of freedom; they weight the points by stderr^-2 unless `weights` (n,) are given.
    bootstrap: refits behind ci95 and prediction intervals. Weights are scaled to a mean of one.
    Raises BadInput where no honest number exists: unknown or missing columns, non-finite or non-positive values, one
    size only, fewer distinct points than parameters, or no degree of freedom left to estimate noise from.
    """
    started = time.perf_counter()
    objective = objective or Objective()
    columns = _columns(law, inputs)
    observed, errors, weight = _points(law, columns, loss, stderr, weights)
    if not stderr_dof > 0:
        raise BadInput(f"stderr_dof={stderr_dof} must be positive (seeds - 1 where each point has its own error)")
    if bootstrap < 100:
        raise BadInput(f"bootstrap={bootstrap} is too few for 95% intervals; use at least 100 (default 1000)")
    if errors is not None and objective.space == "log":
        errors = errors / observed
    target = objective.transform(observed)
    masks = folds(law, columns)
    everything = [np.ones(observed.size, bool), *masks.values()]
    solution = fit_subsets(law, objective, columns, observed, weight, everything)
    theta = solution.best()[0]
    rolled = {law: solution.best()[1:]}
    if masks and "N" in law.inputs and not isinstance(law, PowerLaw):
        rolled[PowerLaw()] = fit_subsets(
            PowerLaw(), objective, {"N": columns["N"]}, observed, weight, list(masks.values())
        ).best()
    fitted = predict(law, objective, columns, theta[None])[0]
    noise = estimate_noise(target - fitted, weight, theta.size, errors, stderr_dof)
    jac, covariance = internal_stderr(law, objective, columns, theta, noise)
    refits = refit(law, objective, columns, fitted, theta, weight, noise, bootstrap, seed)
    return Fit(
        law=law,
        loss=objective,
        n=observed.size,
        objective=float(solution.objective[0].min()),
        params=_named(law, law.natural(theta)),
        stderr=_natural_stderr(law, theta, sandwich(jac, target - fitted, weight, objective)),
        ci95=_percentiles(law, refits),
        identifiable=identify(
            law, theta, jac, covariance, solution, _warnings(solution, refits, noise, observed, theta)
        ),
        backtest=backtest(rolled, masks, objective, columns, observed),
        seconds=time.perf_counter() - started,
        losses=objective.invert(fitted),
        noise=noise,
        theta=theta,
        refits=refits,
    )


def _named(law: Law, values: np.ndarray) -> dict[str, float]:
    return dict(zip(law.parameters, values.tolist(), strict=True))


def _natural_stderr(law: Law, theta: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
    """Delta method: the standard error of a Positive parameter is its value times that of its logarithm."""
    error = np.sqrt(np.clip(np.diag(covariance), 0, None))
    scale = [v if k.positive else 1.0 for v, k in zip(law.natural(theta), law.parameters.values(), strict=True)]
    return _named(law, error * np.array(scale))


def _percentiles(law: Law, refits: Refits) -> dict[str, tuple[float, float]]:
    low, high = np.nanquantile(law.natural(refits.theta), [0.025, 0.975], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(law.parameters, low, high, strict=True)}


def _warnings(solution: Solution, refits: Refits, noise: Noise, loss: np.ndarray, theta: np.ndarray) -> list[str]:
    found = []
    if not solution.converged[0, solution.objective[0].argmin()]:
        found.append("the best start did not converge")
    if refits.converged < 0.5:
        found.append(f"only {refits.converged:.0%} of the refits converged: intervals are approximate")
    if loss.size == theta.size:
        found.append("as many points as parameters: the law cannot be checked, noise is the given standard errors")
    if not noise.known and np.max(noise.point) < 1e-9:
        found.append("the residuals are zero to rounding: intervals of zero width are not evidence of certainty")
    if noise.known and noise.excess > np.median(noise.point) * 0.7:
        found.append("residuals exceed the standard errors: the law does not describe the points to within noise")
    return found


def _columns(law: Law, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The law's inputs as positive float64 (n,) arrays, or BadInput."""
    missing = [name for name in law.inputs if name not in inputs]
    if missing:
        raise BadInput(f"law '{law.name}' needs {', '.join(law.inputs)}; missing {missing}, given {sorted(inputs)}")
    columns = {name: np.atleast_1d(np.asarray(inputs[name], np.float64)) for name in law.inputs}
    for name, column in columns.items():
        if column.ndim != 1 or column.shape != columns[law.inputs[0]].shape:
            raise BadInput(f"input {name} has shape {column.shape}; every input is one number per point")
        _positive(name, column)
    return columns


def _positive(name: str, column: np.ndarray) -> None:
    bad = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
    if bad.size:
        raise BadInput(
            f"{name}[{bad[0]}] = {column[bad[0]]} ({bad.size} such): drop diverged or broken runs first; "
            "laws need finite, positive numbers"
        )


def _points(
    law: Law, columns: dict[str, np.ndarray], loss: Any, stderr: Any, weights: Any
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Checked losses, standard errors and weights (mean one), (n,) each."""
    n = columns[law.inputs[0]].size
    given = {"loss": loss, "stderr": stderr, "weights": weights}
    checked = {key: np.asarray(value, np.float64) for key, value in given.items() if value is not None}
    for name, column in checked.items():
        if column.shape != (n,):
            raise BadInput(f"{name} has shape {column.shape}, but there are {n} points")
        _positive(name, column)
    _enough(law, columns, n, stderr is not None)
    errors = checked.get("stderr")
    weight = checked.get("weights", np.ones(n) if errors is None else errors**-2.0 * checked["loss"] ** 2)
    return checked["loss"], errors, weight / weight.mean()


def _enough(law: Law, columns: dict[str, np.ndarray], n: int, known_noise: bool) -> None:
    p = len(law.parameters)
    for name, column in columns.items():
        if np.unique(column).size < 2:
            raise BadInput(f"all points have the same {name}; law '{law.name}' needs at least two")
    distinct = np.unique(np.stack(list(columns.values()), axis=1), axis=0).shape[0]
    if distinct < p:
        raise BadInput(
            f"law '{law.name}' has {p} parameters but there are {distinct} distinct points: train more "
            "sizes or fit a law with fewer parameters (power_law has 2)"
        )
    if n == p and not known_noise:
        raise BadInput(
            f"{n} points fit the {p} parameters of '{law.name}' exactly, so no error can be estimated: add a "
            "point, give standard errors (stderr=) or fit a law with fewer parameters"
        )
