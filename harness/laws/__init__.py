"""The fitting stage: one law per file, one shared solver, honest error bars.

`fit(LAWS["power_law_offset"](), {"N": params}, loss)` is the whole interface; a new law is one file
that registers a `Law` and one import line here.
"""

from harness.laws.backtest import straight_line
from harness.laws.base import LAWS, Grid, Kind, Law, Positive, Real
from harness.laws.fit import Fit, Prediction, fit
from harness.laws.power_law import PowerLaw, PowerLawOffset
from harness.laws.solver import Objective
from harness.laws.verdict import PredictionVerdict, prediction_verdict

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
    "fit",
    "prediction_verdict",
    "straight_line",
]
