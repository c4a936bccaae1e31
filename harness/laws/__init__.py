"""The fitting stage: one law per file, one shared solver (`fitting/`), honest error bars.

`fit(LAWS["power_law_offset"](), {"N": params}, loss)` is the whole interface; a new law is one file
that registers a `Law` and one import line here. Estimates in several stages are `procedures/`.
"""

from harness.laws import (
    accuracy_sigmoid,
    annealing,
    bnsl,
    capacity,
    chinchilla,
    critical_batch,
    data_constrained,
    ensemble,
    kaplan,
    m3,
    m4,
    min_steps,
    multi_power,
    over_training,
    pass_rate,
    power_law,
    repeated_data,
    routed,
    time_batch,
)
from harness.laws.base import LAWS, Grid, Kind, Law, Positive, Real
from harness.laws.fitting.backtest import straight_line
from harness.laws.fitting.fit import Fit, Prediction, fit
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.verdict import PredictionVerdict, prediction_verdict
from harness.laws.power_law import PowerLaw, PowerLawOffset

__all__ = [
    "LAWS",
    "Fit",
    "Grid",
    "Kind",
    "Law",
    "Objective",
    "Positive",
    "PowerLaw",
    "PowerLawOffset",
    "Prediction",
    "PredictionVerdict",
    "Real",
    "accuracy_sigmoid",
    "annealing",
    "bnsl",
    "capacity",
    "chinchilla",
    "critical_batch",
    "data_constrained",
    "ensemble",
    "fit",
    "kaplan",
    "m3",
    "m4",
    "min_steps",
    "multi_power",
    "over_training",
    "pass_rate",
    "power_law",
    "prediction_verdict",
    "repeated_data",
    "routed",
    "straight_line",
    "time_batch",
]
