"""Checks of a study's trials, one per file: importing this package registers them all."""

from harness.checks import (  # noqa: F401
    batch_exponent,
    coordinates,
    edge_of_stability,
    effective_rate,
    generalization,
    instability,
    sensitivity,
    sharpness,
    singular_values,
)
from harness.checks.base import CHECKS, Check, Finding, Member

__all__ = ["CHECKS", "Check", "Finding", "Member"]
