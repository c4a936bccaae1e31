"""What is trained: one file per workload family.

`FAMILIES` is the registry, loaded on first use so that commands which only read records start quickly. A new family is
one file, one entry here and one row in `tests/workloads/rows/`.
"""

from __future__ import annotations

import importlib
from typing import Any

_CLASSES = {
    "ctr": "CTR",
    "graph": "Graph",
    "image_mlp": "ImageMLP",
    "image_resnet": "ImageResNet",
    "image_vit": "ImageViT",
    "language_model": "LanguageModel",
    "mri": "MRI",
    "regression": "Regression",
    "speech_conformer": "SpeechConformer",
    "speech_deepspeech": "SpeechDeepSpeech",
    "translation": "Translation",
}


def __getattr__(name: str) -> Any:
    if name != "FAMILIES":
        raise AttributeError(f"module 'workloads' has no attribute '{name}'")
    return tuple(getattr(importlib.import_module(f"workloads.{module}"), cls) for module, cls in _CLASSES.items())
