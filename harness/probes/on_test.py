"""The scores on the test split while training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from harness.probes.base import PROBES, Moment, Probe
from workloads.base import Array


@PROBES.register("test")
@dataclass(frozen=True)
class ScoresOnTest(Probe):
    """test_loss, test_metric: of the parameters that are evaluated, on the whole test split, which nothing may be chosen by.

    Otherwise it is looked at once, at the horizon: test splits are large.
    """

    def measure(self, moment: Moment) -> dict[str, Array]:
        scores = moment.workload.evaluate(moment.evaluated, moment.data, "test")
        return {"test_loss": scores["loss"], "test_metric": scores[moment.workload.metric.name]}
