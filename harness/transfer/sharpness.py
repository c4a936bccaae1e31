"""Curvature of a loss from Hessian-vector products: sharpness, spectrum, trace, and their relatives.

Everything here is a pure function that may be jitted and vmapped; numbers have the parameters' dtype (float32, or
float64 under `jax.enable_x64`). Sizes: n parameters, m Lanczos steps, k eigenpairs, p probes. On GPUs that round float32
products to TF32, trace the loss under `jax.default_matmul_precision("highest")` where more than three digits are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import sequential_vmap
from jax.flatten_util import ravel_pytree

from workloads.base import Array, BadInput, Batch, Params

TEST_STEPS = 100
MONITOR_STEPS = 15
MONITOR_SHARE = 0.15  # of the training time: timings vary, and it shall stay below 0.2

_EXPLORED = 0.1  # length of the random part of a warm start, which finds directions that have become the sharpest
_ROUNDING = 4.0  # a Lanczos vector below this many rounding errors of the operator holds nothing else
_EXACT = jax.lax.Precision.HIGHEST


class Operator(NamedTuple):
    """A symmetric matrix known by its products. product: (n,) -> (n,); unravel: (n,) -> tree like the parameters."""

    product: Callable[[Array], Array]
    unravel: Callable[[Array], Params]
    size: int
    dtype: Any


class Spectrum(NamedTuple):
    """The k algebraically largest eigenvalues, largest first.

    eigenvalues: (k,). residuals: (k,) norms |A v - eigenvalue v|, rounding of the products aside: some eigenvalue of A
    lies that close to each, though not always the one meant. vectors: tree with a leading axis k, orthonormal.
    """

    eigenvalues: Array
    residuals: Array
    vectors: Params


class Estimate(NamedTuple):
    """A mean with its standard error (scalars)."""

    value: Array
    stderr: Array


class Quadrature(NamedTuple):
    """The spectral density as point masses. nodes, counts: (p, m); the counts of all probes together sum to n.

    sum(counts * f(nodes)) estimates tr f(A), the sum of f over the eigenvalues.
    """

    nodes: Array
    counts: Array


def hessian(loss: Callable[[Params], Array], params: Params, preconditioner: Params | None = None) -> Operator:
    """The Hessian H of `loss` at `params`; with a diagonal preconditioner P, the matrix P^-1/2 H P^-1/2.

    loss: tree -> scalar, twice differentiable. preconditioner: tree like `params` of positive arrays or scalars.
    P^-1/2 H P^-1/2 has the eigenvalues of P^-1 H; its eigenvectors v belong to P^-1/2 v there.
    The gradient is linearised once, so a product costs two gradients rather than three.
    """
    flat, unravel = ravel_pytree(params)
    _, product = jax.linearize(jax.grad(lambda x: loss(unravel(x))), flat)
    if preconditioner is None:
        return Operator(product, unravel, flat.size, flat.dtype)
    root = jax.tree.map(lambda p, d: jnp.broadcast_to(jnp.asarray(d, p.dtype) ** -0.5, p.shape), params, preconditioner)
    scale = ravel_pytree(root)[0]
    return Operator(lambda v: scale * product(scale * v), unravel, flat.size, flat.dtype)


def top_eigenpairs(
    operator: Operator, key: Array, *, k: int = 1, steps: int = TEST_STEPS, start: Params | None = None
) -> Spectrum:
    """The k largest eigenvalues by `steps` products (at most n) of Lanczos with full reorthogonalisation.

    start: `vectors` of an earlier Spectrum, for a warm start; the key gives the (rest of the) starting vector.
    To monitor training use `steps=MONITOR_STEPS`, a fixed batch, and the previous vectors (seen on the language model,
    50 or 150 steps apart: within 2e-6 of 100 products; with 10, once 3% off). An eigenvalue of multiplicity
    r is found once, and r times only if Lanczos has exhausted its Krylov space.
    Raises BadInput unless 1 <= k <= min(steps, n). Source: Golub & Van Loan 2013, sections 10.1 and 10.3.
    """
    steps = min(steps, operator.size)
    if not 1 <= k <= steps:
        raise BadInput(f"k={k} eigenvalues need 1 <= k <= {steps}, the Lanczos steps (at most one a parameter)")
    start_key, restart_key = jax.random.split(key)
    first = _unit(jax.random.normal(start_key, (operator.size,), operator.dtype))
    if start is not None:
        first = _EXPLORED * first + _unit(_flat_sum(start, operator))
    krylov = _lanczos(operator, _unit(first), restart_key, steps)
    values, weights = krylov.ritz()
    top, chosen = values[::-1][:k], weights[:, ::-1][:, :k]
    vectors = jnp.matmul(chosen.T, krylov.basis[:-1], precision=_EXACT)
    return Spectrum(top, krylov.beta[-1] * jnp.abs(chosen[-1]), jax.vmap(operator.unravel)(vectors))


def trace(operator: Operator, key: Array, probes: int = 32) -> Estimate:
    """Trace with its standard error by `probes` products with random signs (Hutchinson 1990).

    Exact for diagonal matrices. Raises BadInput for fewer than 2 probes, which have no standard error.
    """
    if probes < 2:
        raise BadInput(f"probes={probes} give no standard error; use at least 2")

    def one(key: Array) -> Array:
        signs = jax.random.rademacher(key, (operator.size,), operator.dtype)
        return jnp.vdot(signs, operator.product(signs), precision=_EXACT)

    return _mean(jax.lax.map(one, jax.random.split(key, probes)))


def spectral_quadrature(operator: Operator, key: Array, *, probes: int = 8, steps: int = 64) -> Quadrature:
    """Spectral density by stochastic Lanczos quadrature, `probes` x `steps` products.

    Source: Ubaru, Chen & Saad 2017, algorithm 1; for networks Ghorbani, Krishnan & Xiao 2019, section 2.
    Raises BadInput for probes or steps below 1.
    """
    if probes < 1 or steps < 1:
        raise BadInput(f"probes={probes} and steps={steps} must be at least 1")
    steps = min(steps, operator.size)

    def one(key: Array) -> tuple[Array, Array]:
        start_key, restart_key = jax.random.split(key)
        signs = jax.random.rademacher(start_key, (operator.size,), operator.dtype)
        values, weights = _lanczos(operator, _unit(signs), restart_key, steps).ritz()
        return values, jnp.square(weights[0]) * (operator.size / probes)

    return Quadrature(*jax.lax.map(one, jax.random.split(key, probes)))


def spectral_density(quadrature: Quadrature, grid: Array, width: Array | float) -> Array:
    """Eigenvalues per unit of curvature on `grid` (g,), each smoothed to a Gaussian of standard deviation `width`."""
    nodes, counts = quadrature.nodes.reshape(1, -1), quadrature.counts.reshape(1, -1)
    bumps = jax.scipy.stats.norm.pdf((grid[:, None] - nodes) / width) / width
    return jnp.sum(counts * bumps, axis=1)


def batch_sharpness(loss: Callable[[Params, Batch], Array], params: Params, batches: Batch) -> Estimate:
    """Mean over batches B of g'H_B g / g'g, the curvature of each batch's loss along its own gradient g.

    A step of SGD lowers the loss of its own batch, to second order, exactly where this is below 2 / learning rate.
    loss: (params, batch) -> scalar. batches: tree of arrays with a leading axis of batches, (b, ...); the standard error
    is NaN for b = 1, and all is NaN if a gradient vanishes. Source: Andreyev & Beneventano 2024, "Edge of stochastic
    stability", definition of batch sharpness.
    """

    def one(batch: Batch) -> Array:
        flat, unravel = ravel_pytree(params)
        gradient, product = jax.linearize(jax.grad(lambda x: loss(unravel(x), batch)), flat)
        direction = _unit(gradient)
        return jnp.vdot(direction, product(direction), precision=_EXACT)

    return _mean(jax.lax.map(one, batches))


def adam_preconditioner(
    state: Any, *, b2: Array | float, eps: Array | float = 1e-8, eps_root: Array | float = 0.0, lr_scale: Any = None
) -> Params:
    """Adam's diagonal P = sqrt(nu / (1 - b2^count) + eps_root) + eps from an optax state after at least one step.

    state: any optax state that holds one ScaleByAdamState (adam, adamw, nadam, nadamw, chains of them).
    lr_scale: tree like the parameters of learning-rate factors s, as parametrizations give; then P / s, so that P^-1 H
    is to be compared with the bound at the common learning rate. P is NaN before the first step.
    Raises BadInput if the state holds no ScaleByAdamState, or several.
    """
    nodes = jax.tree.leaves(state, is_leaf=_is_adam)
    found = [node for node in nodes if _is_adam(node)]
    if len(found) != 1:
        raise BadInput(
            f"the optimizer state holds {len(found)} Adam states; preconditioned sharpness needs exactly one (adam, adamw, "
            "nadam or nadamw for all parameters)"
        )
    correction = 1 - jnp.asarray(b2) ** found[0].count

    def diagonal(nu: Array, scale: Array | float) -> Array:
        return (jnp.sqrt(nu / correction.astype(nu.dtype) + eps_root) + eps) / scale

    rates = jax.tree.map(lambda nu: 1.0, found[0].nu) if lr_scale is None else lr_scale
    return jax.tree.map(diagonal, found[0].nu, rates)


def steps_between(monitor_seconds: float, step_seconds: float, share: float = MONITOR_SHARE) -> int:
    """Training steps between two measurements so that they take at most `share` of the training time.

    monitor_seconds: one measurement; step_seconds: one training step. Raises BadInput unless all are positive.
    """
    if not (monitor_seconds > 0 and step_seconds > 0 and share > 0):
        raise BadInput(
            f"monitor_seconds={monitor_seconds}, step_seconds={step_seconds}, share={share} must be positive"
        )
    return max(1, math.ceil(monitor_seconds / (share * step_seconds)))


class _Krylov(NamedTuple):
    """basis (m + 1, n) orthonormal rows; basis A basis^T is tridiagonal with `alpha` (m,) on and `beta` (m,) beside it."""

    basis: Array
    alpha: Array
    beta: Array

    def ritz(self) -> tuple[Array, Array]:
        """Eigenvalues (m,), ascending, and eigenvectors (m, m), in columns, of the tridiagonal matrix."""
        beside = self.beta[:-1]
        return _eigh(jnp.diag(self.alpha) + jnp.diag(beside, 1) + jnp.diag(beside, -1))


@sequential_vmap  # see engine.compiler: LAPACK with a stack of matrices may wait for itself on CPU
def _eigh(matrix: Array) -> tuple[Array, Array]:
    eigenvalues, eigenvectors = jnp.linalg.eigh(matrix)
    return eigenvalues, eigenvectors


def _lanczos(operator: Operator, start: Array, key: Array, steps: int) -> _Krylov:
    """`steps` of Lanczos from the unit vector `start`; goes on at random where the Krylov space is exhausted."""
    rounding = _ROUNDING * float(jnp.finfo(operator.dtype).eps)

    def restart(basis: Array, j: Array) -> Array:
        fresh = jax.random.normal(jax.random.fold_in(key, j), start.shape, start.dtype)
        return _orthogonal(_unit(fresh), basis)

    def step(j: Array, krylov: _Krylov) -> _Krylov:
        basis, alpha, beta = krylov
        image = operator.product(basis[j])
        alpha = alpha.at[j].set(jnp.vdot(basis[j], image, precision=_EXACT))
        rest = _orthogonal(image, basis)
        length = jnp.linalg.norm(rest)
        exhausted = length <= rounding * jnp.maximum(jnp.max(jnp.abs(alpha)), jnp.max(beta))
        following = jax.lax.cond(exhausted, lambda: restart(basis, j), lambda: rest)
        beta = beta.at[j].set(jnp.where(exhausted, 0.0, length))
        return _Krylov(basis.at[j + 1].set(_unit(following)), alpha, beta)

    basis = jnp.zeros((steps + 1, operator.size), operator.dtype).at[0].set(start)
    zeros = jnp.zeros(steps, operator.dtype)
    return jax.lax.fori_loop(0, steps, step, _Krylov(basis, zeros, zeros))


def _orthogonal(vector: Array, basis: Array) -> Array:
    """Gram-Schmidt, twice: once would leave rounding errors of the size of what it takes away."""
    for _ in range(2):
        overlap = jnp.matmul(basis, vector, precision=_EXACT)
        vector = vector - jnp.matmul(overlap, basis, precision=_EXACT)
    return vector


def _flat_sum(vectors: Params, operator: Operator) -> Array:
    """Sum over the leading axis of a tree of vectors, (n,)."""
    return ravel_pytree(jax.tree.map(lambda v: jnp.sum(v, axis=0), vectors))[0].astype(operator.dtype)


def _unit(vector: Array) -> Array:
    return vector / jnp.linalg.norm(vector)


def _mean(samples: Array) -> Estimate:
    count = samples.shape[0]
    spread = jnp.std(samples, ddof=1) if count > 1 else jnp.asarray(jnp.nan, samples.dtype)
    return Estimate(jnp.mean(samples), spread / math.sqrt(count))


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)
