"""Arithmetic on columns: + - * / **, numbers, log, exp, sqrt, names and `names in backticks`. Nothing else, and no eval."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.records.text import printable
from workloads.base import BadInput

Operation = Callable[..., Any]

_BACKTICKS = re.compile(r"`([^`]+)`")
_PLACEHOLDER = "backticked_"
_FUNCTIONS: dict[str, Operation] = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt}
_OPERATORS: dict[type[ast.AST], Operation] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.UAdd: np.positive,
    ast.USub: np.negative,
}
_LONGEST = 1000  # characters
_ALLOWED = "it may hold + - * / **, numbers, log, exp, sqrt, column names, and `other column names` in backticks"


class Expression:
    """A parsed expression. `names`: the columns it uses, in order. Raises BadInput if it is not arithmetic."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self._quoted: list[str] = []
        try:
            self._root: Operation = self._compile(_parse(_BACKTICKS.sub(self._placeholder, text)))
        except RecursionError:
            raise BadInput(f"the expression '{printable(text)[:60]}…' is nested too deeply") from None

    def __call__(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Its value, from (n,) float64 columns: (n,), or () if it uses no column. What is undefined is NaN or inf."""
        with np.errstate(all="ignore"):
            return np.asarray(self._root(columns), np.float64)

    def _placeholder(self, match: re.Match[str]) -> str:
        self._quoted.append(match[1])
        return f" {_PLACEHOLDER}{len(self._quoted) - 1} "

    def _compile(self, node: ast.AST) -> Operation:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _applied(_OPERATORS[type(node.op)], self._compile(node.left), self._compile(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            return _applied(_OPERATORS[type(node.op)], self._compile(node.operand))
        if isinstance(node, ast.Call) and not node.keywords and len(node.args) == 1:
            function = node.func.id if isinstance(node.func, ast.Name) else ""
            if function in _FUNCTIONS:
                return _applied(_FUNCTIONS[function], self._compile(node.args[0]))
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and type(node.value) is not bool:
            return _constant(node.value)
        name = self._name(node)
        if name is None:
            power = "; powers are written **" if "^" in self.text else ""
            raise BadInput(f"'{printable(self.text)}' cannot be used as an expression of columns: {_ALLOWED}{power}")
        self.names.append(name)
        return lambda columns: columns[name]

    def _name(self, node: ast.AST) -> str | None:
        """`a`, the dotted `a.b.c`, or what a backticked placeholder stands for."""
        if isinstance(node, ast.Attribute):
            owner = self._name(node.value)
            return None if owner is None else f"{owner}.{node.attr}"
        if not isinstance(node, ast.Name):
            return None
        index = node.id.removeprefix(_PLACEHOLDER)
        if index != node.id and index.isdecimal() and int(index) < len(self._quoted):
            return self._quoted[int(index)]
        return node.id


def _parse(text: str) -> ast.AST:
    if len(text) > _LONGEST:
        raise BadInput(f"an expression of columns may have {_LONGEST} characters, this one has {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError):
        raise BadInput(f"'{printable(text)}' is neither a column nor arithmetic: {_ALLOWED}") from None


def _applied(function: Operation, *arguments: Operation) -> Operation:
    return lambda columns: function(*(argument(columns) for argument in arguments))


def _constant(value: float) -> Operation:
    try:
        number = np.float64(value)  # as floats, towers of powers overflow instead of running for ever
    except OverflowError:
        number = np.float64(np.inf)
    return lambda columns: number
