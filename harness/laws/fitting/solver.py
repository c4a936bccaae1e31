"""The one solver: Levenberg-Marquardt in float64, all starts and all resamples in one compiled program.

The process trains in float32, so everything here runs inside `jax.enable_x64(True)`, a local context.

Fits differ a hundredfold in how many steps they need, so a batch does not wait for its slowest member: a fixed number of
*lanes* step together, and a lane whose fit has ended takes the next one from the queue. With several CPU devices each takes
an interleaved share of the queue. Fits run on the CPU also where a GPU trains: they are small, and double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from harness.laws.base import Array, Law
from harness.laws.fitting.objective import Objective

ITERATIONS = 200  # cap on the steps of one fit
RIDGE = 1e-3  # share of diag(G) in the damping matrix: keeps it regular along flat directions
TOLERANCE = 1e-9  # converged when the predicted decrease is below this fraction of the objective
LANES = 64  # fits stepping together on one device; more cost cache, fewer cost per-operation overhead


class Solution(NamedTuple):
    """Fits of a batch: theta (B, S, P), objective (B, S), converged (B, S) bool."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray

    def best(self) -> np.ndarray:
        """theta (B, P) of the start with the lowest objective."""
        return np.take_along_axis(self.theta, self.objective.argmin(1)[:, None, None], axis=1)[:, 0]


class _Problem(NamedTuple):
    """Shared inputs; per data set b: target and weight (B, n), lower and upper (B, P). Per fit: starts (F, P), owner (F,)."""

    inputs: Mapping[str, Array]
    target: Array
    weight: Array
    lower: Array
    upper: Array


class _Lane(NamedTuple):
    fit: Array  # index of the fit, F when idle
    theta: Array
    damping: Array
    iteration: Array


class _Step(NamedTuple):
    theta: Array
    value: Array
    damping: Array
    converged: Array


def model(law: Law, objective: Objective, theta: Array, inputs: Mapping[str, Array]) -> Array:
    """The law's value (n,) in the objective's space."""
    value = law.log_loss(law.unpack(theta), **inputs)
    return value if objective.space == "log" else jnp.exp(value)


def _step(
    law: Law,
    objective: Objective,
    inputs: Mapping[str, Array],
    tolerance: Array,
    theta: Array,
    damping: Array,
    target: Array,
    weight: Array,
    lower: Array,
    upper: Array,
) -> _Step:
    """One Levenberg-Marquardt step (H + damping D) d = -g, kept if it lowers the objective.

    H = J' W rho'' J is the Gauss-Newton matrix of the Huber loss and G = J' W (rho'/r) J that of its quadratic majorant
    (an iteratively reweighted least squares step is D = G). D = G + ridge, because outliers vanish from H. The step is
    bent by geodesic acceleration (Transtrum & Sethna 2012, arXiv:1201.5885, eq. 8), which follows the curved valleys of
    offset power laws. A coordinate on its bound with the gradient pushing outward is held; lower = upper holds it always.
    """

    def residual_at(at: Array) -> Array:
        return model(law, objective, at, inputs) - target

    residual, jacobian = residual_at(theta), jax.jacfwd(residual_at)(theta)
    before = jnp.sum(weight * objective.rho(residual))
    before = jnp.where(jnp.isnan(before), jnp.inf, before)
    gradient = (weight * objective.psi(residual)) @ jacobian
    newton = (weight * objective.curvature(residual))[:, None] * jacobian
    majorant = (weight * objective.reweight(residual))[:, None] * jacobian
    held = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0)) | (lower == upper)
    free = jnp.where(held, 0.0, 1.0)
    inner = majorant.T @ jacobian
    scale = jnp.diag(inner)
    ridge = RIDGE * scale + 1e-12 * jnp.max(scale) + 1e-300
    both = newton.T @ jacobian + damping * (inner + jnp.diag(ridge))
    factor = jax.scipy.linalg.cho_factor(both * jnp.outer(free, free) + jnp.diag(1.0 - free))
    step = -jax.scipy.linalg.cho_solve(factor, gradient * free)
    bend = _second_derivative(residual_at, theta, step)
    turn = -0.5 * jax.scipy.linalg.cho_solve(factor, (bend @ newton) * free)
    gentle = jnp.sum(scale * turn**2) <= 0.14 * jnp.sum(scale * step**2)
    move = step + jnp.where(gentle & jnp.all(jnp.isfinite(turn)), turn, 0.0)
    moved = jnp.clip(theta + jnp.where(jnp.isfinite(move), move, 0.0), lower, upper)
    after = jnp.sum(weight * objective.rho(residual_at(moved)))
    better = after < before
    decrement = -jnp.dot(gradient * free, step)
    small = (decrement >= 0) & (decrement <= tolerance * before) & (damping <= 1.0)
    exact = before <= 1e-26 * jnp.maximum(1.0, scale.sum())
    return _Step(
        jnp.where(better, moved, theta),
        jnp.where(better, after, before),
        jnp.clip(jnp.where(better, damping * 0.2, damping * 5.0), 1e-10, 1e12),
        small | exact,
    )


def _second_derivative(function: Callable[[Array], Array], at: Array, direction: Array) -> Array:
    def first(theta: Array) -> Array:
        return jax.jvp(function, (theta,), (direction,))[1]

    return jax.jvp(first, (at,), (direction,))[1]


def _queue(
    law: Law,
    objective: Objective,
    lanes: int,
    problem: _Problem,
    starts: Array,
    owner: Array,
    count: Array,
    iterations: Array,
    tolerance: Array,
) -> tuple[Array, Array, Array]:
    """The first `count` fits of one device's share: theta (F, P), objective (F,), converged (F,)."""
    fits, p = starts.shape
    step = jax.vmap(partial(_step, law, objective, problem.inputs, tolerance))

    def load(index: Array) -> Array:
        at = jnp.minimum(index, fits - 1)
        return jnp.clip(starts[at], problem.lower[owner[at]], problem.upper[owner[at]])

    def body(carry: Any) -> Any:
        lane, queued, out = carry
        mine = owner[jnp.minimum(lane.fit, fits - 1)]
        numbers = (problem.target[mine], problem.weight[mine], problem.lower[mine], problem.upper[mine])
        new = step(lane.theta, lane.damping, *numbers)
        iteration = lane.iteration + 1
        ended = (new.converged | (iteration >= iterations) | (new.damping >= 1e12)) & (lane.fit < fits)
        row = jnp.where(ended, lane.fit, fits)
        results = (new.theta, new.value, new.converged)
        out = tuple(column.at[row].set(value) for column, value in zip(out, results, strict=True))
        taken = queued + jnp.cumsum(ended) - 1
        fit = jnp.where(ended, jnp.where(taken < count, taken, fits), lane.fit)
        lane = _Lane(
            fit,
            jnp.where(ended[:, None], load(fit), new.theta),
            jnp.where(ended, 1e-2, new.damping),
            jnp.where(ended, 0, iteration),
        )
        return lane, queued + jnp.sum(ended), out

    first = jnp.where(jnp.arange(lanes) < count, jnp.arange(lanes), fits)
    lane = _Lane(first, load(first), jnp.full(lanes, 1e-2), jnp.zeros(lanes, jnp.int64))
    out = (jnp.zeros((fits + 1, p)), jnp.full(fits + 1, jnp.inf), jnp.zeros(fits + 1, bool))
    ended = jax.lax.while_loop(lambda c: jnp.any(c[0].fit < fits), body, (lane, jnp.asarray(lanes), out))
    theta, value, converged = ended[2]
    return theta[:fits], value[:fits], converged[:fits]


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _solve(
    law: Law,
    objective: Objective,
    lanes: int,
    mesh: Mesh,
    problem: _Problem,
    starts: Array,
    owner: Array,
    count: Array,
    iterations: Array,
    tolerance: Array,
) -> tuple[Array, Array, Array]:
    split, whole = PartitionSpec("fits"), PartitionSpec()
    specs = (whole, split, split, whole, whole, whole)
    shared = jax.shard_map(
        partial(_queue, law, objective, lanes), mesh=mesh, in_specs=specs, out_specs=split, check_vma=False
    )
    return shared(problem, starts, owner, count, iterations, tolerance)


def solve(
    law: Law,
    objective: Objective,
    inputs: Mapping[str, np.ndarray],
    target: np.ndarray,
    weight: np.ndarray,
    starts: np.ndarray,
    *,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Solution:
    """Minimise the objective for B data sets from S starts each, in one program.

    inputs: the law's features, shared. target: (B, n), the (log) losses. weight: (B, n), 0 leaves a point out (so folds
    and resamples are weights). starts: (B, S, P) internal coordinates. bounds: lower and upper (B, P), the law's own by
    default; equal bounds hold a coordinate. A fit has converged when its next step promises less than `tolerance` of its
    objective.
    """
    (sets, each, p), n = starts.shape, target.shape[1]
    lower, upper = bounds or tuple(np.broadcast_to(b, (sets, p)) for b in law.bounds())
    fits = sets * each
    devices = jax.local_devices(backend="cpu")[: max(1, fits // LANES)]
    share = -(-fits // len(devices))
    room = _size(share)
    order = np.full((len(devices), room), fits)
    order[:, :share] = np.arange(share * len(devices)).reshape(share, len(devices)).T  # interleaved: shares cost alike
    order = np.minimum(order.ravel(), fits)
    taken = np.minimum(order, fits - 1)
    with _double():
        problem = _Problem(
            _roomy(inputs),
            _padded(_padded(target.T, _size(n)).T, _size(sets)),
            _padded(np.pad(_float64(weight), ((0, 0), (0, _size(n) - n))), _size(sets)),
            _padded(lower, _size(sets)),
            _padded(upper, _size(sets)),
        )
        theta, value, converged = _solve(
            law,
            objective,
            min(LANES, room),
            Mesh(np.array(devices), ("fits",)),
            problem,
            _float64(starts.reshape(fits, p)[taken]),
            np.repeat(np.arange(sets), each)[taken],
            np.asarray(share),
            np.asarray(iterations),
            _float64(tolerance),
        )
    kept = order < fits
    back = np.argsort(order[kept])
    found = tuple(np.asarray(column)[kept][back] for column in (theta, value, converged))
    return Solution(found[0].reshape(sets, each, p), found[1].reshape(sets, each), found[2].reshape(sets, each))


def _size(count: int) -> int:
    """Room for `count`: sizes come in steps, so that similar tables and batches share one compiled program."""
    return max(8, 1 << (count - 1).bit_length()) if count <= 256 else -(-count // 256) * 256


def _padded(array: np.ndarray, room: int) -> np.ndarray:
    """The first axis filled up to `room` with copies of its first entry."""
    array = np.asarray(array, np.float64)
    return np.concatenate([array, np.broadcast_to(array[:1], (room - array.shape[0], *array.shape[1:]))])


def _points(inputs: Mapping[str, np.ndarray]) -> int:
    return int(next(iter(inputs.values())).shape[0])


def _roomy(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features of n points, filled up to the next size with copies of the first point."""
    return {name: _padded(value, _size(_points(inputs))) for name, value in inputs.items()}


@contextmanager
def _double() -> Iterator[None]:
    """Double precision, on the CPU whatever else trains there."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def _float64(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)


@partial(jax.jit, static_argnums=(0, 1))
def _predict(law: Law, objective: Objective, inputs: Mapping[str, Array], theta: Array) -> Array:
    return jax.lax.map(lambda t: model(law, objective, t, inputs), theta, batch_size=64)


@partial(jax.jit, static_argnums=(0, 1))
def _jacobian(law: Law, objective: Objective, inputs: Mapping[str, Array], theta: Array) -> Array:
    return jax.jacfwd(lambda t: model(law, objective, t, inputs))(theta)


def predict(law: Law, objective: Objective, inputs: Mapping[str, np.ndarray], theta: np.ndarray) -> np.ndarray:
    """Model values (B, n) in the objective's space, for theta (B, P)."""
    with _double():
        found = _predict(law, objective, _roomy(inputs), _padded(theta, _size(theta.shape[0])))
        return np.asarray(found)[: theta.shape[0], : _points(inputs)]


def jacobian(law: Law, objective: Objective, inputs: Mapping[str, np.ndarray], theta: np.ndarray) -> np.ndarray:
    """Derivative (n, P) of the model values in the objective's space by theta (P,)."""
    with _double():
        return np.asarray(_jacobian(law, objective, _roomy(inputs), _float64(theta)))[: _points(inputs)]
