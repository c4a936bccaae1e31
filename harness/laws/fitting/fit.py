"""Fit one law to one table of points: parameters, error bars, what is not identifiable, and predictions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from harness.laws.base import Law, positive
from harness.laws.fitting.backtest import (
    SCREENED,
    Fold,
    errors,
    fit_all,
    fit_subsets,
    folds_of,
    line_forecast,
    log_forecast,
)
from harness.laws.fitting.diagnostics import Identifiable, identify
from harness.laws.fitting.likelihood import information
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.profile import profile
from harness.laws.fitting.resampling import Fitted, Refits, resample
from harness.laws.fitting.residuals import describe
from harness.laws.fitting.solver import Solution, predict
from harness.laws.fitting.uncertainty import Noise, estimate_noise, internal_stderr, sandwich
from workloads.base import BadInput


class Prediction(NamedTuple):
    """Losses (m,) at new inputs with a prediction interval for a newly observed mean."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted law. `params`, `stderr` (sandwich) and `ci95` are in natural units, keyed by parameter name.

    ci95 are percentiles of the refits, bootstrap_stderr their standard deviations. objective: the minimised sum.
    losses: the (n,) fitted values. information: AIC and BIC under a stated likelihood. profile: profile-likelihood
    intervals where asked for. variants: objective of each profiled form. warnings: what a reader must know first.
    """

    law: Law
    loss: Objective
    n: int
    objective: float
    params: dict[str, float]
    stderr: dict[str, float]
    ci95: dict[str, tuple[float, float]]
    bootstrap_stderr: dict[str, float]
    identifiable: Identifiable
    backtest: dict[str, Any]
    residuals: dict[str, Any]
    information: dict[str, Any]
    profile: dict[str, Any]
    variants: dict[str, float]
    starts: dict[str, Any]
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
        of a refit). Parametric refits see noise with Student-t tails of the estimate's dof, so it is exact for linear
        laws, and directions in which parameters trade off without moving the prediction do not widen it.
        Raises BadInput on missing or non-positive inputs.
        """
        if not 0 < level < 1:
            raise BadInput(f"level={level} must lie between 0 and 1, e.g. 0.95")
        if noise is not None and not (np.isfinite(noise) and noise >= 0):
            raise BadInput(f"noise={noise} must be a finite standard error in units of loss, or None")
        features = self.law.features(columns_of(self.law, inputs))
        center = predict(self.law, self.loss, features, self.theta[None])[0]
        deviation = predict(self.law, self.loss, features, self.refits.theta) - center
        mean = self.loss.invert(center)
        scale = mean if self.loss.space == "log" else np.ones_like(mean)
        new = np.array([self.noise.new_point(None if noise is None else noise / s) for s in scale])
        draw = np.random.default_rng([seed, 1]).normal(size=deviation.shape) * self.refits.inflation[:, None]
        tail = (1 - level) / 2
        low, high = center + np.nanquantile(draw * new - deviation, [tail, 1 - tail], axis=0)
        return Prediction(mean, self.loss.invert(low), self.loss.invert(high))

    def mean(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """The fitted law (m,) at new `inputs`, without an interval. Raises BadInput as `predict`."""
        features = self.law.features(columns_of(self.law, inputs))
        return self.loss.invert(predict(self.law, self.loss, features, self.theta[None])[0])

    def without_refits(self) -> Fit:
        """The same fit as if certain (two refits that agree): what follows from it costs next to nothing."""
        alone = replace(self.refits, theta=np.stack([self.theta] * 2), inflation=np.ones(2))
        return replace(self, refits=alone)

    def interval(self, value: np.ndarray, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of any quantity computed from `natural_refits`, (B,)."""
        tail = (1 - level) / 2
        low, high = np.nanquantile(value, [tail, 1 - tail])
        return float(low), float(high)

    def natural_refits(self) -> dict[str, np.ndarray]:
        """Each parameter of the refits, (B,), in natural units."""
        return dict(zip(self.law.parameters, self.law.natural(self.refits.theta).T, strict=True))

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
            "bootstrap": {**self.refits.to_json(), "stderr": dict(self.bootstrap_stderr)},
            "residuals": self.residuals,
            "information": self.information,
            "profile": self.profile,
            "variants": self.variants,
            "starts": self.starts,
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
    cluster: Any = None,
    objective: Objective | None = None,
    bootstrap: int = 1000,
    kind: str = "auto",
    profiled: Iterable[str] = (),
    seed: int = 0,
) -> Fit:
    """Fit `law` to n points.

    inputs: column name -> (n,); loss: (n,), the law's response, positive and finite (drop diverged runs first; for a law of
    whole curves NaN marks rows that only describe the schedule).
    stderr: (n,) standard errors of the losses in units of loss (e.g. sd over seeds / sqrt(seeds)), estimated with
    `stderr_dof` degrees of freedom; they weight the points by stderr^-2 unless `weights` (n,) are given.
    cluster: (n,) labels of points that are not independent. bootstrap, kind: refits behind ci95 and prediction intervals
    (see fitting.resampling). profiled: parameters to profile. Weights are scaled to a mean of one.
    Raises BadInput where no honest number exists: unknown or missing columns, non-finite or non-positive values, one
    size only, fewer distinct points than parameters, or no degree of freedom left to estimate noise from.
    """
    started = time.perf_counter()
    objective = objective or law.objective
    if not stderr_dof > 0:
        raise BadInput(f"stderr_dof={stderr_dof} must be positive (seeds - 1 where each point has its own error)")
    if bootstrap < 100:
        raise BadInput(f"bootstrap={bootstrap} is too few for 95% intervals; use at least 100 (default 1000)")
    points = checked(law, inputs, loss, stderr, weights, cluster, objective.space)
    log_stderr = points.stderr
    if log_stderr is not None and objective.space == "log":
        log_stderr = log_stderr / points.loss
    folds = folds_of(law, points.columns)
    law, solution, rolled, variants = _best_variant(law, objective, points, folds)
    theta = solution.best()[0]
    features = points.features_of(law)
    fitted = predict(law, objective, features, theta[None])[0]
    target = objective.transform(points.loss)
    noise = estimate_noise(target - fitted, points.weight, theta.size, log_stderr, stderr_dof)
    jac, covariance = internal_stderr(law, objective, features, theta, noise)
    base = Fitted(law, objective, features, target, points.weight, theta, noise)
    clusters = points.columns["curve"] if points.cluster is None and law.whole_curves else points.cluster
    refits = resample(base, kind, clusters, bootstrap, seed)
    described, patterns = describe(target - fitted, points.order(law), points.columns.get("curve"))
    spread = sandwich(jac, fitted - target, points.weight, objective)
    warnings = [*_warnings(solution, refits, noise, points.loss, theta), *patterns]
    return Fit(
        law=law,
        loss=objective,
        n=points.loss.size,
        objective=float(solution.objective[0].min()),
        params=_named(law, law.natural(theta)),
        stderr=_natural_stderr(law, theta, spread),
        ci95=_percentiles(law, refits),
        bootstrap_stderr=_named(law, np.nanstd(law.natural(refits.theta), axis=0, ddof=1)),
        identifiable=identify(law, theta, jac, covariance, solution, warnings),
        backtest=_backtest(law, rolled, objective, points, folds),
        residuals=described,
        information=information(objective, fitted - target, points.weight, theta.size + (len(variants) > 1)),
        profile=profile(base, profiled, np.sqrt(np.clip(np.diag(spread), 0, None))),
        variants=variants,
        starts=_starts(solution, law.start_points(features, points.loss).shape[0]),
        seconds=time.perf_counter() - started,
        losses=objective.invert(fitted),
        noise=noise,
        theta=theta,
        refits=refits,
    )


@dataclass(frozen=True)
class Points:
    """Checked points. columns, loss, stderr, weight (mean one), cluster: (n,); features: what the law reads.

    rows: all rows, also those that only describe a schedule; seen: which of them are points.
    """

    columns: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    loss: np.ndarray
    stderr: np.ndarray | None
    weight: np.ndarray
    cluster: np.ndarray | None
    rows: dict[str, np.ndarray]
    seen: np.ndarray

    def features_of(self, law: Law) -> dict[str, np.ndarray]:
        """What another law (a variant, a simpler one) reads of the same points."""
        found = law.features({name: self.rows[name] for name in law.inputs})
        return {name: value[self.seen] for name, value in found.items()}

    def order(self, law: Law) -> np.ndarray:
        """What neighbouring points are neighbours in: the size, or the step of a curve."""
        return np.asarray(self.columns["step" if law.whole_curves else law.inputs[0]], np.float64)


def checked(
    law: Law,
    inputs: Mapping[str, Any],
    loss: Any,
    stderr: Any = None,
    weights: Any = None,
    cluster: Any = None,
    space: str = "log",
) -> Points:
    """The points that `law` can be fitted to, or BadInput saying why there is no honest number."""
    columns = columns_of(law, inputs)
    n = columns[law.inputs[0]].shape[0]
    given = {"loss": loss, "stderr": stderr, "weights": weights}
    numbers = {key: np.asarray(value, np.float64) for key, value in given.items() if value is not None}
    labels = None if cluster is None else np.asarray(cluster)
    for name, column in {**numbers, **({} if labels is None else {"cluster": labels})}.items():
        if column.shape != (n,):
            raise BadInput(f"{name} has shape {column.shape}, but there are {n} points")
    features = law.features(columns)
    rows, seen = columns, np.ones(n, bool)
    if law.whole_curves:
        seen = ~np.isnan(numbers["loss"])
        columns, features, numbers = ({k: v[seen] for k, v in d.items()} for d in (columns, features, numbers))
        labels = None if labels is None else labels[seen]
    for name, column in numbers.items():
        positive(law.response if name == "loss" else name, column)
    observed, spread = numbers["loss"], numbers.get("stderr")
    _enough(law, columns, observed.size, spread is not None)
    scale = observed if space == "log" else np.ones_like(observed)
    weight = numbers.get("weights", np.ones_like(observed) if spread is None else (scale / spread) ** 2)
    return Points(columns, features, observed, spread, weight / weight.mean(), labels, rows, seen)


def columns_of(law: Law, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The law's input columns as arrays (n,), or BadInput."""
    missing = [name for name in law.inputs if name not in inputs]
    if missing:
        raise BadInput(f"law '{law.name}' needs {', '.join(law.inputs)}; missing {missing}, given {sorted(inputs)}")
    columns = {name: np.atleast_1d(np.asarray(inputs[name])) for name in law.inputs}
    for name, column in columns.items():
        if column.ndim != 1 or column.shape != columns[law.inputs[0]].shape:
            raise BadInput(f"input {name} has shape {column.shape}; every input is one number per point")
    return columns


class _Fitted(NamedTuple):
    """One form: its fits to all points from every start, and for each fold its objective (F,) and forecast (F, n)."""

    law: Law
    whole: Solution
    fold_objective: np.ndarray
    forecast: np.ndarray


def _fit_form(law: Law, objective: Objective, points: Points, folds: Sequence[Fold]) -> _Fitted:
    """A law of few starts is fitted to everything and to the folds in one call, which compiles once."""
    features = points.features_of(law)
    given = (law, objective, features, points.loss, points.weight)
    masks = [fold.train for fold in folds]
    if law.start_points(features, points.loss).shape[0] > SCREENED:
        whole = fit_all(*given)
        rolled = fit_subsets(*given, masks) if folds else Solution(*(column[:0] for column in whole))
    else:
        both = fit_subsets(*given, [np.ones(points.loss.size, bool), *masks])
        whole, rolled = (Solution(*(column[part] for column in both)) for part in (slice(0, 1), slice(1, None)))
    empty = np.zeros((0, points.loss.size))
    forecast = log_forecast(law, objective, features, rolled.best()) if folds else empty
    return _Fitted(law, whole, rolled.objective.min(axis=1), forecast)


def _best_variant(
    law: Law, objective: Objective, points: Points, folds: Sequence[Fold]
) -> tuple[Law, Solution, np.ndarray, dict[str, float]]:
    """The variant of lowest objective on all points, its fits, the law's forecasts of the folds, all objectives.

    Each fold takes its own best variant: what it holds out must not choose.
    """
    found = [_fit_form(form, objective, points, folds) for form in law.variants()]
    values = [float(one.whole.objective[0].min()) for one in found]
    winner = np.argmin([one.fold_objective for one in found], axis=0)
    forecast = np.array([found[form].forecast[row] for row, form in enumerate(winner)])
    best = found[int(np.argmin(values))]
    names = {repr(one.law): value for one, value in zip(found, values, strict=True)}
    return best.law, best.whole, forecast, names if len(found) > 1 else {}


def _backtest(
    law: Law, forecast: np.ndarray, objective: Objective, points: Points, folds: Sequence[Fold]
) -> dict[str, Any]:
    """The law's errors on the folds beside those of its simpler laws and, for one size, of a straight line."""
    if not folds:
        return errors((), {}, points.loss)
    forecasts = {law.name: forecast}
    for other in law.simpler_laws():
        forecasts[other.name] = _best_variant(other, objective, points, folds)[2]
    if len(law.inputs) == 1 and law.extrapolates == "up":
        forecasts["straight_line"] = line_forecast(points.order(law), points.loss, folds)
    return errors(folds, forecasts, points.loss)


def _starts(solution: Solution, tried: int) -> dict[str, Any]:
    """count: starts tried; finished: those followed to the end; of these, how many converged, and at the lowest objective."""
    values = solution.objective[0]
    best = float(values.min())
    reached = values <= best * (1 + 1e-6) + 1e-24
    ended = {"converged": int(solution.converged[0].sum()), "at_best": int(reached.sum())}
    return {"count": tried, "finished": int(values.size), **ended}


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
    if refits.kind == "jackknife":
        found.append(
            f"only {refits.groups} clusters: intervals are a jackknife's with Student-t tails, wide and approximate"
        )
        if refits.groups <= theta.size:
            found.append("fewer clusters than parameters + 1: some directions of the parameters look too certain")
    if loss.size == theta.size:
        found.append("as many points as parameters: the law cannot be checked, noise is the given standard errors")
    if not noise.known and np.max(noise.point) < 1e-9:
        found.append("the residuals are zero to rounding: intervals of zero width are not evidence of certainty")
    if noise.known and noise.excess > np.median(noise.point) * 0.7:
        found.append("residuals exceed the standard errors: the law does not describe the points to within noise")
    return found


def _enough(law: Law, columns: dict[str, np.ndarray], n: int, known_noise: bool) -> None:
    p = len(law.parameters)
    if not law.whole_curves:
        for name, column in columns.items():
            if np.unique(column).size < 2 and name not in law.may_be_constant:
                raise BadInput(f"all points have the same {name}; law '{law.name}' needs at least two")
    rows = list(zip(*(column.tolist() for column in columns.values()), strict=True))
    distinct = len(set(rows))
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
