"""Sizes of the parameter matrices."""

from __future__ import annotations

from dataclasses import dataclass

from harness.probes.base import PROBES, Moment, Probe
from harness.transfer.effective_rate import matrix_norms
from harness.transfer.spectra import top_singular_values
from workloads.base import Array

_ITERATIONS = 24


@PROBES.register("singular_values")
@dataclass(frozen=True)
class SingularValues(Probe):
    """sigma_max:PATH: the top singular value of every matrix."""

    def measure(self, moment: Moment) -> dict[str, Array]:
        return {f"sigma_max:{path}": value for path, value in top_singular_values(moment.params, _ITERATIONS).items()}


@PROBES.register("norms")
@dataclass(frozen=True)
class Norms(Probe):
    """norm:PATH: the Frobenius norm of every matrix."""

    def measure(self, moment: Moment) -> dict[str, Array]:
        return {f"norm:{path}": value for path, value in matrix_norms(moment.params).items()}
