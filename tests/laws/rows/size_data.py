"""Loss from size, data, tokens per parameter and distinct tokens."""

import numpy as np

from tests.laws.rows.row import Row, grid

_ND = grid(N=np.geomspace(1e7, 1e10, 6), D=np.geomspace(1e9, 1e12, 6))
_NM = grid(N=np.geomspace(1e7, 1e10, 5), M=np.geomspace(2, 640, 6))
_NDU = grid(N=np.geomspace(3e7, 1e10, 4), D=np.geomspace(1e9, 3e11, 4), U=np.geomspace(3e8, 3e10, 3))

ROWS = {
    "kaplan": Row({"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}, _ND),
    "over_training": Row({"E": 1.8, "a": 500.0, "b": 2400.0, "eta": -0.35}, _NM, units=("E", "a", "b")),
    "data_constrained": Row(
        {"E": 1.87, "A": 520.0, "B": 1490.0, "alpha": 0.35, "beta": 0.36, "R_D": 15.4, "R_N": 5.3},
        _NDU,
        units=None,
    ),
}
