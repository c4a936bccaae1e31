r"""Data and corpora on the command line, as Hydra's grammar can read them: quoted, wherever the shell has taken the quotes.

workload.data=path:a.en,b.de                               one value: 'path:a.en,b.de'
workload.data=shapes:turn=180,clutter=4                    one value
workload.corpus=stdlib,zipf_markov                         two, a sweep's
workload.corpus=zipf_markov:seed=1,zipf_markov:seed=2      two
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_KEYS = ("workload.data", "workload.corpus")
_HYDRAS = re.compile(r"""['"]|null$|\$\{|\w+\(.*\)$|$""")  # quoted already, no value, an interpolation or a function
_NAME = re.compile(r"[a-z_]{2,}:")


def with_quotes(overrides: Sequence[str]) -> list[str]:
    """The overrides with the values of workload.data and workload.corpus quoted; others stay as they are."""
    return [_with_quotes(word) for word in overrides]


def quoted(value: str) -> str:
    r"""A string of Hydra's grammar, in which a backslash counts as one but before a quote: there two do."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value) + "'"


def _with_quotes(word: str) -> str:
    key, _, value = word.partition("=")
    if key.lstrip("+") not in _KEYS or _HYDRAS.match(value):
        return word
    return f"{key}={','.join(quoted(one) for one in _values(value))}"


def _values(written: str) -> list[str]:
    """What a sweep takes one after the other: a comma in a path, or before a setting of what has a name, ends no value."""
    values: list[str] = []
    for piece in written.split(","):
        last = values[-1] if values else ""
        goes_on = last.startswith("path:") or (_NAME.match(last) and "=" in piece)
        if goes_on and not _NAME.match(piece):
            values[-1] += f",{piece}"
        else:
            values.append(piece.strip())
    return values
