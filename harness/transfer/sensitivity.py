"""Learning-rate sensitivity: what a wrong learning rate costs, by width and intervention.

"Small-scale proxies for large-scale Transformer training instabilities" (Wortsman et al. 2023), sec. 2.2:
sensitivity = E over log-spaced learning rates of min(loss, loss at initialisation) - best loss.  The onset of the two
instabilities behind it is in harness.transfer.onset.  Intervals and verdicts: own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from harness.registry import nearest
from harness.transfer.exponent import Claim, Exponent, labels, positive_columns, require_one_length
from harness.transfer.plain import plain
from workloads.base import BadInput

SPACING = 0.15  # a learning-rate grid's steps may differ from their mean by this share (1, 3, 10 is a grid)
MARGIN = 0.10  # an intervention must take away more than this share of the baseline's sensitivity


@dataclass(frozen=True)
class Comparison:
    """Does an intervention lower the sensitivity?  Paired by seed, averaged over the widths that both have.

    ratio: sensitivity with / without it. difference: with - without, in units of loss, with its 95% t interval over
    seeds, (NaN, NaN) with one seed.
    """

    intervention: str
    baseline: str
    ratio: float
    difference: float
    ci95: tuple[float, float]
    verdict: Claim
    reason: str

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivities (I interventions, W widths, S seeds) in units of loss, NaN where a series is missing.

    learning_rates (L,) and widths (W,) ascend.
    """

    interventions: tuple[str, ...]
    widths: np.ndarray
    seeds: tuple[str, ...]
    learning_rates: np.ndarray
    per_seed: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(I, W): over the seeds that a series has."""
        count = np.sum(~np.isnan(self.per_seed), axis=2)
        return np.where(count > 0, np.nansum(self.per_seed, axis=2) / np.maximum(count, 1), np.nan)

    def intervals(self, level: float) -> np.ndarray:
        """(I, W, 2): t intervals of the mean over seeds, NaN with fewer than 2."""
        count = np.sum(~np.isnan(self.per_seed), axis=2)
        square = np.nansum((self.per_seed - self.mean[..., None]) ** 2, axis=2)
        enough = count >= 2
        error = np.sqrt(square / np.maximum(count - 1, 1) / np.maximum(count, 1))
        half = np.where(enough, stats.t.ppf(0.5 + level / 2, np.maximum(count - 1, 1)) * error, np.nan)
        return np.stack([self.mean - half, self.mean + half], axis=2)

    def growth(self, intervention: str) -> Exponent | None:
        """Change of the sensitivity per doubling of the width (a line through the widths' means), in units of loss.

        None for fewer than 3 widths. Its `interval` holds noise and lack of fit.
        """
        value = self.mean[self._position(intervention)]
        z = np.log2(self.widths[~np.isnan(value)])
        y = value[~np.isnan(value)]
        if z.size < 3:
            return None
        z = z - z.mean()
        slope = float(z @ y / (z @ z))
        residual = y - y.mean() - slope * z
        return Exponent(slope, float(np.sqrt(residual @ residual / (z.size - 2) / (z @ z))), z.size - 2)

    def compare(self, intervention: str, baseline: str) -> Comparison:
        """*supported*: the 95% interval of the difference lies below 0, by more than 10% of the baseline's sensitivity.
        *refuted*: the one-sided 95% bound shows a reduction of less than 10%, or none. Else *undecided*.
        """
        ours, theirs = self._paired(intervention, baseline)
        ratio, difference = float(ours.mean() / theirs.mean()), float(np.mean(ours - theirs))
        if ours.size < 2:
            words = "undecided", "Fewer than 2 seeds are shared; run more."
            return Comparison(intervention, baseline, ratio, difference, (np.nan, np.nan), *words)  # type: ignore[arg-type]
        ci95 = _t_interval(ours - theirs, 0.95)
        short = _t_interval(ours - (1 - MARGIN) * theirs, 0.90)[0]  # above 0: it takes away less than the margin
        verdict, reason = _reduction(ratio, ci95, short)
        return Comparison(intervention, baseline, ratio, difference, ci95, verdict, reason)

    def _paired(self, intervention: str, baseline: str) -> tuple[np.ndarray, np.ndarray]:
        """(seeds,) each: means over the widths at which both have every seed that both have anywhere."""
        ours, theirs = self.per_seed[self._position(intervention)], self.per_seed[self._position(baseline)]
        both = ~np.isnan(ours + theirs)
        seeds = both.any(0)
        widths = both[:, seeds].all(1)
        if not (seeds.any() and widths.any()):
            raise BadInput(
                f"'{intervention}' and '{baseline}' share no (width, seed); run both on the same seeds at the same widths"
            )
        return ours[widths][:, seeds].mean(0), theirs[widths][:, seeds].mean(0)

    def _position(self, intervention: str) -> int:
        if intervention not in self.interventions:
            raise BadInput(f"unknown intervention '{intervention}'. {nearest(intervention, self.interventions)}")
        return self.interventions.index(intervention)

    def to_json(self) -> dict[str, Any]:
        """Per intervention: sensitivity by width with 95% intervals over seeds, and its growth per doubling."""
        intervals = self.intervals(0.95)
        found = {}
        for i, name in enumerate(self.interventions):
            growth = self.growth(name)
            found[name] = {
                "sensitivity": plain(self.mean[i]),
                "sensitivity_ci95": plain(intervals[i]),
                "per_seed": plain(self.per_seed[i]),
                "growth_per_doubling": None if growth is None else growth.value,
                "growth_ci95": [None, None] if growth is None else plain(growth.interval(0.95)),
            }
        return {
            "widths": plain(self.widths),
            "learning_rates": plain(self.learning_rates),
            "seeds": list(self.seeds),
            "interventions": found,
        }


def learning_rate_sensitivity(
    width: Any, learning_rate: Any, loss: Any, init_loss: Any, seed: Any = None, intervention: Any = None
) -> Sensitivity:
    """Sensitivity of every (intervention, width, seed) from a table with one row a run, (T,) each.

    loss: final; a non-finite one is that of a diverged run and counts as init_loss, the loss at initialisation.
    seed, intervention: labels, None for one. The best loss is each series' own minimum. Sensitivities depend on
    the learning rates they average over, so all series must have the same ones, log-spaced.
    Raises BadInput on columns of different length, non-positive widths or learning rates, a non-finite init_loss,
    missing, repeated or unevenly spaced learning rates.
    """
    table = positive_columns(width=width, learning_rate=learning_rate)
    count = table["width"].size
    losses = {name: np.asarray(column, np.float64) for name, column in (("loss", loss), ("init_loss", init_loss))}
    names = {"seed": labels(seed, count, "0"), "intervention": labels(intervention, count, "none")}
    require_one_length(table | losses | names)
    if not np.all(np.isfinite(losses["init_loss"])):
        raise BadInput("init_loss holds a non-finite number; evaluate the loss of the untrained model for every run")
    rates = np.unique(np.round(np.log2(table["learning_rate"]), 9))
    _require_grid(rates)
    widths = np.unique(table["width"])
    labelled = {name: np.unique(column) for name, column in names.items()}
    position = (
        np.searchsorted(labelled["intervention"], names["intervention"]),
        np.searchsorted(widths, table["width"]),
        np.searchsorted(labelled["seed"], names["seed"]),
        np.searchsorted(rates, np.round(np.log2(table["learning_rate"]), 9)),
    )
    shape = (labelled["intervention"].size, widths.size, labelled["seed"].size, rates.size)
    occupied = np.zeros(shape, int)
    np.add.at(occupied, position, 1)
    _require_complete(occupied, labelled, widths, rates)
    capped = np.full(shape, np.nan)
    final = np.where(np.isfinite(losses["loss"]), losses["loss"], np.inf)
    capped[position] = np.minimum(final, losses["init_loss"])
    return Sensitivity(
        interventions=tuple(labelled["intervention"].tolist()),
        widths=widths,
        seeds=tuple(labelled["seed"].tolist()),
        learning_rates=2.0**rates,
        per_seed=capped.mean(3) - capped.min(3),
    )


def _require_grid(rates: np.ndarray) -> None:
    steps = np.diff(rates)
    if steps.size < 1:
        raise BadInput("there is one learning rate; a sensitivity needs a sweep, such as 1e-3, 3e-3, 1e-2")
    if np.any(np.abs(steps / steps.mean() - 1) > SPACING):
        raise BadInput(
            f"the learning rates {', '.join(f'{2.0**r:.3g}' for r in rates)} are not evenly spaced in the log; "
            f"keep those that are, the mean over them stands for a range"
        )


def _require_complete(
    occupied: np.ndarray, labelled: dict[str, np.ndarray], widths: np.ndarray, rates: np.ndarray
) -> None:
    present = occupied.any(3, keepdims=True)
    for bad, word in ((occupied > 1, "has several runs at"), (present & (occupied == 0), "has no run at")):
        if bad.any():
            i, w, s, r = np.argwhere(bad)[0]
            raise BadInput(
                f"width {widths[w]:g}, intervention {labelled['intervention'][i]}, seed {labelled['seed'][s]} {word} "
                f"learning rate {2.0 ** rates[r]:.3g} ({int(bad.sum())} such); give every series each learning rate once"
            )


def _t_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    half = stats.t.ppf(0.5 + level / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size)
    return float(values.mean() - half), float(values.mean() + half)


def _reduction(ratio: float, ci95: tuple[float, float], short: float) -> tuple[Claim, str]:
    shown = f"ratio {ratio:.3f}, difference 95% [{ci95[0]:+.4f}, {ci95[1]:+.4f}]"
    if ci95[1] < 0 and ratio < 1 - MARGIN:
        return "supported", f"The sensitivity is lower, by more than {MARGIN:.0%}: {shown}."
    if short > 0:
        return "refuted", f"The sensitivity is not lower by {MARGIN:.0%}: {shown}."
    return "undecided", f"The interval is too wide, run more seeds: {shown}."
