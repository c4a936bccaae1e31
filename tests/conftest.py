"""Strict JAX, two one-core devices, and one compilation cache for the whole test session."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: beside other work its threads wait for each other

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from harness.engine import cost, devices


def pytest_configure(config: pytest.Config) -> None:
    devices.configure(devices=2)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    cost.ROUND_S = 0.0  # step times are noisy here, and taken soon


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Path]:
    """An empty results folder."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder
