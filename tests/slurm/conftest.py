"""Tests on a real cluster: `make check-slurm` starts it, runs them and stops it. Everywhere else they are skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("WINDTUNNEL_SLURM") == "1":
        return
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.skip(reason="needs the test cluster: make check-slurm"))
