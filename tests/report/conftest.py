"""One synthetic study and its report for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report import write_report
from tests.report import synthetic


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole recorded study with its report; read only."""
    root = tmp_path_factory.mktemp("results") / "synthetic"
    synthetic.make(root)
    write_report(root)
    return root


@pytest.fixture(scope="session")
def page(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8")
