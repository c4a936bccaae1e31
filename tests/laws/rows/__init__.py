"""The laws' test matrix: one row a law, one module a family. A row buys every test of test_laws.py."""

from __future__ import annotations

import importlib
import pkgutil

from tests.laws.rows.row import Row

ROWS: dict[str, Row] = {}
for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    _rows = getattr(importlib.import_module(_module.name), "ROWS", {})
    assert not set(_rows) & set(ROWS), f"{_module.name} repeats a row"
    ROWS |= _rows
