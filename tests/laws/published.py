"""Published tables outside the repository; tests that need them skip where they are absent."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data"


def path(*parts: str) -> Path:
    found = FOLDER.joinpath(*parts)
    if not found.exists():
        pytest.skip(f"published data ../shared/data/{'/'.join(parts)} are not here")
    return found


def rows(*parts: str) -> list[dict[str, Any]]:
    """The records of a CSV or JSONL file."""
    with path(*parts).open(newline="") as file:
        if parts[-1].endswith(".jsonl"):
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file))


def numbers(records: list[dict[str, Any]], **names: str) -> dict[str, np.ndarray]:
    """Columns by new name, as float64."""
    return {new: np.array([float(record[old]) for record in records]) for new, old in names.items()}
