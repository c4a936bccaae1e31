"""Compute-optimal size and data from IsoFLOP profiles (approach 2 of Hoffmann et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from harness.laws.base import positive
from harness.laws.fitting.fit import Fit, fit
from harness.laws.fitting.objective import Objective
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLaw
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from harness.laws.procedures.profiles import METHODS, Optimum, Profile, difference_noise, optima
from workloads.base import BadInput

LEVELS = 3  # optima needed for an exponent with an error


@PROCEDURES.register("isoflop")
@dataclass(frozen=True)
class IsoFlop(Procedure):
    """N* ~ C^a, D* ~ C^b from the sizes of lowest loss at fixed compute.  Hoffmann et al. 2022 (arXiv:2203.15556), approach 2.

    Columns: N parameters, loss, and C (FLOPs) or D (tokens); the one that is missing follows from C = flops_per N D. Rows
    whose C agree within `tolerance` are one IsoFLOP level. The optimum of a level is the minimum of log loss over log N, by
    Akima interpolation on a grid of `per_interval` points an interval (Porian et al. 2024, arXiv:2406.19146, appendix) and,
    beside it, by a parabola. Optima at the smallest or largest size are discarded. Seed noise is added to the losses
    Settings.bootstrap times; the spread of a level's optimum, at least `least_sd` of the distance between its sizes, weights
    the log-log line (its intervals also hold the scatter of the optima about it). "unweighted" is the plain line, with the
    spread that seed noise alone gives it.

    noise: standard deviation of the seed noise in units of loss; 0 takes the column stderr if there is one, else the scatter
    of repeated rows, else estimates it from differences of neighbouring sizes. repeats: several rows of one size and level
    are averaged ("mean": seeds) or the lowest is taken ("min": a sweep of hyperparameters). center: the optimum of a level is
    that of its losses ("minimum") or the median over the noisy draws ("median", as Porian et al.).
    reach: the parabola sees sizes within this factor of the lowest one; 0 is all of them.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "loss")
    optional: ClassVar[tuple[str, ...]] = ("C", "D", "stderr")

    noise: float = 0.0
    repeats: Literal["mean", "min"] = "mean"
    center: Literal["minimum", "median"] = "minimum"
    per_interval: int = 25
    least_sd: float = 1 / 3
    reach: float = 0.0
    tolerance: float = 0.05
    flops_per: float = 6.0

    def __post_init__(self) -> None:
        if self.repeats not in ("mean", "min"):
            raise BadInput(f"repeats='{self.repeats}' is unknown; use mean (seeds) or min (a sweep at each size)")
        if self.center not in ("minimum", "median"):
            raise BadInput(f"center='{self.center}' is unknown; use minimum or median")
        for name in ("noise", "least_sd", "reach", "tolerance"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise BadInput(f"{name}={getattr(self, name)} must be a finite number, at least 0")
        if self.per_interval < 2 or not self.flops_per > 0:
            raise BadInput("per_interval must be at least 2 and flops_per positive")

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        """Estimate from columns (n,) each. Raises BadInput where fewer than three levels have an optimum inside their sizes."""
        profiles, dropped = self._profiles(columns)
        noise, source = self._noise(profiles, columns)
        draws = settings.bootstrap
        found = {method: self._optima(method, profiles, noise, settings.seed, draws) for method in METHODS}
        inside = {method: [o for o in levels if not o.discarded] for method, levels in found.items()}
        _require_optima(profiles, found["akima"])
        fits: dict[str, Fit] = {}
        values: dict[str, Any] = {"noise": {"relative_sd": _typical(noise, profiles), "source": source}}
        warnings = list(_warnings(profiles, found, source))
        for method in METHODS:
            values[method] = {"levels": [o.to_json() for o in found[method]]}
            if len(inside[method]) < LEVELS:
                continue
            for quantity in ("N", "D"):
                fits[f"{method}_{quantity}"] = _weighted(inside[method], quantity, settings)
                values[method][quantity] = _exponent(fits[f"{method}_{quantity}"], inside[method], quantity)
        warnings += _disagreement(values)
        warnings += [
            f"{name}: {warning}" for name, found_fit in fits.items() if "_N" in name for warning in found_fit.warnings
        ]
        for profile, optimum in zip(profiles, found["akima"], strict=True):
            if optimum.discarded:
                dropped[optimum.discarded] = dropped.get(optimum.discarded, 0) + profile.rows
        return Estimate(
            procedure=self.name,
            n=sum(p.rows for p, o in zip(profiles, found["akima"], strict=True) if not o.discarded),
            values=values,
            tables=(_exponent_table(values), _level_table(found)),
            plots=(_profile_plot(profiles, found), _optimum_plot(inside, fits)),
            fits=fits,
            warnings=tuple(warnings),
            dropped=dropped,
        )

    def _profiles(self, columns: Mapping[str, np.ndarray]) -> tuple[list[Profile], dict[str, int]]:
        """The levels of at least three sizes, by rising compute, and reason -> rows left out."""
        size, loss = (positive(name, columns[name]) for name in ("N", "loss"))
        if "C" not in columns and "D" not in columns:
            raise BadInput("IsoFLOP levels need compute: map columns.C (FLOPs) or columns.D (tokens; C = 6 N D)")
        compute = positive("C", columns["C"]) if "C" in columns else self.flops_per * size * positive("D", columns["D"])
        data = positive("D", columns["D"]) if "D" in columns else compute / (self.flops_per * size)
        stderr = positive("stderr", columns["stderr"]) if "stderr" in columns else np.zeros_like(loss)
        found, dropped = [], {"an IsoFLOP level of fewer than 3 sizes": 0, "not the lowest of its size and level": 0}
        for rows in _levels(compute, self.tolerance):
            if np.unique(size[rows]).size < 3:
                dropped["an IsoFLOP level of fewer than 3 sizes"] += rows.size
                continue
            profile = Profile.of(
                float(np.median(compute[rows])), size[rows], data[rows], loss[rows], stderr[rows], self.repeats
            )
            dropped["not the lowest of its size and level"] += rows.size - profile.rows
            found.append(profile)
        if not found:
            raise BadInput(
                "no IsoFLOP level has three sizes: train at least three (better six) sizes at the same compute, or fit "
                f"law=chinchilla. Rows count as one level when their C agree within tolerance={self.tolerance:g}"
            )
        return found, {reason: rows for reason, rows in dropped.items() if rows}

    def _noise(self, profiles: Sequence[Profile], columns: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], str]:
        """Standard deviation of each loss, one array a profile, and where it is from."""
        if self.noise > 0:
            return [np.full(p.loss.size, self.noise) / np.sqrt(p.count) for p in profiles], "given: noise"
        if "stderr" in columns:
            return [p.stderr for p in profiles], "given: stderr"
        freedom = sum(p.scatter_dof for p in profiles)
        if freedom >= 5:
            relative = float(np.sqrt(sum(p.scatter for p in profiles) / freedom))
            return [relative * p.loss / np.sqrt(p.count) for p in profiles], "repeated rows"
        relative = difference_noise(profiles)
        return [relative * p.loss for p in profiles], "differences of neighbouring sizes"

    def _optima(
        self, method: str, profiles: Sequence[Profile], noise: Sequence[np.ndarray], seed: int, draws: int
    ) -> list[Optimum]:
        rng = np.random.default_rng(seed)
        return [
            optima(
                method, profile, spread, rng, draws,
                per_interval=self.per_interval, least_sd=self.least_sd, reach=self.reach, median=self.center == "median",
            )
            for profile, spread in zip(profiles, noise, strict=True)
        ]  # fmt: skip


def _levels(compute: np.ndarray, tolerance: float) -> Iterator[np.ndarray]:
    """Row indices of each level: a new one begins where sorted computes jump by more than `tolerance`."""
    order = np.argsort(compute, kind="stable")
    jumps = np.flatnonzero(np.diff(np.log(compute[order])) > np.log1p(tolerance)) + 1
    yield from np.split(order, jumps)


def _require_optima(profiles: Sequence[Profile], found: Sequence[Optimum]) -> None:
    inside = sum(not o.discarded for o in found)
    if inside >= LEVELS:
        return
    if inside == 0:
        low, high = (sum(word in o.discarded for o in found) for word in ("smallest", "largest"))
        where = f"at the smallest size in {low}, at the largest in {high} of {len(found)} levels"
        raise BadInput(f"the optimum lies on the edge of every IsoFLOP ({where}): train sizes beyond the edge")
    raise BadInput(
        f"only {inside} of {len(profiles)} IsoFLOP levels have an optimum inside their sizes; an exponent with an error needs "
        f"{LEVELS}: add levels, or sizes beyond the edges"
    )


def _weighted(inside: Sequence[Optimum], quantity: str, settings: Settings) -> Fit:
    """quantity* = k C^a, weighted by the spreads of the optima; seed noise and what the line misses widen the intervals."""
    optimum = np.array([o.value(quantity) for o in inside])
    return fit(
        PowerLaw(),
        {"N": np.array([o.compute for o in inside])},
        optimum,
        stderr=optimum * np.array([o.sd for o in inside]),
        weights=np.array([o.weight_sd for o in inside]) ** -2.0,
        objective=Objective("mse"),
        bootstrap=max(settings.bootstrap, 100),
        seed=settings.seed,
    )


def _exponent(found: Fit, inside: Sequence[Optimum], quantity: str) -> dict[str, Any]:
    """The weighted line's exponent with its intervals, and the unweighted line's with its spread under seed noise."""
    low, high = found.ci95["alpha"]
    log_c = np.log([o.compute for o in inside])
    slope, intercept = np.polyfit(log_c, np.log([o.value(quantity) for o in inside]), 1)
    draws = np.polyfit(log_c, np.stack([o.draws(quantity) for o in inside]), 1)[0]
    return {
        "exponent": -found.params["alpha"],
        "stderr": found.bootstrap_stderr["alpha"],
        "ci95": [-high, -low],
        "coefficient": found.params["A"],
        "unweighted": {
            "exponent": float(slope),
            "coefficient": float(np.exp(intercept)),
            "seed_sd": float(np.std(draws, ddof=1)),
            "seed_ci95": np.quantile(draws, [0.025, 0.975]).tolist(),
        },
    }


def _typical(noise: Sequence[np.ndarray], profiles: Sequence[Profile]) -> float:
    return float(np.median(np.concatenate([s / p.loss for s, p in zip(noise, profiles, strict=True)])))


def _warnings(profiles: Sequence[Profile], found: Mapping[str, Sequence[Optimum]], source: str) -> Iterator[str]:
    for method, levels in found.items():
        out = [o for o in levels if o.discarded]
        if out:
            where = "; ".join(f"{o.compute:.3g}: {o.discarded}" for o in out)
            yield f"{method}: {len(out)} of {len(levels)} levels discarded ({where})"
        if len(levels) - len(out) < LEVELS:
            yield f"{method}: only {len(levels) - len(out)} optima, so it has no exponent"
    if source.startswith("differences"):
        yield "seed noise is estimated from differences of neighbouring sizes: give noise= or a column stderr if you know it"
    few = sum(p.loss.size < 5 for p in profiles)
    if few:
        yield f"{few} of {len(profiles)} levels have fewer than 5 sizes: their optima depend on the interpolation"


def _disagreement(values: Mapping[str, Any]) -> list[str]:
    akima, parabola = (values[method].get("N") for method in METHODS)
    if akima is None or parabola is None:
        return []
    gap, spread = abs(akima["exponent"] - parabola["exponent"]), np.hypot(akima["stderr"], parabola["stderr"])
    if gap <= 2 * spread:
        return []
    return [
        f"Akima and parabola disagree on the exponent of N* by {gap:.3f}, {gap / spread:.1f} standard errors: the profiles "
        "are no parabolas over these sizes (see reach) or too coarse for Akima"
    ]


def _exponent_table(values: Mapping[str, Any]) -> Table:
    rows = []
    for method in METHODS:
        for quantity in ("N", "D"):
            if quantity in values[method]:
                e = values[method][quantity]
                rows.append((f"{quantity}* ~ C^", method, e["exponent"], *e["ci95"], e["unweighted"]["exponent"]))
    return Table("Exponents", ("law", "optima by", "exponent", "low", "high", "unweighted"), tuple(rows))


def _level_table(found: Mapping[str, Sequence[Optimum]]) -> Table:
    rows = tuple(
        (o.compute, method, *((o.N, o.D, o.loss, o.sd, "") if not o.discarded else ("", "", "", "", o.discarded)))
        for levels in zip(*found.values(), strict=True)
        for method, o in zip(found, levels, strict=True)
    )
    return Table("Optimum of each IsoFLOP level", ("C", "by", "N*", "D*", "loss", "sd of log N*", "discarded"), rows)


def _profile_plot(profiles: Sequence[Profile], found: Mapping[str, Sequence[Optimum]]) -> Plot:
    layers = []
    for profile, akima, parabola in zip(profiles, *(found[m] for m in METHODS), strict=True):
        label = f"{profile.compute:.3g} FLOPs"
        layers.append(Layer(label, profile.size, profile.loss))
        layers.append(Layer(f"{label}, Akima", akima.line[0], akima.line[1], kind="line"))
        layers.append(Layer(f"{label}, parabola", parabola.line[0], parabola.line[1], kind="line"))
    kept = [o for o in found["akima"] if not o.discarded]
    layers.append(Layer("optimum (Akima)", np.array([o.N for o in kept]), np.array([o.loss for o in kept])))
    caption = "Loss against size at fixed compute, with the Akima interpolant and the parabola through each level."
    return Plot("isoflop", "IsoFLOP profiles", "N", "loss", tuple(layers), caption=caption, alt=caption)


def _optimum_plot(inside: Mapping[str, Sequence[Optimum]], fits: Mapping[str, Fit]) -> Plot:
    layers = []
    for method, levels in inside.items():
        if f"{method}_N" not in fits:
            continue
        compute, size = np.array([o.compute for o in levels]), np.array([o.N for o in levels])
        spread = np.exp(1.96 * np.array([o.sd for o in levels]))
        line = np.geomspace(compute.min() / 2, compute.max() * 10, 40)
        drawn = fits[f"{method}_N"].predict({"N": line}, noise=0.0)
        layers.append(Layer(f"optimum ({method})", compute, size, size / spread, size * spread))
        layers.append(Layer(f"N* ~ C^a ({method})", line, drawn.mean, drawn.low, drawn.high, kind="line"))
    caption = (
        "Compute-optimal size against compute; bars are 95% of the seed noise, bands 95% of the line with its scatter."
    )
    return Plot("optimum", "Compute-optimal size", "FLOPs", "N*", tuple(layers), caption=caption, alt=caption)
