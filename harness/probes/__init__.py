"""Probes, one per file: importing this package registers them all."""

from harness.probes import (  # noqa: F401
    attention_and_outputs,
    curvature,
    matrices,
    noise,
    on_test,
)
from harness.probes.base import PROBES, Moment, Probe

__all__ = ["PROBES", "Moment", "Probe"]
