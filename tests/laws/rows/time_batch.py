"""Steps and batch."""

import numpy as np

from tests.laws.rows.row import Row, grid

_SIZE_STEPS = {"N_c": 6.5e13, "a_N": 0.077, "S_c": 2100.0, "a_S": 0.76}
_N = np.geomspace(1e6, 1e9, 4)
_S = np.geomspace(1e3, 3e5, 5)

ROWS = {
    "critical_batch": Row({"S_min": 2e4, "B_crit": 3e5}, {"B": np.geomspace(2e4, 4e6, 8)}, units=("S_min",), rtol=1e-6),
    "min_steps": Row(_SIZE_STEPS, grid(N=_N, S_min=_S)),
    "time_batch": Row(
        {**_SIZE_STEPS, "B_star": 2.1e8, "a_B": 0.21}, grid(N=_N, S=_S, B=np.array([3e4, 3e5, 3e6])), noise=1e-4
    ),
}
