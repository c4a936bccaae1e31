"""Choice and average of several forecasters from their backtest errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FLOOR = 1e-6  # relative errors below it are rounding
MARGIN = 0.1  # errors that differ by less are the same


class Combination(NamedTuple):
    """error (L,): weighted mean over the backtests of each forecaster's rms error. choice: index. weight (L,), sum 1."""

    error: np.ndarray
    choice: int
    weight: np.ndarray


def combine(missed: Sequence[np.ndarray], weight: np.ndarray, parameters: np.ndarray) -> Combination:
    """missed: per backtest, the log errors (L, points). weight: of the backtests, (K,). parameters: of the forecasters, (L,).

    Choice: the fewest parameters among the forecasters within MARGIN of the lowest error. An rms error of at most a dozen
    backtests is itself uncertain by 1 / sqrt(2 x 12) = 20% or more, so half of that is no evidence for a parameter, whose
    variance grows with the distance of the forecast. (The one-standard-error rule of Breiman et al. 1984 allows more,
    and on simulated learning curves its forecasts were worse by a tenth.)

    Average by the Gaussian likelihood of the held-out errors at the best forecaster's variance v, w = exp(-K' v_i / 2 v), with
    K' = sum(weight) / max(weight) (exponential weights, Yang 2004; pseudo-BMA, Yao et al. 2018).
    """
    error = np.stack([np.sqrt(np.mean(m**2, axis=1)) for m in missed], axis=1)
    share = weight / weight.sum()
    mean = error @ share
    close = np.flatnonzero(mean <= (1 + MARGIN) * mean.min() + FLOOR)
    choice = int(close[np.lexsort((mean[close], parameters[close]))[0]])
    variance = np.maximum(error**2 @ share, FLOOR**2)
    log_weight = -0.5 * weight.sum() / weight.max() * (variance / variance.min() - 1.0)
    average = np.exp(log_weight)
    return Combination(mean, choice, average / average.sum())


def prequential(missed: Sequence[np.ndarray], weight: np.ndarray, parameters: np.ndarray) -> dict[str, float]:
    """Error of the choice and of the average at each backtest when only earlier ones decided them (Dawid 1984).

    {"choice", "average"}: weighted means over the backtests after the first, or over the only one. Judging either on the
    backtests that made it would favour whichever adapts more.
    """
    errors = {"choice": 0.0, "average": 0.0}
    if len(missed) == 1:
        alone = float(combine(missed, weight, parameters).error.min())
        return {"choice": alone, "average": alone}
    later = weight[1:] / weight[1:].sum()
    for k, share in enumerate(later, start=1):
        found = combine(missed[:k], weight[:k], parameters)
        forecasts = {"choice": missed[k][found.choice], "average": found.weight @ missed[k]}
        for name, value in forecasts.items():
            errors[name] += float(share * np.sqrt(np.mean(value**2)))
    return errors
