"""Loss curves under learning-rate schedules that nobody has run yet, and the schedule to run next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from harness.laws.annealing import Annealing
from harness.laws.base import LIMIT
from harness.laws.curves import CurveLaw, LearningRates, rates_of, stack, thin
from harness.laws.fitting.backtest import fit_subsets, folds_of, log_forecast
from harness.laws.fitting.fit import Fit, Prediction, checked, fit
from harness.laws.fitting.solver import predict
from harness.laws.multi_power import MultiPower
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from harness.laws.schedule_search import Found, Frame, final_features, search
from harness.registry import nearest
from workloads.base import BadInput

SIMPLE, FULL = Annealing.name, MultiPower.name
WORSE = 1.3  # times the simpler law's left-out error, above which the larger law is warned of
LOWEST = 1e-3  # of the highest rate: the default floor where fitted schedules go to zero
SHOWN = 200  # steps of a predicted curve that are written down
NAMED = "best found"

Band = tuple[np.ndarray, Prediction]  # steps (m,) and the losses there


class Curves(NamedTuple):
    """The table, taken apart. rows: the columns of curves that have a loss; loss: theirs, thinned. rates: every curve's.
    unseen: curves without any loss, with the steps of their rows. dropped: losses left out, by reason."""

    rows: dict[str, np.ndarray]
    loss: np.ndarray
    rates: dict[str, LearningRates]
    unseen: dict[str, np.ndarray]
    dropped: dict[str, int]

    @property
    def fitted(self) -> list[LearningRates]:
        return [rates for label, rates in self.rates.items() if label not in self.unseen]


@PROCEDURES.register("schedule")
@dataclass(frozen=True)
class Schedule(Procedure):
    """Whole curves of unseen schedules, which of them ends lowest, and the best schedule of all.

    columns: curve, step, lr (as used at that step), loss. Rows without a loss describe the schedule; a curve without any loss
    is an unseen schedule: its whole curve is predicted, with a band, and unseen schedules are ranked by final loss with paired
    intervals (the same refits for both). Two laws are fitted to whole curves, `annealing` (Tissue et al. 2024) and
    `multi_power` (Luo et al. 2025), and each curve is predicted from the others: multi_power is used only where its left-out
    error is not the larger one, and a warning says when it exceeds 1.3 times the simpler law's.  Own.
    The best schedule is searched under the law used, among those that never rise after a linear warmup.

    law: the law to use, instead of the recommended one. warmup: steps of linear warmup before each curve's first row, where
    no rows describe them. points: most losses of a curve that are fitted. steps, peak, floor: what the searched schedule must
    keep to; by default the longest fitted curve and the highest and lowest rate after warmup of the fitted
    curves (a thousandth of the highest at least).
    """

    columns: ClassVar[tuple[str, ...]] = ("curve", "step", "lr", "loss")
    text: ClassVar[tuple[str, ...]] = ("curve",)
    may_be_zero: ClassVar[tuple[str, ...]] = ("step", "lr")
    may_lack: ClassVar[tuple[str, ...]] = ("loss",)

    law: str = ""
    warmup: int | None = None
    points: int = 150
    steps: int | None = None
    peak: float | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.law and self.law not in (SIMPLE, FULL):
            raise BadInput(f"options.law='{self.law}' is no law of schedules. {nearest(self.law, (SIMPLE, FULL))}")
        if self.points < 5:
            raise BadInput(f"options.points={self.points}: fit at least 5 losses of each curve (default 150)")

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        curves = take_apart(columns, self.warmup, self.points)
        frame = self._frame(curves)
        fits = {law.name: self._fit(law, curves, settings) for law in (Annealing(self.warmup), MultiPower(self.warmup))}
        backtest = compare(fits, curves, self.warmup)
        model = Model(fits[self.law or backtest["recommended"]])
        bands = model.curves({label: (curves.rates[label], steps) for label, steps in curves.unseen.items()})
        ranking = model.rank({label: curves.rates[label].lr for label in curves.unseen})
        found = search(model.law, model.fit.theta, frame)
        against = model.rank({**frame.shapes(), NAMED: found.per_step})
        values = {
            "law": model.law.name,
            "backtest": backtest,
            "predicted": {label: _curve_json(*band) for label, band in bands.items()},
            "ranking": ranking,
            "best_schedule": _best_json(frame, found, against),
        }
        return Estimate(
            procedure=self.name,
            n=int(np.count_nonzero(~np.isnan(curves.loss))),
            values=values,
            tables=_tables(backtest, ranking, against),
            plots=(*_curve_plots(curves, bands), _schedule_plot(frame, found)),
            fits=fits,
            warnings=(
                *_law_warnings(model, backtest),
                *_reach_warnings(curves, frame, found),
                *_gain_warnings(against, backtest["mean"][model.law.name]),
            ),
            dropped=curves.dropped,
        )

    def _fit(self, law: CurveLaw, curves: Curves, settings: Settings) -> Fit:
        with np.errstate(over="ignore"):  # a parameter that three curves leave open spreads beyond float64
            return fit(law, curves.rows, curves.loss, bootstrap=settings.bootstrap, seed=settings.seed)

    def _frame(self, curves: Curves) -> Frame:
        """The searched schedule's frame, from the options and the fitted curves. Its warmup is the longest fitted one."""
        after = np.concatenate([rates.lr[rates.warmup_end :] for rates in curves.fitted])
        return Frame(
            steps=self.steps or max(rates.lr.size - 1 for rates in curves.fitted),
            warmup=max(rates.warmup_end for rates in curves.fitted),
            peak=self.peak or float(after.max()),
            floor=self.floor or max(float(after.min()), float(after.max()) * LOWEST),
        )


@dataclass(frozen=True)
class Model:
    """A fitted law of curves as a predictor of schedules."""

    fit: Fit

    @property
    def law(self) -> CurveLaw:
        assert isinstance(self.fit.law, CurveLaw)
        return self.fit.law

    def curves(self, schedules: Mapping[str, tuple[LearningRates, np.ndarray]]) -> dict[str, Band]:
        """Of each schedule at most SHOWN of its steps after the warmup, and the losses there with 95% bands of new runs."""
        if not schedules:
            return {}
        shown = {}
        for label, (rates, steps) in schedules.items():
            after = steps[steps >= max(rates.warmup_end, 1)]
            shown[label] = after[np.unique(np.linspace(0, after.size - 1, SHOWN).round().astype(int))]
        features = [self.law.rows_of(schedules[label][0], steps) for label, steps in shown.items()]
        ends = np.cumsum([steps.size for steps in shown.values()])
        center, refits = self._values(stack(features, np.arange(ends[-1])))
        noise = np.random.default_rng(0).normal(size=refits.shape) * self.fit.refits.inflation[:, None]
        low, high = _basic(center, refits - noise * self.fit.noise.new_point(None))
        parts = zip(*(np.split(np.exp(value), ends[:-1]) for value in (center, low, high)), strict=True)
        return {label: (steps, Prediction(*part)) for (label, steps), part in zip(shown.items(), parts, strict=True)}

    def rank(self, schedules: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Schedules (rates of steps 0 to T) from the lowest predicted final loss up.

        excess: log loss above that of the first; its interval is paired, the same refit for both, and without the noise of a
        new run. decided: whether the interval excludes zero.
        """
        if not schedules:
            return []
        names = list(schedules)
        center, refits = self._values(stack(final_features(self.law, list(schedules.values())), np.arange(len(names))))
        order = np.argsort(center, kind="stable")
        low, high = _basic(center, refits)
        first = order[0]
        less, more = _basic(center - center[first], refits - refits[:, [first]])
        return [
            {
                "schedule": names[i],
                "steps": int(schedules[names[i]].size - 1),
                "final_loss": float(np.exp(center[i])),
                "ci95": [float(np.exp(low[i])), float(np.exp(high[i]))],
                "excess": float(center[i] - center[first]),
                "excess_ci95": [float(less[i]), float(more[i])],
                "decided": bool(less[i] > 0),
            }
            for i in order
        ]

    def _values(self, features: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Log losses (m,) of the fit and (B, m) of its refits."""
        theta = np.concatenate([self.fit.theta[None], self.fit.refits.theta])
        value = predict(self.law, self.fit.loss, features, theta)
        value = value if self.fit.loss.space == "log" else np.log(value)
        return value[0], np.clip(value[1:], -LIMIT, LIMIT)


def _basic(center: np.ndarray, refits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% basic bootstrap interval: the centre minus quantiles of the refits' deviations."""
    low, high = center - np.nanquantile(refits - center, [0.975, 0.025], axis=0)
    return np.clip(low, -LIMIT, LIMIT), np.clip(high, -LIMIT, LIMIT)


def take_apart(columns: Mapping[str, np.ndarray], warmup: int | None, points: int) -> Curves:
    """Fitted curves and unseen schedules. Raises BadInput where a curve has no full schedule, or nothing can be learned."""
    loss = np.array(columns["loss"], np.float64)
    rates, unseen, early = {}, {}, 0
    described = {name: np.asarray(columns[name]) for name in ("curve", "step", "lr")}
    for label, rows, curve in rates_of(described, warmup):
        rates[label] = curve
        step = described["step"][rows].astype(np.int64)
        if np.isnan(loss[rows]).all():
            unseen[label] = step
        outside = rows[(step < max(curve.warmup_end, 1)) & ~np.isnan(loss[rows])]
        loss[outside] = np.nan
        early += outside.size
    seen = ~np.isin(described["curve"].astype(str), list(unseen))
    kept = {name: column[seen] for name, column in described.items()}
    thinned = thin(kept, loss[seen], points)
    left = int(np.count_nonzero(~np.isnan(loss)) - np.count_nonzero(~np.isnan(thinned)))
    reasons = {"losses before the end of the warmup": early, f"losses beyond {points} of a curve": left}
    found = Curves(kept, thinned, rates, unseen, {reason: count for reason, count in reasons.items() if count})
    _check_variety(found)
    return found


def _check_variety(curves: Curves) -> None:
    if len(curves.fitted) < 3:
        raise BadInput(
            f"{len(curves.fitted)} curve(s) have losses; three are the least of which each can be predicted from the others: "
            "add runs of other schedules (a constant rate, a cosine and a sudden drop tell most)"
        )
    if not any(np.any(rates.change < 0) for rates in curves.fitted):
        raise BadInput(
            "no fitted curve lowers its learning rate after warmup, so nothing tells what annealing gains: add a run that "
            "does, or check columns.lr"
        )


def compare(fits: Mapping[str, Fit], curves: Curves, warmup: int | None) -> dict[str, Any]:
    """Each law's error on each curve, predicted from the others, and the law that this recommends.

    {"left_out": {curve: {law: rms of log(predicted / observed)}}, "mean": {law: number}, "ratio", "recommended"}. Profiled
    constants are chosen anew without the curve.
    """
    each = {SIMPLE: _left_out(Annealing(warmup), fits[SIMPLE], curves)}
    folds = fits[FULL].backtest["folds"]
    each[FULL] = {fold["left_out"]: abs(fold["error"][FULL]) for fold in folds}
    mean = {name: float(np.mean(list(errors.values()))) for name, errors in each.items()}
    return {
        "left_out": {label: {name: each[name][label] for name in each} for label in each[SIMPLE]},
        "mean": mean,
        "ratio": mean[FULL] / max(mean[SIMPLE], 1e-300),
        "recommended": FULL if mean[FULL] <= mean[SIMPLE] else SIMPLE,
    }


def _left_out(law: CurveLaw, fitted: Fit, curves: Curves) -> dict[str, float]:
    points = checked(law, curves.rows, curves.loss)
    folds = folds_of(law, points.columns)
    masks = [np.ones(points.loss.size, bool), *(fold.train for fold in folds)]  # as in `fit`: one program for both
    given = (fitted.loss, points.features, points.loss, points.weight, masks)
    found = [(form, fit_subsets(form, *given)) for form in law.variants()]
    chosen = np.argmin([solution.objective[1:].min(axis=1) for _, solution in found], axis=0)
    forecast = np.stack([log_forecast(form, fitted.loss, points.features, s.best()[1:]) for form, s in found])
    missed = forecast[chosen, np.arange(len(folds))] - np.log(points.loss)
    return {
        fold.name["left_out"]: float(np.sqrt(np.mean(row[fold.test] ** 2)))
        for fold, row in zip(folds, missed, strict=True)
    }


def _law_warnings(model: Model, backtest: Mapping[str, Any]) -> list[str]:
    found = []
    used, ratio, recommended = model.law.name, backtest["ratio"], backtest["recommended"]
    if ratio > WORSE:
        found.append(
            f"multi_power (7 parameters) misses left-out curves {ratio:.2f} times as far as annealing (4 parameters): the "
            f"simpler law is recommended"
        )
    if used != recommended:
        found.append(f"law={used} was asked for, but {recommended} predicts left-out curves better")
    loose = (*model.fit.identifiable.loose, *model.fit.identifiable.bounds_hit)
    if loose:
        found.append(
            f"these curves do not determine {', '.join(loose)} of {used}: schedules unlike the fitted ones are predicted by "
            "chance; add runs that decay at other times, speeds and depths"
        )
    return found


def _reach_warnings(curves: Curves, frame: Frame, found: Found) -> list[str]:
    """Where predictions leave the range of the fitted curves."""
    after = np.concatenate([rates.lr[rates.warmup_end :] for rates in curves.fitted])
    longest = max(rates.lr.size - 1 for rates in curves.fitted)
    warnings = []
    asked = {label: curves.rates[label].lr[curves.rates[label].warmup_end :] for label in curves.unseen}
    asked[NAMED] = found.lr
    ends = {label: curves.rates[label].lr.size - 1 for label in curves.unseen} | {NAMED: frame.steps}
    for label, lr in asked.items():
        beyond = []
        if lr.max() > after.max() * (1 + 1e-6):
            beyond.append(
                f"rates up to {lr.max():.3g} (fitted up to {after.max():.3g}; too high a rate diverges, not here)"
            )
        if lr.min() < after.min() * (1 - 1e-6):
            beyond.append(f"rates down to {lr.min():.3g} (fitted down to {after.min():.3g})")
        if ends[label] > longest:
            beyond.append(f"{ends[label]} steps (fitted up to {longest})")
        if beyond:
            warnings.append(f"{label} is extrapolated: {'; '.join(beyond)}")
    return warnings


def _gain_warnings(against: list[dict[str, Any]], left_out: float) -> list[str]:
    first, second = against[0], against[1]
    if first["schedule"] == NAMED and second["excess"] < left_out:
        return [
            f"the {NAMED} gains {second['excess']:.2%} over '{second['schedule']}' under the law, less than the law misses "
            f"left-out curves by ({left_out:.2%}): run both before believing it"
        ]
    return []


def _curve_json(steps: np.ndarray, band: Prediction) -> dict[str, list[float]]:
    return {
        "step": steps.tolist(),
        "loss": band.mean.tolist(),
        "low": band.low.tolist(),
        "high": band.high.tolist(),
    }


def _best_json(frame: Frame, found: Found, against: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "steps": frame.steps,
        "warmup": frame.warmup,
        "peak": frame.peak,
        "floor": frame.floor,
        "knots": {"step": found.knots.tolist(), "lr": found.lr.tolist()},
        "stable_share": found.stable,
        "against": against,
    }


def _tables(
    backtest: Mapping[str, Any], ranking: list[dict[str, Any]], against: list[dict[str, Any]]
) -> tuple[Table, ...]:
    left = [(label, *(errors[name] for name in (SIMPLE, FULL))) for label, errors in backtest["left_out"].items()]
    rows = (*left, ("mean", *(backtest["mean"][name] for name in (SIMPLE, FULL))))
    tables = [
        Table("Each curve predicted from the others: rms of log(predicted / observed)", ("curve", SIMPLE, FULL), rows)
    ]
    header = ("schedule", "steps", "final loss", "95%", "excess (log)", "95% paired")
    for title, entries in (("Unseen schedules", ranking), ("The best schedule found, and the usual ones", against)):
        if entries:
            tables.append(Table(title, header, tuple(_ranked(entry) for entry in entries)))
    return tuple(tables)


def _ranked(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    def pair(values: list[float]) -> str:
        return f"{values[0]:.4g} to {values[1]:.4g}"

    final, excess = entry["ci95"], entry["excess_ci95"]
    return entry["schedule"], entry["steps"], entry["final_loss"], pair(final), entry["excess"], pair(excess)


def _curve_plots(curves: Curves, bands: Mapping[str, Band]) -> tuple[Plot, ...]:
    label_of, step = curves.rows["curve"].astype(str), np.asarray(curves.rows["step"], np.float64)
    seen = ~np.isnan(curves.loss)
    layers = [
        Layer(str(label), step[seen & (label_of == label)], curves.loss[seen & (label_of == label)])
        for label in np.unique(label_of)
    ]
    for label, (steps, band) in bands.items():
        layers.append(Layer(f"{label}, predicted", steps, band.mean, band.low, band.high, kind="line"))
    plot = Plot(
        name="curves",
        title="Loss curves: fitted points and predicted schedules",
        x_label="step",
        y_label="loss",
        layers=tuple(layers),
        log_x=False,
        caption="Bands hold a newly observed loss with 95%.",
        alt=f"{len(np.unique(label_of))} fitted curves and {len(bands)} predicted ones.",
    )
    return (plot,)


def _schedule_plot(frame: Frame, found: Found) -> Plot:
    shapes = {name: lr for name, lr in frame.shapes().items() if name in ("cosine", "wsd exponential 20%")}
    warm = np.concatenate([[0], found.knots]) if frame.warmup else found.knots
    layers = [Layer(name, warm, lr[warm], kind="line") for name, lr in {NAMED: found.per_step, **shapes}.items()]
    return Plot(
        name="best_schedule",
        title="The best schedule under the law",
        x_label="step",
        y_label="learning rate",
        layers=tuple(layers),
        log_x=False,
        caption="Among schedules that never rise after a linear warmup, between the floor and the peak.",
        alt=f"The schedule stays within 5% of its peak for {found.stable:.0%} of the steps after warmup, then decays.",
    )
