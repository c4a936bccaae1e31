"""Numbers and names as a reader wants them, and hostile text made harmless to look at."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from itertools import islice
from typing import Any

from markupsafe import Markup

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_VISIBLE = "\n\t"
MISSING = "–"
LONGEST = 20_000
MOST_LEAVES = 200


def number(value: Any) -> float | None:
    """`value` as a finite float, or None: records may hold anything."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def clean(value: Any) -> str:
    """Text whose control, direction-changing and unpaired characters are written out as escapes, cut at 20,000."""
    text = value if isinstance(value, str) else plain(value) if isinstance(value, (dict, list, tuple)) else str(value)
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"
    return "".join(c if _harmless(c) else f"\\u{ord(c):04x}" for c in cut)


def _harmless(character: str) -> bool:
    if character in _VISIBLE:
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def short(value: Any, length: int = 24) -> str:
    """One line of at most `length` characters."""
    text = " ".join(clean(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def finalize(value: Any) -> Any:
    """What the template shows of a value before it is escaped."""
    return value if isinstance(value, Markup) else clean("" if value is None else value)


def power_of_two(exponent: float) -> str:
    """-7 -> 2⁻⁷; between the octaves as a decimal, -7.5 -> 0.00552."""
    octave = round(exponent)
    if abs(exponent - octave) > 1e-6:
        return quantity(2.0**exponent)
    return "2" + str(octave).translate(_SUPERSCRIPT)


def learning_rate(value: Any) -> str:
    """0.0078125 -> 2⁻⁷; 0.003 -> 0.003."""
    found = number(value)
    return power_of_two(math.log2(found)) if found is not None and found > 0 else MISSING


def quantity(value: Any, digits: int = 3) -> str:
    """1.23e13 -> 1.23 × 10¹³; numbers from 0.001 to a million as they are."""
    found = number(value)
    if found is None:
        return MISSING
    if found == 0 or 1e-4 <= abs(found) < 1e6:
        return f"{found:,.{digits}g}" if abs(found) < 1000 else f"{found:,.0f}"
    mantissa, _, exponent = f"{found:.{digits - 1}e}".partition("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def loss(value: Any) -> str:
    """Four decimals: seeds differ in the third."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:.4f}" if 1e-2 <= abs(found) < 1e4 else quantity(found, 4)


def signed(value: Any) -> str:
    found = number(value)
    return MISSING if found is None else f"{found:+.3f}".replace("-", "−")


def interval(pair: Any, show: Any = signed) -> str:
    """[low, high] with `show` for the ends."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or all(number(end) is None for end in pair):
        return MISSING
    low, high = ("∞" if number(end) is None else show(end) for end in pair)
    return f"[{'−∞' if low == '∞' else low}, {high}]"


def with_range(value: str, low: str, high: str) -> str:
    """1.57 (95 %: 1.46 to 1.65)."""
    return f"{value} (95 %: {low} to {high})"


def sentence(value: Any) -> str:
    """A recorded sentence with typographic signs."""
    return str(value).replace("+-", "±")


def percent(value: Any) -> str:
    found = number(value)
    return MISSING if found is None else f"{100 * found:.2f} %"


def seconds(value: Any) -> str:
    """Seconds as s, min or h."""
    found = number(value)
    if found is None:
        return MISSING
    if found < 120:
        return f"{found:.1f} s" if found < 10 else f"{found:.0f} s"
    if found < 7200:
        return f"{int(found // 60)} min {int(found % 60):02d} s"
    return f"{int(found // 3600)} h {int(found % 3600 // 60):02d} min"


def plain(value: Any) -> str:
    """A configuration value: numbers short, lists and mappings on one line, at most 200 entries of them."""
    leaves = list(islice(_leaves(value, 0), MOST_LEAVES + 1))
    return ", ".join(leaves[:MOST_LEAVES]) + (", …" if len(leaves) > MOST_LEAVES else "")


def _leaves(value: Any, depth: int) -> Iterator[str]:
    """Lazy and of bounded depth: YAML's aliases make small files into huge or endless values."""
    if depth > 8:
        yield "…"
    elif isinstance(value, dict):
        for key, entry in value.items():
            inner = _leaves(entry, depth + 1)
            yield f"{key}: {next(inner, MISSING)}"
            yield from inner
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _leaves(entry, depth + 1)
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: MISSING}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def key_name(key: str) -> str:
    """workload.width -> width, optimizer.learning_rate -> learning rate."""
    return key.rpartition(".")[2].replace("_", " ")
