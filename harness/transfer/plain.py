"""Results of checks as JSON: nested lists and dicts of numbers, None for NaN, "inf" and "-inf" as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """`value` (numbers, text, arrays, sequences, mappings of these) with nothing left that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else f"{key:g}": plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
