"""FLOPs of an optimizer's own work in a step, counted in its jaxpr, where the length of a loop is known.

XLA's cost analysis counts a loop's body once and a LAPACK call not at all, and optimizers that orthogonalise or invert matrices
do their work in these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from harness.optimizers.base import Optimizer, apply_update
from workloads.base import Params

Shape = Sequence[int]


def update_flops(optimizer: Optimizer, params: Params) -> float:
    """FLOPs of one update of `params` (arrays or their shapes).

    Of branches (what is done every k steps only, say) the dearest counts, so this is an upper bound; a loop that runs until it
    is done counts one pass.
    """
    rate = jax.ShapeDtypeStruct((), np.float32)
    state = jax.eval_shape(lambda rate, params: optimizer.build(rate).init(params), rate, params)
    ones = jax.tree.map(lambda leaf: 1.0, params)

    def update(rate: Any, grads: Any, state: Any, params: Any) -> Any:
        return apply_update(optimizer, rate, grads, state, params, rate, ones, ones, ones)

    return _flops(jax.make_jaxpr(update)(rate, params, state, params).jaxpr)


def _flops(program: Jaxpr) -> float:
    return sum(_of(equation) for equation in program.eqns)


def _of(equation: JaxprEqn) -> float:
    name, inner = equation.primitive.name, [_flops(program) for program in _programs(equation.params)]
    if name == "scan":
        return sum(inner) * float(equation.params["length"])
    if inner:
        return max(inner) if name == "cond" else sum(inner)
    inputs = [v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")]
    outputs = [v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape")]
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * math.prod(outputs[0]) * math.prod(inputs[0][axis] for axis in contracted)
    if name in _FACTORIZATIONS and inputs and len(inputs[0]) >= 2:
        *batch, m, n = inputs[0]
        return math.prod(batch) * _FACTORIZATIONS[name](max(m, n), min(m, n))
    if name == "triangular_solve":
        return float(math.prod(outputs[0]) * inputs[0][-1])
    return 0.0 if name in _MOVES else float(max([*map(math.prod, inputs), *map(math.prod, outputs)], default=0))


# Of an m x n matrix, m >= n: Golub and Van Loan, "Matrix Computations", 4th edition, sections 4.2, 5.2, 8.3 and 8.6.
_FACTORIZATIONS: dict[str, Callable[[int, int], float]] = {
    "cholesky": lambda m, n: n**3 / 3,
    "lu": lambda m, n: 2 * n**3 / 3,
    "eigh": lambda m, n: 9.0 * n**3,
    "svd": lambda m, n: 4.0 * m**2 * n + 22.0 * n**3,
    "geqrf": lambda m, n: 2.0 * n**2 * (m - n / 3),
    "householder_product": lambda m, n: 2.0 * n**2 * (m - n / 3),
    "qr": lambda m, n: 4.0 * n**2 * (m - n / 3),
}
_MOVES = frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "copy",
        "copy_p",
        "device_put",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "iota",
        "pad",
        "reshape",
        "rev",
        "select_n",
        "slice",
        "split",
        "squeeze",
        "stop_gradient",
        "transpose",
    }
)


def _programs(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an equation runs."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
