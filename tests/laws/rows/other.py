"""Routed models, knowledge capacity, repeated data, and task metrics."""

import numpy as np

from tests.laws.rows.row import Row, grid

_LOSS = {"loss": np.linspace(1.6, 4.0, 25)}
_ROUTED = grid(N=np.geomspace(1.5e7, 1.3e9, 6), experts=np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512]))
_CLARK = {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "E_start": 1.847, "E_max": 314.478}

ROWS = {
    "routed": Row(_CLARK, _ROUTED, units=None, noise=2e-4),
    "capacity": Row({"k": 2.0, "B": 5e7, "s": 3.0}, {"N": np.geomspace(1e6, 1e9, 13)}, noise=5e-3),
    "capacity_of_data": Row(
        {"k": 2.0, "s": 3.0}, grid(N=np.geomspace(1e6, 1e9, 7), data_bits=np.array([1e7, 5e7, 3e8])), noise=5e-3
    ),
    "repeated_data": Row(
        {"L_0": 2.5, "H": 0.15, "R_0": 300.0, "p": 1.2, "q": 0.8},
        {"repeats": np.geomspace(1, 1e5, 26)},
        units=("L_0",),
        noise=1e-3,
    ),
    "accuracy_sigmoid": Row({"floor": 0.25, "ceil": 0.95, "k": 4.0, "L_0": 2.6}, _LOSS, noise=3e-3),
    "accuracy_exponential": Row({"floor": 0.25, "k": 8.0, "gamma": 1.6}, _LOSS, noise=3e-3),
    "accuracy_size": Row(
        {"floor": 0.25, "ceil": 0.9, "k": 0.9, "N_0": 1e9}, {"N": np.geomspace(1e7, 1e11, 25)}, noise=3e-3
    ),
    "ensemble": Row({"E": 3.2, "A": 0.3}, {"K": np.array([1.0, 2, 3, 4, 5, 8, 16])}, units=("E", "A")),
    "pass_rate": Row({"c": 3000.0, "a": 0.36}, {"N": np.geomspace(1e8, 1e11, 12)}, noise=5e-3),
}
