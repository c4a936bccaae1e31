"""Is a sharp jump of a metric in the model or in the metric?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import stats

from harness.laws.base import positive
from harness.laws.fitting.fit import Fit, Prediction, fit
from harness.laws.fitting.objective import Objective
from harness.laws.pass_rate import PassRate
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from harness.laws.procedures.sup_f import sup_f
from workloads.base import BadInput

REJECTED = 0.01  # p-value below which smoothness, or the metric as its explanation, is refuted
DOUBTFUL = 0.05  # p-value below which neither is claimed
RISE = 5.0  # standard errors by which the nonlinear metric must rise for there to be a jump
WIDE = 0.5  # half-width of the predicted metric, as a share of its rise, above which nothing is decided


@PROCEDURES.register("mirage")
@dataclass(frozen=True)
class Mirage(Procedure):
    """Whether a smooth law of a linear metric, put through the nonlinear one, explains the nonlinear metric's jump.

    columns: N, linear (probability or accuracy per token), nonlinear (exact match of the whole answer), samples (test items
    behind each nonlinear value), of the same runs. Answers have `length` tokens (option, or column length), so that
    nonlinear = linear^length where tokens are independent (Schaeffer et al. 2023, arXiv:2304.15004, section 2). The law of
    the linear metric is exp(-c N^-a), as theirs. supported: it has no break (largest F over all steps in
    log(-log linear), p-value by simulation) and, put through the metric, it agrees with the nonlinear values (chi-squared
    with binomial and prediction errors). refuted: either is rejected at 1%. undecided: neither, or no rise, or no power.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "linear", "nonlinear", "samples")
    optional: ClassVar[tuple[str, ...]] = ("length",)
    may_be_zero: ClassVar[tuple[str, ...]] = ("linear", "nonlinear")

    length: float | None = None

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        table = self._checked(columns)
        size, linear, nonlinear, samples, length = (table[k] for k in ("N", "linear", "nonlinear", "samples", "length"))
        tokens = samples * length
        share = (linear * tokens + 0.5) / (tokens + 1)
        stderr = np.sqrt(share * (1 - share) / tokens)
        options: dict[str, Any] = {
            "bootstrap": settings.bootstrap,
            "seed": settings.seed,
            "objective": Objective("mse"),
        }
        found = fit(PassRate(), {"N": size}, linear, stderr=stderr, **options)
        band = found.predict({"N": size}, seed=settings.seed)
        mean, low, high = (np.clip(v, 0, 1) ** length for v in band)
        binomial = np.sqrt(np.maximum(mean * (1 - mean), 1 / samples) / samples)
        error = np.hypot((high - low) / (2 * 1.96), binomial)
        chi2 = float(np.sum(((nonlinear - mean) / error) ** 2))
        fits_metric = float(stats.chi2.sf(chi2, size.size))
        smooth, place = break_test(
            np.log(size), np.log(-np.log(linear)), -np.log(linear) * linear / stderr, settings.seed
        )
        rise = float(nonlinear.max() - nonlinear.min())
        evidence = {
            "p_smooth": smooth,
            "break_at": float(size[place]),
            "p_metric": fits_metric,
            "chi2": chi2,
            "rise": rise,
            "rise_in_errors": rise / float(binomial.max()),
            "half_width": float(np.max(high - low) / 2),
            "covered": float(np.mean(np.abs(nonlinear - mean) <= 1.96 * error)),
            "effective_length": effective_length(linear, nonlinear),
            "length": float(length.mean()),
            "emergence_linear": emergence(size, linear),
            "emergence_nonlinear": emergence(size, nonlinear),
        }
        verdict, reason = decide(evidence)
        rows = tuple(zip(*(v.tolist() for v in (size, linear, nonlinear, mean, low, high)), strict=True))
        header = ("N", "linear", "nonlinear", "predicted nonlinear", "low", "high")
        return Estimate(
            self.name,
            size.size,
            {"verdict": verdict, "reason": reason, "evidence": evidence},
            (Table("The jump through the metric", header, rows),),
            (
                _plot("linear", size, linear, band, found, reason),
                _jump(size, nonlinear, samples, found, length, reason),
            ),
            {"linear": found},
            found.warnings,
        )

    def _checked(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        size, samples = positive("N", columns["N"]), positive("samples", columns["samples"])
        shares = {name: np.asarray(columns[name], np.float64) for name in ("linear", "nonlinear")}
        for name, share in shares.items():
            if not np.all(np.isfinite(share) & (share >= 0) & (share <= 1)):
                raise BadInput(f"{name} must be a share between 0 and 1: divide percents by 100 and drop broken runs")
        if not np.all((shares["linear"] > 0) & (shares["linear"] < 1)):
            raise BadInput("linear is 0 or 1 in some runs: measure the mean probability per token, or on more tokens")
        if self.length is None and "length" not in columns:
            raise BadInput("the metric needs the tokens of an answer: length=NUMBER or columns.length=COLUMN")
        if np.unique(size).size < 7:
            raise BadInput(f"{np.unique(size).size} sizes cannot show a break: give at least 7")
        given = np.full_like(size, self.length) if self.length is not None else columns["length"]
        length = positive("length", given)
        if np.min(length) < 1 or np.max(length) <= 1:
            raise BadInput("length must be at least 1 and above 1 somewhere: with one token both metrics are the same")
        order = np.argsort(size, kind="stable")
        every = {"N": size, **shares, "samples": samples, "length": length}
        return {name: column[order] for name, column in every.items()}


def decide(evidence: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict and its reason in one sentence, from the evidence alone."""
    if evidence["rise_in_errors"] < RISE:
        return (
            "undecided",
            "The nonlinear metric does not rise beyond its sampling error, so there is no jump to explain.",
        )
    if evidence["p_smooth"] < REJECTED:
        return "refuted", (
            f"The linear metric itself breaks at N = {evidence['break_at']:.3g} (p = {evidence['p_smooth']:.2g}): "
            "the jump is not only the metric's."
        )
    if evidence["half_width"] > WIDE * evidence["rise"]:
        return (
            "undecided",
            "The linear metric is too noisy to say what the nonlinear one should be: add seeds or tokens.",
        )
    if evidence["p_metric"] < REJECTED:
        return "refuted", (
            f"The smooth linear metric to the power {evidence['length']:g} misses the nonlinear one "
            f"(p = {evidence['p_metric']:.2g}; a power of {evidence['effective_length']:.3g} would fit best)."
        )
    if min(evidence["p_smooth"], evidence["p_metric"]) < DOUBTFUL:
        return "undecided", "Neither smoothness nor a break is clear: add sizes, seeds or test items."
    return "supported", (
        "The linear metric follows a smooth law, and that law put through the metric gives the nonlinear values."
    )


def break_test(x: np.ndarray, y: np.ndarray, precision: np.ndarray, seed: int) -> tuple[float, int]:
    """(p-value, row) of the largest F of a step added to the line of y on x, (n,) ordered by x; at least 2 rows a side.

    precision: one over the standard errors of y, up to a common factor.
    """
    steps = [i for i in range(2, x.size - 1) if x[i] > x[i - 1]]
    shapes = np.stack([precision * (np.arange(x.size) >= i) for i in steps])
    null = np.stack([np.ones_like(x), x - x.mean()], axis=1) * precision[:, None]
    p, at = sup_f(null, shapes, precision * y, seed)
    return p, steps[at]


def effective_length(linear: np.ndarray, nonlinear: np.ndarray) -> float | None:
    """The power of the linear metric that is nearest to the nonlinear one: least squares through 0 in logarithms."""
    seen = nonlinear > 0
    if not seen.any():
        return None
    x, y = np.log(linear[seen]), np.log(nonlinear[seen])
    return float(np.sum(x * y) / np.sum(x**2))


def emergence(size: np.ndarray, metric: np.ndarray) -> float:
    """Signed range over the root of the median squared step between sizes (Schaeffer et al. 2023)."""
    value = np.array([metric[size == n].mean() for n in np.unique(size)])
    sign = np.sign(value.argmax() - value.argmin())
    return float(sign * np.ptp(value) / np.sqrt(max(float(np.median(np.diff(value) ** 2)), 1e-24)))


def _plot(name: str, size: np.ndarray, metric: np.ndarray, band: Prediction, found: Fit, reason: str) -> Plot:
    layers = (Layer("runs", size, metric), Layer("smooth law", size, band.mean, band.low, band.high, "line"))
    alt = f"The linear metric and exp(-c N^-a) with a = {found.params['a']:.3g}."
    return Plot(f"mirage_{name}", "The linear metric", "N", name, layers, None, True, False, reason, alt)


def _jump(
    size: np.ndarray, nonlinear: np.ndarray, samples: np.ndarray, found: Fit, length: np.ndarray, reason: str
) -> Plot:
    half = 1.96 * np.sqrt(np.maximum(nonlinear * (1 - nonlinear), 1 / samples) / samples)
    mean, low, high = (np.clip(v, 0, 1) ** length for v in found.predict({"N": size}, noise=0.0))
    points = Layer("runs", size, nonlinear, np.maximum(nonlinear - half, 0), np.minimum(nonlinear + half, 1))
    layers = (points, Layer("smooth law through the metric", size, mean, low, high, "line"))
    alt = "The nonlinear metric beside the smooth law put through it."
    return Plot("mirage_jump", "The nonlinear metric", "N", "nonlinear", layers, None, True, False, reason, alt)
