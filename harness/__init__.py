"""Windtunnel's harness: trials, packs, records, laws, transfer checks, reports."""

__version__ = "0.1.0"
