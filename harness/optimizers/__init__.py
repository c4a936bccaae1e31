"""Optimizers: everything optax ships, by name, through one registry; one file each for what optax lacks."""

from harness.optimizers import from_optax
from harness.optimizers.base import OPTIMIZERS, Optimizer

__all__ = ["OPTIMIZERS", "Optimizer", "from_optax"]
