"""Does a model normalise before every nonlinearity?  Told from its jaxpr, without evaluating anything.  Own.

Every value carries the powers of the matrices' scales it is proportional to: x @ W has W^1, its mean square W^2, so that
x @ W / rms(x @ W) has none. A sum of values with different powers (a residual stream) begins a scale of its own.
A nonlinearity is normalised for if its argument has no powers left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from workloads.base import Array, BadInput, Params

_TINY = 1e-3  # added constants up to this size are a normalisation's epsilon
_SUM = " in sum "  # between the names of the matrices and the number of the sum, in a scale that a sum began
_KEEP = {  # the scale of the first operand
    *(
        "reshape",
        "transpose",
        "broadcast_in_dim",
        "convert_element_type",
        "squeeze",
        "expand_dims",
        "slice",
        "rev",
        "copy",
    ),
    *("dynamic_slice", "gather", "pad", "neg", "reduce_sum", "cumsum", "reduce_max", "reduce_min", "reduce_window_sum"),
    *("reduce_window_max", "reduce_window", "reduce_precision", "sharding_constraint", "stop_gradient", "split"),
}
_JOIN = {"add", "sub", "add_any", "concatenate", "stack", "dynamic_update_slice"}
_MULTIPLY = {"mul", "dot_general", "conv_general_dilated"}
_POWER = {"square": Fraction(2), "sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2)}


class _Scale(NamedTuple):
    """powers: of each scale the value is proportional to. negligible: a constant of at most _TINY. output: of output_scale."""

    powers: frozenset[tuple[str, Fraction]] = frozenset()
    negligible: bool = False
    output: bool = False


_NONE = _Scale()
_EPSILON = _Scale(negligible=True)
_OUTPUT = _Scale(output=True)


def refuse_unnormalised(loss: Callable[[Params, Array], Array], params: Params) -> None:
    """Raise BadInput, naming the nonlinearity and the matrices, unless the model normalises before every nonlinearity.

    loss(params, output_scale): any function of the model's outputs times output_scale; that product is where the model
    ends, so that a loss's own softmax does not count. params: arrays or their shapes; a leaf with two axes or more is
    a matrix. Attention's softmax is a nonlinearity: it needs normalised queries and keys.
    Any division of a value by its own size counts as a normalisation; a primitive that is unknown here as a nonlinearity.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    closed = jax.make_jaxpr(loss)(shapes, jax.ShapeDtypeStruct((), np.float32))
    arguments = [
        _Scale(frozenset({(jax.tree_util.keystr(path, simple=True, separator="/"), Fraction(1))}))
        if len(leaf.shape) >= 2
        else _NONE
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    ]
    _Reader().read(closed, [*arguments, _OUTPUT])


@dataclass
class _Reader:
    """Carries the scales through a program; `sums` counts the scales that sums have begun."""

    sums: int = 0

    def read(self, program: ClosedJaxpr | Jaxpr, arguments: Sequence[_Scale]) -> list[_Scale]:
        jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        known = dict(zip(jaxpr.invars, arguments, strict=True))
        if isinstance(program, ClosedJaxpr):
            known |= {v: _of_constant(c) for v, c in zip(jaxpr.constvars, program.consts, strict=True)}

        def scale(atom: Any) -> _Scale:
            return _of_constant(atom.val) if isinstance(atom, Literal) else known.get(atom, _NONE)

        for equation in jaxpr.eqns:
            outputs = self._apply(equation, [scale(v) for v in equation.invars])
            known |= dict(zip(equation.outvars, outputs, strict=True))
        return [scale(v) for v in jaxpr.outvars]

    def _apply(self, equation: Any, operands: list[_Scale]) -> list[_Scale]:
        name, parameters, count = equation.primitive.name, equation.params, len(equation.outvars)
        if name == "optimization_barrier":
            return operands
        if name == "scan":
            return self._scan(parameters, operands)
        if name == "while":
            return self._while(parameters, operands)
        if name == "cond":
            branches = [self.read(branch, operands[1:]) for branch in parameters["branches"]]
            return [self._join(outputs) for outputs in zip(*branches, strict=True)]
        inner = next(_programs(parameters), None)
        if inner is not None:
            return self.read(inner, operands)
        return [self._elementary(name, parameters, operands)] * count

    def _elementary(self, name: str, parameters: Any, operands: list[_Scale]) -> _Scale:
        if name in _KEEP:
            return operands[0]
        if name in _JOIN:
            return self._join(operands)
        if name == "select_n" and not operands[0].powers:
            return self._join(operands[1:])
        if name in _MULTIPLY:
            return _product(operands[0], operands[1], Fraction(1))
        if name == "div":
            return _product(operands[0], operands[1], Fraction(-1))
        if name == "integer_pow":
            return _raised(operands[0], Fraction(parameters["y"]))
        if name in _POWER:
            return _raised(operands[0], _POWER[name])
        if name == "max" and any(o.negligible for o in operands):
            bounded = self._join(operands)  # a variance kept from rounding below 0 or an epsilon
            if all(power % 2 == 0 for _, power in bounded.powers):
                return bounded
        return _bounded(name, operands)

    def _join(self, operands: Sequence[_Scale]) -> _Scale:
        """Of a sum: what the terms share, or a new scale."""
        terms = [o for o in operands if not o.negligible]
        if not terms:
            return _EPSILON
        if all(term.powers == terms[0].powers for term in terms):
            return _Scale(terms[0].powers)
        self.sums += 1
        names = sorted({_matrices(name) for term in terms for name, _ in term.powers})
        return _Scale(frozenset({(f"{', '.join(names)}{_SUM}{self.sums}", Fraction(1))}))

    def _scan(self, parameters: Any, operands: list[_Scale]) -> list[_Scale]:
        if "ft_in" in parameters:  # jax >= 0.12: flattened constants, carry and inputs
            consts, carried = (len(list(part.vals)) for part in parameters["ft_in"].elts[:2])
        else:
            consts, carried = parameters["num_consts"], parameters["num_carry"]
        before, carry, rest = operands[:consts], operands[consts : consts + carried], operands[consts + carried :]
        carry = self._settled(lambda carry: self.read(parameters["jaxpr"], [*before, *carry, *rest])[:carried], carry)
        return [*carry, *self.read(parameters["jaxpr"], [*before, *carry, *rest])[carried:]]

    def _while(self, parameters: Any, operands: list[_Scale]) -> list[_Scale]:
        first, second = parameters["cond_nconsts"], parameters["body_nconsts"]
        consts = operands[first : first + second]
        body = parameters["body_jaxpr"]
        carry = self._settled(lambda carry: self.read(body, [*consts, *carry]), operands[first + second :])
        self.read(body, [*consts, *carry])
        return carry

    def _settled(self, body: Callable[[list[_Scale]], list[_Scale]], carry: list[_Scale]) -> list[_Scale]:
        """A carry whose scale the loop's body changes has one of its own; callers read the body again with it."""
        return [self._join([old, new]) for old, new in zip(carry, body(carry), strict=True)]


def _programs(parameters: Any) -> Iterator[ClosedJaxpr | Jaxpr]:
    """The program that a call-like primitive (jit, custom_jvp_call, custom_vjp_call, checkpoint) runs forwards."""
    return (p for p in parameters.values() if isinstance(p, ClosedJaxpr | Jaxpr))


def _of_constant(value: Any) -> _Scale:
    if jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
        return _NONE
    array = np.asarray(value)
    tiny = array.size > 0 and array.dtype.kind in "fiu" and float(np.abs(array).max()) <= _TINY
    return _EPSILON if tiny else _NONE


def _product(a: _Scale, b: _Scale, sign: Fraction) -> _Scale:
    """Of a b^sign. A product with output_scale ends the model; what the loss does with it is no nonlinearity of the model."""
    if a.output or b.output:
        return _NONE if a.powers or b.powers else _OUTPUT
    powers = dict(a.powers)
    for name, power in b.powers:
        powers[name] = powers.get(name, Fraction(0)) + sign * power
    return _Scale(frozenset((n, p) for n, p in powers.items() if p), negligible=a.negligible and b.negligible)


def _raised(a: _Scale, power: Fraction) -> _Scale:
    return _Scale(frozenset((n, p * power) for n, p in a.powers if power))


def _matrices(scale: str) -> str:
    return scale.split(_SUM)[0]


def _bounded(name: str, operands: Sequence[_Scale]) -> _Scale:
    """Of a nonlinearity, which must find no powers."""
    matrices = sorted({_matrices(scale) for operand in operands for scale, _ in operand.powers})
    if matrices:
        raise BadInput(
            f"normalize_and_project needs a model that normalises before every nonlinearity; in this one '{name}' is applied "
            f"to values that grow with {matrices[0]}. Turn on the model's normalisations (such as "
            f"workload.qk_norm=true and workload.hidden_norm=true), or train without projection"
        )
    return _NONE
