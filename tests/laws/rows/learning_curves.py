"""Loss from examples seen: the plateau laws and the broken law."""

import numpy as np

from tests.laws.rows.row import Row

ROWS = {
    "m3": Row({"b": 20.0, "g": 1e-7, "c": 0.3}, {"N": np.geomspace(1e5, 1e8, 12)}, units=("b",)),
    "m4": Row({"e_inf": 0.3, "span": 2.0, "a": 1.6, "b": 3e3, "c": -0.6}, {"N": np.geomspace(1e4, 1e9, 20)}),
    "bnsl": Row(
        {"a": 0.5, "b": 30.0, "c0": 0.2, "c1": 0.3, "d1": 1e6, "f1": 0.5},
        {"N": np.geomspace(1e4, 1e9, 24)},
        units=("a", "b"),
    ),
}
