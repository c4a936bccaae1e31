"""The two instabilities of "Small-scale proxies for large-scale Transformer training instabilities" (Wortsman et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.probes.base import PROBES, Moment, Probe
from workloads.base import Array

_EXAMPLES = 16


@PROBES.register("instabilities")
@dataclass(frozen=True)
class Instabilities(Probe):
    """What the workload says of its own: the largest attention logit by layer, and the mean of log Z of the outputs."""

    def measure(self, moment: Moment) -> dict[str, Array]:
        workload = moment.workload.replace(batch_size=_EXAMPLES)
        return workload.instabilities(moment.params, moment.batch(_EXAMPLES))
