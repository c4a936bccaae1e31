"""What a row says of a family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workloads.base import Workload


@dataclass(frozen=True)
class Row:
    """small: quick to compile. large: what cost analysis is compared on, None where data and elementwise work outweigh
    the matrix products at any size. variants: other settings whose matrix products are counted. optimizer, rate: 20
    steps lower the loss. fixed_depth: the family has one depth only. even_depth: every level of depth adds as many
    parameters. padding: the most of the products that may be with a convolution's padding, which XLA does not count.
    """

    small: Workload
    large: Workload | None
    optimizer: str
    rate: float
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    fixed_depth: bool = False
    even_depth: bool = True
    padding: float = 0.0
