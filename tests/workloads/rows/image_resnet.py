from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.image_resnet import ImageResNet

ROW = Row(
    ImageResNet(
        data="digits",
        image_size=8,
        crop_padding=1,
        flip=False,
        validation_images=40,
        width=4,
        depth=1,
        batch_size=16,
        label_smoothing=0.1,
        bn_init_scale=0.5,
    ),
    ImageResNet(data="shapes:train=64,test=32", image_size=16, validation_images=32, width=128, batch_size=64),
    "adamw",
    1e-2,
    {
        "silu": {"activation": "silu", "bn_init_scale": 0.0},
        "large_bn_init": {"bn_init_scale": 8.0},
        "pre_activation": {"pre_activation": True, "depth": 2},
        "ghost_batch": {"ghost_batch": 4, "stem_stride": 1, "image_size": 7},
    },
)
