from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.image_vit import ImageViT

ROW = Row(
    ImageViT(
        data="digits",
        image_size=8,
        crop_padding=0,
        flip=False,
        validation_images=40,
        width=16,
        depth=2,
        heads=2,
        batch_size=32,
        label_smoothing=0.1,
    ),
    ImageViT(
        data="shapes:train=64,test=32", image_size=16, validation_images=32, width=512, heads=4, depth=2, batch_size=16
    ),
    "adamw",
    1e-2,
    {
        "post_layernorm": {"post_layernorm": True},
        "glu": {"glu": True},
        "map": {"pooling": "map"},
        "map of glu": {"pooling": "map", "glu": True},
        "learned positions": {"positions": "learned", "patch_size": 2, "depth": 3},
        "dropout": {"dropout": 0.1},
    },
)
