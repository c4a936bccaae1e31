"""Parametrizations: how init, learning rate, weight decay and epsilon of every leaf depend on width and depth."""

from harness.parametrizations import abc_table, depth, mup, sp, user_table
from harness.parametrizations.base import PARAMETRIZATIONS, Factors, Leaf, Parametrization, Scales, leaves, scales

__all__ = [
    "PARAMETRIZATIONS",
    "Factors",
    "Leaf",
    "Parametrization",
    "Scales",
    "abc_table",
    "depth",
    "leaves",
    "mup",
    "scales",
    "sp",
    "user_table",
]
