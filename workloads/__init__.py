"""What is trained: one file per workload family.

`FAMILIES` is the registry, loaded on first use so that commands which only read records start quickly. A new family is
one file, one entry here and one row in `tests/workloads/test_families.py`.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "FAMILIES":
        raise AttributeError(f"module 'workloads' has no attribute '{name}'")
    from workloads.image_mlp import ImageMLP
    from workloads.language_model import LanguageModel
    from workloads.regression import Regression

    return (LanguageModel, Regression, ImageMLP)
