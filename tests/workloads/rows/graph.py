from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.graph import Graph

ROW = Row(
    Graph(width=8, depth=2, batch_size=4),
    Graph(width=256, depth=2, batch_size=32),
    "adamw",
    1e-2,
    {name: dict(changes) for name, changes in Graph.variants.items()} | {"one step": {"depth": 1}},
)
