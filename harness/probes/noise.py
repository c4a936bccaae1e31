"""The gradient noise scale during training."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from harness.probes.base import PROBES, Moment, Probe
from harness.transfer.noise_scale import noise_from_examples
from workloads.base import Array, Batch, Params

_EXAMPLES = 32


@PROBES.register("noise_scale")
@dataclass(frozen=True)
class NoiseScale(Probe):
    """trace, squared_norm: unbiased tr(Sigma) and |G|^2 from 32 examples' gradients, whose ratio is the noise scale
    in examples (McCandlish et al. 2018, appendix A.1).
    """

    def measure(self, moment: Moment) -> dict[str, Array]:
        batch = moment.batch(_EXAMPLES)
        alone = jax.tree.map(lambda x: x[:, None], batch)

        def one(example: Batch) -> Params:
            return jax.grad(lambda p: moment.workload.replace(batch_size=1).loss(p, example, jax.random.key(0))[0])(
                moment.params
            )

        found = noise_from_examples(jax.lax.map(one, alone))
        return {"noise_trace": found.trace, "noise_squared_norm": found.squared_norm}
