"""Whether trials were predicted before they were trained is a matter of records, not of clocks."""

from __future__ import annotations

from typing import Any

import pytest

from harness.prediction import judge

EARLIER, LATER = "2026-01-01T00:00:00+00:00", "2026-01-01T09:00:00+00:00"
ENTRY = {"loss": 2.0, "low": 1.9, "high": 2.1, "fitted_losses": [4.0, 3.0, 2.5], "straight_line": 1.0}


def came_too_late(started_at: str, **content: Any) -> bool:
    """Whether a prediction is refused because its trial was trained before."""
    row = {"trial": "a" * 16, "started_at": started_at, "final_loss": 2.01}
    found = judge("sp", [row], {"series": {"sp": ENTRY}, "written_at": LATER, **content})
    return "trained before this prediction" in found.reason


@pytest.mark.parametrize("started_at", [EARLIER, LATER])
def test_a_clock_that_jumped_between_changes_no_verdict(started_at: str) -> None:
    assert not came_too_late(started_at, trained_before=[])
    assert came_too_late(started_at, trained_before=["a" * 16])


def test_of_older_files_the_clock_decides() -> None:
    assert came_too_late(EARLIER)
    assert not came_too_late(LATER)
