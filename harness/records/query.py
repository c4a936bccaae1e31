"""SQL conditions over a trials table: DuckDB in memory, locked away from files, with short names for columns.

A condition may use a column's quoted name ("workload.width"), its dotted name unquoted (workload.width), or its last
component where only one column has it (width).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.records.text import printable, unknown_column
from workloads.base import BadInput

_TOKEN = re.compile(
    r"""(?P<skip> '(?:[^']|'')*' | --[^\n]* | /\*.*?\*/ | (?P<dollar>\$\w*\$).*?(?P=dollar) )
      | (?P<quoted> "(?:[^"]|"")*" )
      | (?P<name> [A-Za-z_]\w*(?:\.[A-Za-z_]\w*)* )""",
    re.VERBOSE | re.DOTALL,
)
_NOT_FOUND = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
_KEYWORDS = frozenset("and or not in is null true false like between case when then else end".split())  # noqa: SIM905
_POSITION = "__position"


class Names:
    """How columns may be called: in full, or by a last component that only one column has."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        last = Counter(name.rpartition(".")[2] for name in columns)
        short = {name.rpartition(".")[2]: name for name in columns if last[name.rpartition(".")[2]] == 1}
        self._full = {name.lower(): column for name, column in [*short.items(), *((name, name) for name in columns)]}
        self._short = {column: name for name, column in short.items()}

    def find(self, word: str) -> str | None:
        return self._full.get(word.lower())

    def resolve(self, word: str) -> str:
        """The column called `word`. Raises BadInput with the nearest names."""
        column = self.find(word.strip().strip('"'))
        if column is None:
            raise unknown_column(word, self.valid)
        return column

    def short(self, column: str) -> str:
        return self._short.get(column, column)

    @property
    def valid(self) -> list[str]:
        """What to call each column, in short."""
        return [self.short(column) for column in self.columns]

    def rewrite(self, sql: str) -> tuple[str, set[str]]:
        """`sql` with every known name quoted in full, and the columns that it uses."""
        used: set[str] = set()

        def quote(match: re.Match[str]) -> str:
            text = match.group()
            if match["skip"]:
                return text
            word = text[1:-1].replace('""', '"') if match["quoted"] else text
            column = None if match["name"] and word.lower() in _KEYWORDS else self.find(word)
            if column is None:
                return text
            used.add(column)
            return _quote(column)

        return _TOKEN.sub(quote, sql), used

    def columns_of(self, sql: str | None) -> set[str]:
        return self.rewrite(sql)[1] if sql else set()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def select(
    table: pa.Table, names: Names, where: str | None = None, sort: str | None = None, descending: bool = False
) -> np.ndarray:
    """Positions of the rows that meet `where`, in the order of `sort` (columns or one expression; NaN and null last).

    The table needs only the columns that both use. Raises BadInput on bad SQL, naming the nearest columns.
    """
    keys = [names.find(word.strip().strip('"')) for word in sort.split(",")] if sort else []
    if not where and all(keys):
        order = "descending" if descending else "ascending"
        if not keys:
            return np.arange(table.num_rows)
        indices = pc.sort_indices(table, sort_keys=[(str(key), order, "at_end") for key in keys])
        return np.asarray(indices, np.int64)
    return _run(table, _statement(table, names, where, sort, keys, descending), names)


def _statement(
    table: pa.Table, names: Names, where: str | None, sort: str | None, keys: Sequence[str | None], descending: bool
) -> str:
    direction = "DESC" if descending else "ASC"
    order: list[str] = []
    for key in keys if all(keys) else [None]:
        if key is None:
            order += [f"({names.rewrite(sort)[0]}\n) {direction} NULLS LAST"] if sort else []
            continue
        quoted = _quote(key)
        order.append(f"{quoted} IS NULL")
        if pa.types.is_floating(table.schema.field(key).type):
            order.append(f"isnan({quoted})")
        order.append(f"{quoted} {direction}")
    condition = f"WHERE ({names.rewrite(where)[0]}\n)" if where else ""
    return f"SELECT {_POSITION} FROM trials {condition} ORDER BY {', '.join([*order, _POSITION])}"


def _run(table: pa.Table, sql: str, names: Names) -> np.ndarray:
    import duckdb  # a tenth of a second to import, and plain listings do without

    table = _plain(table).append_column(_POSITION, pa.array(np.arange(table.num_rows)))
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    try:
        connection.register("trials", table)
        connection.execute("SET lock_configuration = true")
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise BadInput("where and sort take one SQL expression each, without ';'")
        positions = connection.execute(statements[0]).fetchnumpy()[_POSITION]
    except duckdb.Error as error:
        raise _explained(str(error), sql, names) from None
    finally:
        connection.close()
    if np.ma.is_masked(positions) or positions.dtype.kind != "i" or not np.isin(positions, np.arange(len(table))).all():
        raise BadInput("where must be one SQL condition, not the end of one statement and the start of another")
    return np.asarray(positions, np.int64)


def _plain(table: pa.Table) -> pa.Table:
    """Columns that are null throughout compare as numbers."""
    for index, field in enumerate(table.schema):
        if pa.types.is_null(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.float64()))
    return table


def _explained(message: str, sql: str, names: Names) -> BadInput:
    """Our names where the statement misses a column, else DuckDB's first sentence."""
    dotted = [match["name"] for match in _TOKEN.finditer(sql) if match["name"] and "." in match["name"]]
    for word in dotted:
        if not word.startswith("trials."):
            return unknown_column(word, names.columns)
    unknown = _NOT_FOUND.search(message)
    if unknown is not None:
        return unknown_column(unknown[1] or unknown[2], names.valid)
    first = printable(message.splitlines()[0].removesuffix("."))
    return BadInput(f"where or sort cannot be used as SQL here: {first}. Text goes in single quotes: status='ok'")
