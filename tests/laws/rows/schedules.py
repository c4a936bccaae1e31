"""Whole training curves from their learning rates: eight short runs that anneal at different times, speeds and depths."""

import numpy as np

from tests.laws.rows.row import Row

_PEAK, _STEPS = 1e-3, 2000

# (step, LR as a fraction of the peak); linear in between, warmup of 100 steps before the first row
_CURVES = {
    "constant": [(100, 1), (250, 1), (500, 1), (900, 1), (1400, 1), (2000, 1)],
    "linear": [(100, 1), (300, 0.91), (600, 0.76), (1000, 0.57), (1400, 0.38), (1800, 0.19), (2000, 0.1)],
    "late": [(100, 1), (600, 1), (1600, 1), (1700, 0.775), (1800, 0.55), (1900, 0.325), (2000, 0.1)],
    "exponential": [(100, 1), (1200, 1), (1400, 0.56), (1600, 0.32), (1800, 0.18), (2000, 0.1)],
    "drop to 0.5": [(100, 1), (799, 1), (800, 0.5), (810, 0.5), (850, 0.5), (1000, 0.5), (1400, 0.5), (2000, 0.5)],
    "drop to 0.2": [(100, 1), (799, 1), (800, 0.2), (810, 0.2), (850, 0.2), (1000, 0.2), (1400, 0.2), (2000, 0.2)],
    "drop to 0.03": [(100, 1), (799, 1), (800, 0.03), (820, 0.03), (900, 0.03), (1200, 0.03), (2000, 0.03)],
    "two drops": [(100, 1), (499, 1), (500, 0.4), (600, 0.4), (999, 0.4), (1000, 0.05), (1050, 0.05), (2000, 0.05)],
}
_COLUMNS = {
    "curve": np.array([name for name, rows in _CURVES.items() for _ in rows]),
    "step": np.array([step for rows in _CURVES.values() for step, _ in rows], np.float64),
    "lr": np.array([_PEAK * share for rows in _CURVES.values() for _, share in rows]),
}

ROWS = {
    "annealing": Row(
        {"L0": 3.1, "A": 0.4, "C": 0.8, "alpha": 0.5},
        _COLUMNS,
        units=("L0", "A", "C"),
        options={"warmup": 100, "lambdas": (0.995,)},
    ),
    "multi_power": Row(
        {"L0": 3.0, "A": 0.4, "B": 250.0, "C": 1.5, "alpha": 0.5, "beta": 0.6, "gamma": 0.6},
        _COLUMNS,
        units=("L0", "A", "B"),
        options={"warmup": 100},
        noise=2e-4,
    ),
}
