"""Claims about regrets and checks: supported, refuted, undecided, and refused where they cannot be checked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from harness.checks import Finding
from harness.claims import Findings, check_claims, validate
from workloads.base import BadInput


def transfer(value, half):
    """Only what claims about regrets read."""
    return SimpleNamespace(
        regret=SimpleNamespace(value=np.array([0.0, value]), ci95=np.array([[0, 0], [value - half, value + half]]))
    )


def verdict(claim, transfers=(), checks=()):
    found = Findings(dict(transfers), {}, dict(checks))
    return check_claims([claim], found)[0]["verdict"]


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [
        (0.001, 0.002, "supported"),
        (0.02, 0.002, "refuted"),
        (0.004, 0.003, "undecided"),
        (np.nan, np.nan, "undecided"),
        (np.inf, np.nan, "refuted"),
    ],
)
def test_a_regret_below_a_bound(value, half, expected):
    claim = {"regret": {"parametrization": "mup"}, "expect": "below 0.5%"}
    assert verdict(claim, {"mup": transfer(value, half)}) == expected


@pytest.mark.parametrize(
    ("value", "half", "expected"),
    [(0.3, 0.05, "supported"), (-0.3, 0.05, "refuted"), (0.02, 0.05, "undecided"), (np.inf, np.nan, "supported")],
)
def test_a_regret_above_another(value, half, expected):
    claim = {"regret": {"parametrization": "sp"}, "expect": "above mup"}
    assert verdict(claim, {"sp": transfer(value, half), "mup": transfer(0.0, 0.01)}) == expected


def test_claims_of_absent_series_are_undecided():
    claim = {"regret": {"parametrization": "sp"}, "expect": "above mup"}
    assert verdict(claim, {"mup": transfer(0, 0.1)}) == "undecided"
    assert verdict(claim, {"sp": transfer(0, 0.1)}) == "undecided"
    claim = {"sharpness": {"parametrization": "sp"}, "expect": "dependent"}
    assert verdict(claim) == "undecided"
    assert verdict(claim, checks={"sharpness": Finding({"mup": ("independent", "")}, {})}) == "undecided"
    assert verdict(claim, checks={"sharpness": Finding({"all": ("undecided", "no trial")}, {})}) == "undecided"


def test_a_check_supports_and_refutes():
    claim = {"sharpness": {"parametrization": "mup"}, "expect": "independent"}
    for word, expected in (("independent", "supported"), ("dependent", "refuted"), ("undecided", "undecided")):
        assert verdict(claim, checks={"sharpness": Finding({"mup": (word, "why")}, {})}) == expected


@pytest.mark.parametrize(
    "claim",
    [
        {"regret": {}, "expect": "small"},
        {"sharpness": {}, "expect": "pass"},
        {"drift": {}, "expect": "hit"},
        {"nothing": {}, "expect": "zero"},
    ],
)
def test_claims_that_no_one_can_check_are_refused(claim):
    with pytest.raises(BadInput, match="write"):
        validate([claim], ["sharpness"])


def test_a_claim_needs_its_check():
    claim = {"sharpness": {}, "expect": "independent"}
    validate([claim], ["sharpness"])
    with pytest.raises(BadInput, match="add it to study"):
        validate([claim])
