"""Estimates in several stages. A new one is one file and one import line here."""

from harness.laws.procedures import (
    asymptote,
    bits_per_parameter,
    critical_batch_curve,
    envelope,
    hyperparameters,
    isoflop,
    loss_to_metric,
    mirage,
    pass_until,
    power_scheduler,
    repeat_damage,
    schedules,
    width,
)
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table

__all__ = [
    "PROCEDURES",
    "Estimate",
    "Procedure",
    "Settings",
    "Table",
    "asymptote",
    "bits_per_parameter",
    "critical_batch_curve",
    "envelope",
    "hyperparameters",
    "isoflop",
    "loss_to_metric",
    "mirage",
    "pass_until",
    "power_scheduler",
    "repeat_damage",
    "schedules",
    "width",
]
