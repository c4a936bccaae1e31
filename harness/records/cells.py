"""Cells of a table as numbers: plain ones, thousands separators ("1,234,567") and unit suffixes ("70M", "1.4B").

Nothing ambiguous becomes a number. "2,345" may be 2345 or 2.345: it counts as 2345 only where the table writes decimals
with a point, or the column has a cell that can be nothing but grouped digits ("1,234,567", "1,234.5").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_MISSING_WORDS = ("", "-", "na", "n/a", "#n/a", "null", "none", "nan")
_MISSING = {form: "nan" for word in _MISSING_WORDS for form in (word, word.upper(), word.capitalize())}
_EXPONENTS = {"k": 3, "K": 3, "M": 6, "B": 9, "G": 9, "T": 12}
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?")
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_LONGEST = 100  # characters; no number is longer, and text may be


def plain_numbers(cells: Iterable[Any]) -> np.ndarray | None:
    """(n,) float64 if every cell is a number as Python writes it or missing (NaN), else None."""
    get = _MISSING.get
    try:
        return np.array([float(get(cell, cell)) for cell in cells], np.float64)
    except (ValueError, OverflowError):
        return None


def written_numbers(cells: Sequence[Any], point: bool) -> tuple[np.ndarray, str] | None:
    """(n,) float64 and a note that says what was converted, or None if some cell is no number.

    point: whether the table is known to write decimals with a point.
    """
    try:
        distinct = {cell: _number(cell) for cell in dict.fromkeys(cells)}
    except ValueError:
        return None
    if next(_faults(list(distinct), _decided(distinct, point)), None) is not None:
        return None
    values = np.array([distinct[cell] for cell in cells], np.float64)
    return values, _note(cells, values)


def has_fractions(columns: Iterable[np.ndarray]) -> bool:
    """Whether some numeric column holds a number that is not whole, so that the table's decimal point is a point."""
    for values in columns:
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            if np.any(finite != np.floor(finite)):
                return True
    return False


def first_fault(cells: Sequence[Any], point: bool) -> tuple[int, str]:
    """Index of the first cell that is no number, and a sentence that names the fix. Some cell must be one."""
    return next(_faults(cells, _decided(cells, point)))


def _number(cell: Any) -> float:
    text = str(cell).strip()
    if text.lower() in _MISSING:
        return float("nan")
    exponent = _EXPONENTS.get(text[-1:], 0)
    body = text[:-1].rstrip() if exponent else text
    if len(text) > _LONGEST or (exponent and not (body and body[-1] in "0123456789.")):
        raise ValueError(text)
    if "," in body:
        if not _GROUPED.fullmatch(body):
            raise ValueError(text)
        body = body.replace(",", "")
    if exponent and "e" not in body.lower():
        return float(f"{body}e{exponent}")  # rounds once
    return float(body) * 10.0**exponent


def _faults(cells: Sequence[Any], grouped: bool) -> Iterator[tuple[int, str]]:
    for index, cell in enumerate(cells):
        try:
            _number(cell)
        except ValueError:
            yield index, _fix(str(cell).strip())
        else:
            if not grouped and isinstance(cell, str) and _ONE_GROUP.fullmatch(_without_unit(cell)):
                yield (
                    index,
                    (
                        f"may mean {_number(cell):g} or a decimal comma, and nothing else in the table tells which: write "
                        "it without the comma, or with a decimal point"
                    ),
                )


def _decided(cells: Iterable[Any], point: bool) -> bool:
    """Whether a single group of digits after a comma may count as thousands in this column."""
    if point:
        return True
    bodies = [_without_unit(cell) for cell in cells if isinstance(cell, str) and "," in cell]
    return any(_GROUPED.fullmatch(body) and not _ONE_GROUP.fullmatch(body) for body in bodies)


def _without_unit(cell: str) -> str:
    text = cell.strip()
    return text[:-1].rstrip() if text[-1:] in _EXPONENTS else text


_FIXES: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile(r"[+-]?\d*,\d+\s?[kKMBGT]?"), lambda text: f"has a decimal comma: write {text.replace(',', '.')}"),
    (re.compile(r"[+-]?[\d.,]+\s?%"), lambda text: "is a percentage: write the fraction (45% is 0.45), in every row"),
    (
        re.compile(r"[+-]?[\d.,]+\s?[mbgt]"),
        lambda text: f"has a unit in lower case: write {text.upper()} (K, M, B or G, T), or the plain number",
    ),
    (
        re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?\s?[A-Za-z].*", re.DOTALL),
        lambda text: "has a unit that is not one of K, M, B, G, T: write the plain number",
    ),
)


def _fix(text: str) -> str:
    for pattern, sentence in _FIXES:
        if len(text) <= _LONGEST and pattern.fullmatch(text):
            return sentence(text)
    return "is not a number: correct it, leave the cell empty, or leave such rows out with where=…"


def _note(cells: Sequence[Any], values: np.ndarray) -> str:
    texts = [str(cell).strip() for cell in cells]
    united = next((i for i, text in enumerate(texts) if text[-1:] in _EXPONENTS), None)
    comma = next((i for i, text in enumerate(texts) if "," in text), None)
    parts = []
    if united is not None:
        parts.append(f"units ({texts[united]} = {_short(values[united])})")
        bare = (i for i, text in enumerate(texts) if text[-1:] not in _EXPONENTS and np.isfinite(values[i]))
        example = next(bare, None)
        if example is not None:
            parts.append(f"cells without a unit ({texts[example]}), which were taken as they are")
    if comma is not None:
        parts.append(f"thousands separators ({texts[comma]} = {_short(values[comma])})")
    return " and ".join(parts)


def _short(value: float) -> str:
    text = f"{value:.10g}" if abs(value) < 1e7 else f"{value:.6e}"
    digits, e, power = text.partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}" if e else text
