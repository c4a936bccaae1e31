"""Pass rates far below one in a thousand, and what they will be at a larger size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.laws.base import positive
from harness.laws.fitting.fit import Fit, fit
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict, solve
from harness.laws.pass_rate import PassRate
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

LAW = PassRate()
LINEAR = Objective("mse", space="linear")
REWEIGHTINGS = 6  # of the likelihood fit, each a weighted least squares to convergence
TINY = 1e-9  # pass rates are kept this far from 0 and 1 in weights
FEWEST = 8  # instances below which resampling them says too little


@dataclass(frozen=True)
class Counts:
    """sizes (S,); passes, tries (I, S), 0 tries where an instance was not sampled at a size."""

    sizes: np.ndarray
    passes: np.ndarray
    tries: np.ndarray


@PROCEDURES.register("pass_until")
@dataclass(frozen=True)
class PassUntil(Procedure):
    """Average pass rate at a larger size, from repeated sampling: exp(-c N^-a) of each instance, then their mean.

    columns: N, instance (label), tries, passes: an instance is sampled until `until` passes or until the budget of tries is
    spent. Its pass rate is estimated without bias as (until - 1) / (tries - 1) where the passes were reached (Haldane 1945;
    Hu et al. 2023, arXiv:2310.03262) and as passes / tries where the budget ended first (Girshick, Mosteller & Savage
    1946). Instances are fitted by maximum likelihood of their counts, the same for both ways of stopping, so tries without
    a pass count. Those passed at fewer than two sizes are fitted together as one; where even that is not possible they
    count as 0, which the values and a warning say. Beside it the law fitted to the averages of the unbiased estimates.
    Intervals: instances resampled (they hold for other instances of the task; for the very same ones they are wide).
    target: the size to predict, ten times the largest by default.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "instance", "tries", "passes")
    text: ClassVar[tuple[str, ...]] = ("instance",)
    may_be_zero: ClassVar[tuple[str, ...]] = ("passes",)

    until: int = 2
    target: float | None = None

    def __post_init__(self) -> None:
        if self.until < 2:
            raise BadInput(f"until={self.until}: the estimate (until - 1) / (tries - 1) takes at least 2 passes")

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        counts = tabulate(columns, self.until)
        target = 10 * float(counts.sizes.max()) if self.target is None else self.target
        if not target > 0:
            raise BadInput(f"target={target} must be a positive size in the unit of N")
        shown = np.append(counts.sizes, target)
        groups = pooled(counts)
        share = groups.sum(1) / counts.passes.shape[0]
        theta = likelihood_fit(groups @ counts.passes, groups @ counts.tries, counts.sizes)
        rates = predict(LAW, LINEAR, {"N": shown}, theta)
        mean = share @ rates
        times = _resampled(counts.passes.shape[0], settings)
        low, high = np.quantile(_means(times, groups, rates, theta, counts, shown), [0.025, 0.975], axis=0)
        estimate = unbiased(counts.passes, counts.tries, self.until)
        tried = np.sum(counts.tries > 0, axis=0)
        average = np.nanmean(estimate, axis=0)
        spread = np.nanstd(estimate, axis=0, ddof=1) / np.sqrt(tried)
        whole = _averages_fit(counts.sizes, average, spread, settings)
        values = {
            "target": target,
            "pass_rate": float(mean[-1]),
            "ci95": [float(low[-1]), float(high[-1])],
            "of_averages": _ahead(whole, target),
            "instances": int(counts.passes.shape[0]),
            "pooled": int(groups.sum(1).max()) if groups.sum(1).max() > 1 else 0,
            "never_passed": int(np.sum(counts.passes.sum(1) == 0)),
            "counted_as_zero": int(np.sum(groups.sum(0) == 0)),
            "sizes": _by_size(counts, average, spread, mean),
        }
        return Estimate(
            self.name,
            int(np.sum(counts.tries > 0)),
            values,
            (_table(values),),
            (_plot(counts.sizes, average, spread, shown, mean, low, high),),
            {} if whole is None else {"averages": whole},
            tuple(_warnings(values, whole)),
        )


def unbiased(passes: np.ndarray, tries: np.ndarray, until: int) -> np.ndarray:
    """(until - 1) / (tries - 1) where `until` passes were reached, else passes / tries; NaN without tries."""
    stopped = (until - 1) / np.maximum(tries - 1.0, 1.0)
    spent = np.where(tries > 0, passes / np.maximum(tries, 1.0), np.nan)
    return np.where(passes >= until, stopped, spent)


def tabulate(columns: Mapping[str, np.ndarray], until: int) -> Counts:
    """Counts by instance and size. Raises BadInput on impossible counts, repeated rows, or too few sizes."""
    size, label = positive("N", columns["N"]), np.asarray(columns["instance"]).astype(str)
    tries, passes = positive("tries", columns["tries"]), np.asarray(columns["passes"], np.float64)
    if not np.all((passes >= 0) & (passes <= tries)) or np.any(passes % 1) or np.any(tries % 1):
        raise BadInput("passes and tries must be whole numbers with 0 <= passes <= tries")
    if np.max(passes) > until:
        raise BadInput(
            f"some rows have {np.max(passes):g} passes, more than until={until}: set until to where sampling stops"
        )
    sizes, at = np.unique(size, return_inverse=True)
    names, who = np.unique(label, return_inverse=True)
    if sizes.size < 3:
        raise BadInput(f"{sizes.size} sizes: a pass-rate law and its error take at least 3")
    if names.size < FEWEST:
        raise BadInput(
            f"{names.size} instances cannot say how instances differ ({FEWEST} are needed): fit the law pass_rate to their "
            "estimated pass rates instead"
        )
    if np.unique(who * sizes.size + at).size < who.size:
        raise BadInput("an instance has several rows at one N: add up their tries and passes first, or rename them")
    table = np.zeros((2, names.size, sizes.size))
    table[:, who, at] = passes, tries
    if np.any(table[1].sum(0) == 0) or not np.any(np.sum(table[0] > 0, axis=1) >= 2):
        raise BadInput("no instance was passed at two sizes: sample more often (a larger budget) or use larger models")
    return Counts(sizes, table[0], table[1])


def pooled(counts: Counts) -> np.ndarray:
    """(G, I) membership: an instance passed at two sizes is its own group, the rest share the last one.

    The rest belong to none where even their sums were passed at fewer than two sizes.
    """
    own = np.sum(counts.passes > 0, axis=1) >= 2
    groups = np.eye(own.size)[own]
    rest = (~own).astype(float)
    together = np.sum(rest @ counts.passes > 0) >= 2
    return np.vstack([groups, rest[None]]) if together else groups


def likelihood_fit(
    passes: np.ndarray, tries: np.ndarray, sizes: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """theta (F, 2) maximising the likelihood of counts (F, S): least squares reweighted by tries / (rate (1 - rate)).

    The score of this likelihood, sum (passes - tries rate) / (rate (1 - rate)) d rate, has mean zero for any rule of
    stopping (Wald's identity), so no correction for the rule is needed.
    """
    observed = passes / np.maximum(tries, 1)
    if start is None:
        smooth = (passes + 0.5) / (tries + 1)
        start = np.stack(
            [LAW.start_points({"N": sizes[n > 0]}, r[n > 0])[0] for r, n in zip(smooth, tries, strict=True)]
        )
    theta = start
    for _ in range(REWEIGHTINGS):
        rate = np.clip(predict(LAW, LINEAR, {"N": sizes}, theta), TINY, 1 - TINY)
        weight = tries / (rate * (1 - rate))
        weight /= np.maximum(weight.max(axis=1, keepdims=True), 1e-300)
        theta = solve(LAW, LINEAR, {"N": sizes}, observed, weight, theta[:, None], iterations=60, tolerance=1e-6).theta[
            :, 0
        ]
    return theta


def _resampled(instances: int, settings: Settings) -> np.ndarray:
    """(B, I) how often each instance is drawn."""
    rng = np.random.default_rng(settings.seed)
    return rng.multinomial(instances, np.full(instances, 1 / instances), size=settings.bootstrap)


def _means(
    times: np.ndarray,
    groups: np.ndarray,
    rates: np.ndarray,
    theta: np.ndarray,
    counts: Counts,
    shown: np.ndarray,
) -> np.ndarray:
    """(B, len(shown)) average rates over resampled instances; a group of several is fitted again to those drawn."""
    members = groups.sum(1)
    alone = np.einsum("bi,gi,gs->bs", times, groups[members == 1], rates[members == 1])
    for group, start in zip(groups[members > 1], theta[members > 1], strict=True):
        drawn = times * group
        again = likelihood_fit(
            drawn @ counts.passes, drawn @ counts.tries, counts.sizes, np.tile(start, (drawn.shape[0], 1))
        )
        alone = alone + drawn.sum(1, keepdims=True) * predict(LAW, LINEAR, {"N": shown}, again)
    return alone / times.sum(1, keepdims=True)


def _averages_fit(sizes: np.ndarray, average: np.ndarray, spread: np.ndarray, settings: Settings) -> Fit | None:
    """The law of the averages; None where fewer than three sizes have a pass (an average of 0 has no logarithm)."""
    seen = (average > 0) & (average < 1) & (spread > 0)
    if seen.sum() < 3:
        return None
    options: dict[str, Any] = {"bootstrap": settings.bootstrap, "seed": settings.seed}
    return fit(LAW, {"N": sizes[seen]}, average[seen], stderr=spread[seen], **options)


def _ahead(whole: Fit | None, target: float) -> dict[str, Any] | None:
    if whole is None:
        return None
    ahead = whole.predict({"N": np.array([target])}, noise=0.0)
    return {"pass_rate": float(ahead.mean[0]), "ci95": [float(ahead.low[0]), float(min(ahead.high[0], 1.0))]}


def _by_size(counts: Counts, average: np.ndarray, spread: np.ndarray, mean: np.ndarray) -> list[dict[str, Any]]:
    without = np.sum((counts.passes == 0) & (counts.tries > 0), axis=0)
    rows = zip(counts.sizes, average, spread, mean[:-1], without, strict=True)
    return [
        {"N": float(n), "estimate": float(e), "stderr": float(s), "law": float(m), "without_pass": int(w)}
        for n, e, s, m, w in rows
    ]


def _warnings(values: Mapping[str, Any], whole: Fit | None) -> list[str]:
    found = []
    if values["counted_as_zero"]:
        found.append(
            f"{values['counted_as_zero']} of {values['instances']} instances were passed at fewer than two sizes even "
            "together and count as 0: the prediction is a lower bound; sample them more often"
        )
    if values["pooled"]:
        found.append(f"{values['pooled']} instances with passes at fewer than two sizes were fitted together as one")
    if whole is None:
        found.append(
            "fewer than 3 sizes have an average pass rate above 0: no law of the averages beside the instances'"
        )
    return found


def _table(values: Mapping[str, Any]) -> Table:
    header = ("N", "average estimate", "standard error", "law", "instances without a pass")
    rows = [tuple(row[k] for k in ("N", "estimate", "stderr", "law", "without_pass")) for row in values["sizes"]]
    return Table("Average pass rate", header, (*rows, (values["target"], None, None, values["pass_rate"], None)))


def _plot(
    sizes: np.ndarray,
    average: np.ndarray,
    spread: np.ndarray,
    shown: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> Plot:
    seen = average > 0
    floor = np.maximum(average - 1.96 * spread, 0.1 * average)
    points = Layer("unbiased estimate", sizes[seen], average[seen], floor[seen], (average + 1.96 * spread)[seen])
    layers = (points, Layer("mean of the instances' laws", shown, mean, low, high, "line"))
    text = f"At N = {shown[-1]:.3g} the law says {mean[-1]:.3g} (95% {low[-1]:.3g} to {high[-1]:.3g})."
    return Plot("pass_rate", "Average pass rate", "N", "pass rate", layers, caption=text, alt=text)
