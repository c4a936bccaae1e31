from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.speech_conformer import SpeechConformer

FEW = {"utterances": 64, "validation_utterances": 8, "test_utterances": 12}

ROW = Row(
    SpeechConformer(width=16, depth=1, heads=2, batch_size=4, **FEW),
    SpeechConformer(width=512, depth=2, batch_size=16, **FEW),
    "adamw",
    1e-2,
    {
        "one norm less": {"post_layer_norm": False, "depth": 3},
        "layer norm": {"convolution_norm": "layer", "bands": 24, "kernel_size": 7},
    },
)
