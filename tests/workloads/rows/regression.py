from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.regression import Regression

ROW = Row(Regression(width=16), None, "sgd", 1e-2, {"large batch": {"batch_size": 64}}, fixed_depth=True)
