from __future__ import annotations

from tests.workloads.rows.row import Row
from workloads.speech_deepspeech import SpeechDeepSpeech

FEW = {"utterances": 64, "validation_utterances": 8, "test_utterances": 12}

ROW = Row(
    SpeechDeepSpeech(width=16, depth=1, batch_size=4, **FEW),
    SpeechDeepSpeech(width=512, depth=2, batch_size=16, **FEW),
    "adamw",
    1e-2,
    {
        "plain": {"residual": False, "depth": 3},
        "layer norm": {"norm": "layer", "head_norm": False, "feed_forward_layers": 3},
    },
    padding=0.15,  # XLA counts the body of the recurrence once
)
