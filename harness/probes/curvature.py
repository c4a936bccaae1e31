"""Sharpness during training, on a fixed batch."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from harness.probes.base import PROBES, Moment, Probe
from harness.transfer.sharpness import (
    adam_preconditioner,
    batch_sharpness,
    hessian,
    spectral_quadrature,
    top_eigenpairs,
    trace,
)
from harness.transfer.stability import preconditioned, sgd_linear_stability, stability_bound
from workloads.base import Array, BadInput, Params

EXAMPLES = 32
_PRODUCTS = 24  # a cold start: within 0.1% of 100 on the language model, and the residual says where it is not
_BATCHES = 8
_KEY = 0


@PROBES.register("sharpness")
@dataclass(frozen=True)
class Sharpness(Probe):
    """sharpness: top eigenvalue of H, on a fixed batch of 32 examples. bound: the optimizer's own stability bound at this
    step's learning rate. bounded: what it bounds, the top eigenvalue of H or, for Adam-like optimizers, of P^-1 H.
    residual: |A v - eigenvalue v| of `bounded` (some eigenvalue lies that close).
    """

    def measure(self, moment: Moment) -> dict[str, Array]:
        batch = moment.batch(EXAMPLES)
        key = jax.random.key(_KEY)

        def loss(params: Params) -> Array:
            return moment.loss(params, batch)

        plain = top_eigenpairs(hessian(loss, moment.params), key, steps=_PRODUCTS)
        found = plain
        if preconditioned(moment.optimizer):
            optimizer = moment.optimizer
            diagonal = adam_preconditioner(
                moment.state, b2=optimizer.b2, eps=optimizer.eps, lr_scale=moment.lr_scale  # type: ignore[attr-defined]
            )  # fmt: skip
            found = top_eigenpairs(hessian(loss, moment.params, diagonal), key, steps=_PRODUCTS)
        return {
            "sharpness": plain.eigenvalues[0],
            "bounded": found.eigenvalues[0],
            "bound": jnp.asarray(stability_bound(moment.optimizer, moment.learning_rate)),
            "residual": found.residuals[0],
        }


@PROBES.register("hessian_trace")
@dataclass(frozen=True)
class HessianTrace(Probe):
    """hessian_trace: tr(H) on a fixed batch of 32 examples with its standard error over 16 random probes (Hutchinson)."""

    def measure(self, moment: Moment) -> dict[str, Array]:
        batch = moment.batch(EXAMPLES)
        found = trace(hessian(lambda p: moment.loss(p, batch), moment.params), jax.random.key(_KEY), probes=16)
        return {"hessian_trace": found.value, "hessian_trace_stderr": found.stderr}


@PROBES.register("batch_sharpness")
@dataclass(frozen=True)
class BatchSharpness(Probe):
    """batch_sharpness: mean of g'H_B g / g'g over 8 fixed batches of the trial's own size."""

    def measure(self, moment: Moment) -> dict[str, Array]:
        size = moment.workload.batch_size
        batches = jax.tree.map(lambda *x: jnp.stack(x), *(moment.batch(size, number) for number in range(_BATCHES)))
        found = batch_sharpness(moment.loss, moment.params, batches)
        return {"batch_sharpness": found.value, "batch_sharpness_stderr": found.stderr}


@PROBES.register("linear_stability")
@dataclass(frozen=True)
class LinearStability(Probe):
    """stability_top, stability_total: the two numbers of SGD's linear-stability condition (see sgd_linear_stability), from the
    spectral density of H on a fixed batch of 32 examples. Raises BadInput for other optimizers than SGD without momentum.
    """

    def measure(self, moment: Moment) -> dict[str, Array]:
        if moment.optimizer.name != "sgd":
            raise BadInput(f"the probe linear_stability knows sgd only, not '{moment.optimizer.name}'")
        batch = moment.batch(EXAMPLES)
        operator = hessian(lambda p: moment.loss(p, batch), moment.params)
        density = spectral_quadrature(operator, jax.random.key(_KEY), probes=4, steps=_PRODUCTS)
        size = moment.workload.batch_size
        found = sgd_linear_stability(density.nodes, moment.learning_rate, size, density.counts)
        return {"stability_top": found.top, "stability_total": found.total}
