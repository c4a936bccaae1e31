"""The fitting stage: one law per file, one shared solver (`fitting/`), honest error bars.

`fit(LAWS["power_law_offset"](), {"N": params}, loss)` is the whole interface; a new law is one file
that registers a `Law` and one import line here. Estimates in several stages are `procedures/`.
"""

from harness.laws.base import LAWS, Grid, Kind, Law, Positive, Real
from harness.laws.chinchilla import Chinchilla
from harness.laws.fitting.backtest import straight_line
from harness.laws.fitting.fit import Fit, Prediction, fit
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.verdict import PredictionVerdict, prediction_verdict
from harness.laws.power_law import JointPowerLaw, PowerLaw, PowerLawOffset

__all__ = [
    "LAWS",
    "Chinchilla",
    "Fit",
    "Grid",
    "JointPowerLaw",
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
