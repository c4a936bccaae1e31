"""Estimates in several stages. A new one is one file and one import line here."""

from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table

__all__ = ["PROCEDURES", "Estimate", "Procedure", "Settings", "Table"]
