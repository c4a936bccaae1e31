from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.image_mlp import ImageMLP

ROW = Row(
    ImageMLP(width=16, depth=2, batch_size=8, label_smoothing=0.1),
    ImageMLP(width=512, depth=3, batch_size=256),
    "adamw",
    1e-2,
    {"shallow": {"depth": 1}, "deep": {"depth": 4}},
)
