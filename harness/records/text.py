"""Text from records on its way to people: nothing in it may control a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from harness.registry import nearest
from workloads.base import BadInput


def printable(value: object) -> str:
    """Text without control, formatting or invisible characters: they are shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def unknown_column(word: str, valid: Iterable[str]) -> BadInput:
    """The error for a column that is not there, with the nearest that is."""
    return BadInput(f"unknown column '{printable(word)}'. {nearest(word, map(printable, valid))}")
