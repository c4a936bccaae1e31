"""Parametrizations: how init, learning rate and weight decay of every leaf depend on width, from shapes."""

from harness.parametrizations import mup, sp
from harness.parametrizations.base import PARAMETRIZATIONS, Leaf, Parametrization, Scales, leaves, scales

__all__ = ["PARAMETRIZATIONS", "Leaf", "Parametrization", "Scales", "leaves", "mup", "scales", "sp"]
