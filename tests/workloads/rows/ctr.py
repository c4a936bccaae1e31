from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.ctr import CTR

ROW = Row(
    CTR(width=8, depth=2, batch_size=16),
    CTR(width=128, depth=3, batch_size=1024),
    "adamw",
    1e-2,
    {name: dict(changes) for name, changes in CTR.variants.items()} | {"deep": {"depth": 5}},
    even_depth=False,
)
