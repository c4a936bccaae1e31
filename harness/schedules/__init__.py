"""Learning-rate schedules: one family per file, each a function of (step, horizon); the peak LR is the optimizer's."""

from harness.schedules import constant, cosine, linear, rsqrt, wsd
from harness.schedules.base import SCHEDULES, Schedule

__all__ = ["SCHEDULES", "Schedule", "constant", "cosine", "linear", "rsqrt", "wsd"]
