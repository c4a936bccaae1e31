"""What a procedure is: an estimate in several stages (optima of cells, then a law of the optima)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from harness.laws.fitting.fit import Fit
from harness.laws.plots import Plot
from harness.registry import Registry


@dataclass(frozen=True)
class Settings:
    """How to estimate. bootstrap: draws behind intervals. seed: of the draws."""

    bootstrap: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Table:
    """A table of the result, as shown on the terminal and in the report."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Estimate:
    """What a procedure found.

    n: rows used. values: everything found, plain JSON types only. tables, plots: the same for readers. fits: the laws
    fitted on the way. warnings: what a reader must know first. dropped: reason -> rows left out by the procedure itself.
    """

    procedure: str
    n: int
    values: dict[str, Any]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    fits: Mapping[str, Fit] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


class Procedure:
    """Base of all procedures: subclasses are frozen dataclasses whose fields are options.

    columns: names that a table must have; optional: names it may have. text: those that are labels; the others are positive
    numbers, those of may_be_zero finite ones, those of may_lack numbers that a row need not have. The class docstring says
    what is estimated, how, and the source.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    text: ClassVar[tuple[str, ...]] = ()
    may_be_zero: ClassVar[tuple[str, ...]] = ()
    may_lack: ClassVar[tuple[str, ...]] = ()

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        """Estimate from columns (n,) each. Raises BadInput where there is no honest number."""
        raise NotImplementedError


PROCEDURES: Registry[Procedure] = Registry("procedure")
