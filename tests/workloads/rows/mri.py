from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.mri import MRI

_SIZES = {"train_images": 64, "validation_images": 5, "test_images": 9}

ROW = Row(
    MRI(width=16, depth=1, batch_size=4, image_size=8, **_SIZES),
    MRI(width=64, depth=1, batch_size=16, image_size=32, **_SIZES),
    "adamw",
    1e-2,
    {"deep": {"depth": 2, "image_size": 16}, "tanh": MRI.variants["tanh"], "layernorm": MRI.variants["layernorm"]},
    even_depth=False,
)
