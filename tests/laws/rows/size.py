"""Loss from size, and from size and data."""

import numpy as np

from tests.laws.rows.row import Row, grid

_N = {"N": np.array([1.2e4, 2.4e4, 4e4, 8e4, 1.3e5, 2.8e5])}
_ND = grid(N=np.geomspace(1e7, 1e10, 6), D=np.geomspace(1e9, 1e12, 6))

ROWS = {
    "power_law": Row({"A": 5.0, "alpha": 0.11}, _N, units=("A",)),
    "power_law_offset": Row({"E": 1.5, "A": 8.0, "alpha": 0.35}, _N, units=("E", "A")),
    "joint_power_law": Row({"A": 20.0, "alpha": 0.07, "beta": 0.05}, _ND, units=("A",)),
    "chinchilla": Row({"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}, _ND),
}
