from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.translation import Translation

_SIZES = {"train_sentences": 256, "validation_sentences": 12, "test_sentences": 20}

ROW = Row(
    Translation(width=16, depth=1, heads=2, batch_size=8, attention_temp=1.5, **_SIZES),
    Translation(width=512, depth=1, heads=4, batch_size=64, **_SIZES),
    "adamw",
    1e-2,
    {
        "three matrices": {"shared_embeddings": False},
        "deep": {"depth": 3},
        **Translation.variants,
    },
)
