"""Tests of launchers find a stand-in for SLURM's commands first on PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launchers.fake_slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return FakeSlurm(folder)
