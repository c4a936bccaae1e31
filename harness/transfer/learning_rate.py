"""Does the best learning rate found at one scale hold at the others?  A verdict with its evidence.  Own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.transfer.basin import Remedy, Trials, mean_curve
from harness.transfer.drift import Drift, drift_line
from harness.transfer.local_model import LocalModel, fit_local_model
from harness.transfer.plain import plain
from harness.transfer.regret import Regret, base_regret
from workloads.base import BadInput

BOUND = 0.15  # equivalence bound of the drift exponent: 16x in scale moves the best learning rate by at most 1.5x
_MOST_SEEDS = 8  # times as many are practical to run where the drift may turn out to lie at the bound
Verdict = Literal["transfers", "does_not_transfer", "undecided"]


@dataclass(frozen=True)
class SeedNoise:
    """Relative standard deviations of the loss at the best learning rate (NaN where one seed cannot tell).

    seed: of one seed's loss, all causes. paired: what is left of it when scales are compared on the same seeds.
    residual: between learning rates within a seed and scale (the joint model's sigma).
    dof: degrees of freedom of `paired` (what a fit of `loss_at_best` wants as stderr_dof); 0 with one seed.
    """

    seed: float
    paired: float
    residual: float
    dof: int


@dataclass(frozen=True)
class Transfer:
    """Result of `learning_rate_transfer`; arrays have one entry a scale (W), NaN where a scale has no optimum.

    best_lr, best_lr_ci95 (W, 2), akima_lr: learning rates. loss_at_best: mean over seeds at the best learning rate,
    with its standard error over seeds, and the one that applies between scales that share their seeds.
    base_lr_regret: relative excess loss.
    mean_curves: scale -> (learning rates, mean losses) of what did not diverge.
    notes: scale -> why it was left out and what to run; remedies: scale -> the same in a word.
    seeds_factor: how many times the seeds would decide; NaN where seeds would not, or none are needed.
    """

    scales: np.ndarray
    base_scale: float
    best_lr: np.ndarray
    best_lr_ci95: np.ndarray
    akima_lr: np.ndarray
    drift: Drift | None
    regret: Regret
    loss_at_best: np.ndarray
    loss_at_best_stderr: np.ndarray
    loss_at_best_stderr_paired: np.ndarray
    noise: SeedNoise
    order: int
    dof: int
    diverged: np.ndarray
    mean_curves: dict[float, tuple[np.ndarray, np.ndarray]]
    notes: dict[float, str]
    remedies: dict[float, Remedy]
    verdict: Verdict
    reason: str
    seeds_factor: float

    def best_lr_at(self, scale: float) -> float:
        """Learning rate on the fitted drift line at any `scale`; raises BadInput if there is no line."""
        if self.drift is None:
            raise BadInput(f"no best learning rate can be predicted at {scale:g}: {self.reason}")
        return float(2 ** (self.drift.intercept + self.drift.exponent * np.log2(scale / self.base_scale)))

    def to_json(self) -> dict[str, Any]:
        """DESIGN.md's transfer.json entry and more; undefined numbers are null, an infinite regret is "inf"."""
        nothing = [None, None]
        return {
            "widths": self.scales.tolist(),
            "best_lr": plain(self.best_lr),
            "best_lr_ci95": plain(self.best_lr_ci95),
            "drift_exponent": self.drift.exponent if self.drift else None,
            "drift_ci95": list(self.drift.interval(0.95)) if self.drift else nothing,
            "base_lr_regret": plain(self.regret.value),
            "verdict": self.verdict,
            "drift_ci90": list(self.drift.interval(0.90)) if self.drift else nothing,
            "reason": self.reason,
            "base_width": self.base_scale,
            "akima_lr": plain(self.akima_lr),
            "base_lr_regret_ci95": plain(self.regret.ci95),
            "regret_cross_fitted": self.regret.cross_fitted,
            "loss_at_best": plain(self.loss_at_best),
            "loss_at_best_stderr": plain(self.loss_at_best_stderr),
            "loss_at_best_stderr_paired": plain(self.loss_at_best_stderr_paired),
            "noise": {key: plain(np.array(value)) for key, value in vars(self.noise).items()},
            "polynomial_order": self.order,
            "dof": self.dof,
            "diverged": self.diverged.tolist(),
            "notes": {f"{scale:g}": note for scale, note in self.notes.items()},
        }


def learning_rate_transfer(
    scale: Any, learning_rate: Any, loss: Any, seed: Any, diverged: Any, *, base_scale: float
) -> Transfer:
    """Best learning rate per scale, its drift with scale, and what the base scale's one costs elsewhere.

    One entry a trial, (T,): scale (width, depth, batch size, duration; positive), learning_rate (positive), loss
    (positive; not read where diverged), seed (any labels), diverged (bool). base_scale: one of the scales.
    The verdict is *transfers* only if the 90% interval of the drift exponent lies inside [-0.15, 0.15];
    *does_not_transfer* only if the 95% interval excludes 0 and |drift| > 0.15; else *undecided*. It is undecided too
    if an extreme scale or all but two scales lack an optimum. `reason` says why, and what to run next.
    Raises BadInput on arrays of different length, non-positive numbers, or an absent base scale.
    """
    table = _table(scale, learning_rate, loss, seed, diverged)
    scales = np.unique(table["scale"])
    if base_scale not in scales:
        raise BadInput(f"base_scale={base_scale:g} has no trials; choose one of {', '.join(f'{s:g}' for s in scales)}")
    sweep = [_trials(table, s) for s in scales]
    model = fit_local_model(sweep)
    drift = drift_line(np.log2(scales[model.index] / base_scale), model)
    verdict, reason, factor = _verdict(scales, model, drift)
    intervals = model.intervals(0.95, drift.scatter if drift else np.nan)
    noise, stderr, paired = _seed_noise(model)
    level = np.array([np.exp(values.mean()) for values in model.at_best])

    def spread(values: np.ndarray) -> np.ndarray:
        """Values of the scales with an optimum, NaN at the others."""
        out = np.full((scales.size, *values.shape[1:]), np.nan)
        out[model.index] = values
        return out

    return Transfer(
        scales=scales,
        base_scale=float(base_scale),
        best_lr=spread(2.0**model.best),
        best_lr_ci95=spread(2.0**intervals),
        akima_lr=spread(2.0**model.akima),
        drift=drift,
        regret=base_regret(sweep, model, int(np.flatnonzero(scales == base_scale)[0])),
        loss_at_best=spread(level),
        loss_at_best_stderr=spread(level * stderr),
        loss_at_best_stderr_paired=spread(level * paired),
        noise=noise,
        order=model.order,
        dof=model.dof,
        diverged=np.array([int(t.diverged.sum()) for t in sweep]),
        mean_curves={float(s): _mean_curve(t) for s, t in zip(scales, sweep, strict=True)},
        notes={float(scales[i]): note for i, (note, _) in sorted(model.notes.items())},
        remedies={float(scales[i]): remedy for i, (_, remedy) in sorted(model.notes.items())},
        verdict=verdict,
        reason=reason,
        seeds_factor=factor,
    )


def _mean_curve(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    x, y = mean_curve(trials.usable())
    return 2.0**x, np.exp(y)


def _table(scale: Any, learning_rate: Any, loss: Any, seed: Any, diverged: Any) -> dict[str, np.ndarray]:
    table = {
        "scale": np.asarray(scale, np.float64),
        "learning_rate": np.asarray(learning_rate, np.float64),
        "loss": np.asarray(loss, np.float64),
        "seed": np.asarray(seed),
        "diverged": np.asarray(diverged, bool),
    }
    for name, column in table.items():
        if column.ndim != 1 or column.shape != table["scale"].shape or column.size == 0:
            raise BadInput(f"{name} has shape {column.shape}, scale {table['scale'].shape}; give one entry a trial")
    for name in ("scale", "learning_rate", "loss"):
        checked = table[name][~table["diverged"]] if name == "loss" else table[name]
        bad = checked[~(np.isfinite(checked) & (checked > 0))]
        if bad.size:
            raise BadInput(
                f"{name} holds {bad[0]} ({bad.size} such); it must be finite and positive (mark trials "
                "without a loss as diverged)"
            )
    return table


def _trials(table: dict[str, np.ndarray], scale: float) -> Trials:
    rows = {name: column[table["scale"] == scale] for name, column in table.items()}
    y = np.log(np.where(rows["diverged"], 1.0, rows["loss"]))
    x = np.round(np.log2(rows["learning_rate"]), 9)  # equal learning rates that differ by rounding are equal
    return Trials(x, np.where(rows["diverged"], np.nan, y), rows["seed"], rows["diverged"])


def _verdict(scales: np.ndarray, model: LocalModel, drift: Drift | None) -> tuple[Verdict, str, float]:
    """The verdict, why, and how many times the seeds would decide (NaN: none)."""
    edges = [i for i in (0, scales.size - 1) if i in model.notes]
    if edges:
        return "undecided", f"At scale {scales[edges[0]]:g}: {model.notes[edges[0]][0]}.", np.nan
    if drift is None:
        missing = "; ".join(f"at scale {scales[i]:g}: {note}" for i, (note, _) in model.notes.items())
        return (
            "undecided",
            f"Fewer than 3 scales show an optimum; add scales{f' ({missing})' if missing else ''}.",
            np.nan,
        )
    (low90, high90), (low95, high95) = drift.interval(0.90), drift.interval(0.95)
    shown = f"drift {drift.exponent:+.3f}, 90% [{low90:+.3f}, {high90:+.3f}], 95% [{low95:+.3f}, {high95:+.3f}]"
    if low90 > -BOUND and high90 < BOUND:
        return "transfers", f"The 90% interval lies inside +-{BOUND}: {shown}.", np.nan
    if (low95 > 0 or high95 < 0) and abs(drift.exponent) > BOUND:
        return "does_not_transfer", f"The 95% interval excludes 0 and the drift exceeds {BOUND}: {shown}.", np.nan
    gap = abs(BOUND - abs(drift.exponent))
    factor = (0.5 * (high90 - low90) / max(gap, 1e-9)) ** 2  # of the seeds, to bring the interval clear of the bound
    if factor > _MOST_SEEDS and gap < BOUND / 3:
        why = (
            f"The drift lies at the bound {BOUND}, where no practical number of seeds decides; read base_lr_regret "
            "instead or widen the range of scales"
        )
        return "undecided", f"{why}: {shown}.", np.nan
    times = float(np.ceil(max(factor, 1.5)))
    why = f"The interval is too wide; run about {times:.0f}x the seeds or a wider range of scales"
    return "undecided", f"{why}: {shown}.", times


def _seed_noise(model: LocalModel) -> tuple[SeedNoise, np.ndarray, np.ndarray]:
    """Noise levels, and relative standard errors (G,) of the mean at best: over fresh seeds, and between scales.

    With one seed they are NaN: fit such losses without standard errors. Variances between seeds are pooled over
    scales; the paired one is the scale x seed interaction where every scale has the same number of seeds. Neither
    standard error falls below what the joint model's own error implies.
    """
    own = np.sqrt(model.at_best_variance)
    counts = np.array([v.size for v in model.at_best])
    if counts.size == 0 or counts.max() < 2:
        return SeedNoise(np.nan, np.nan, model.sigma, 0), np.full(own.size, np.nan), np.full(own.size, np.nan)
    centered = [v - v.mean() for v in model.at_best]
    total = np.sum([c @ c for c in centered]) / np.sum(counts - 1)
    within, dof = np.nan, int(np.sum(counts - 1))
    if np.all(counts == counts[0]) and counts.size > 1:
        table = np.stack(centered)
        left = table - table.mean(0)
        dof = (counts.size - 1) * int(counts[0] - 1)
        within = np.sum(left**2) / dof
    paired = np.sqrt((total if np.isnan(within) else within) / counts)
    noise = SeedNoise(float(np.sqrt(total)), float(np.sqrt(within)), model.sigma, dof)
    return noise, np.maximum(np.sqrt(total / counts), own), np.maximum(paired, own)
